#include "checks/check.h"

using namespace polylora::check;

pl_status pl_check_log_probability(const pl_log_probability_args* args) {
  Check check("log_probability");
  if (!check.arguments(args)) return check.status();
  check.input("x", args->x, PL_F32, {kAny, kAny}, kLastContiguous);
  check.input("labels", args->labels, PL_I32, {args->x.shape[0]}, kLastContiguous);
  check.output("y", args->y, PL_F32, {args->x.shape[0]}, kLastContiguous);
  check.disjoint("y", args->y, "x", args->x);
  check.disjoint("y", args->y, "labels", args->labels);
  return check.status();
}
