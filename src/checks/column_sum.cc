#include "checks/check.h"

using namespace polylora::check;

pl_status pl_check_column_sum(const pl_column_sum_args* args) {
  Check check("column_sum");
  if (!check.arguments(args)) return check.status();
  check.input("x", args->x, PL_F32, {kAny, kAny}, kLastContiguous);
  check.output("y", args->y, PL_F32, {args->x.shape[1]}, kLastContiguous);
  check.disjoint("y", args->y, "x", args->x);
  return check.status();
}
