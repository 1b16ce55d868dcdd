#include "checks/check.h"

using namespace polylora::check;

pl_status pl_check_scatter_add_rows(const pl_scatter_add_rows_args* args) {
  Check check("scatter_add_rows");
  if (!check.arguments(args)) return check.status();
  check.input("x", args->x, PL_F32, {kAny, kAny}, kLastContiguous);
  check.input("indices", args->indices, PL_I32, {args->x.shape[0]}, kLastContiguous);
  check.output("y", args->y, PL_F32, {kAny, args->x.shape[1]}, kLastContiguous);
  check.disjoint("y", args->y, "x", args->x);
  check.disjoint("y", args->y, "indices", args->indices);
  return check.status();
}
