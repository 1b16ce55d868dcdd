#include "checks/check.h"

using namespace polylora::check;

pl_status pl_check_quantile(const pl_quantile_args* args) {
  Check check("quantile");
  if (!check.arguments(args)) return check.status();
  check.input_of_any_shape("x", args->x, {PL_F32}, kContiguous);
  if (check.ok()) check.positive("the number of elements of x", element_count(args->x));
  check.in_range("q", args->q, 0, 1);
  check.output("y", args->y, PL_F32, {1});
  check.disjoint("y", args->y, "x", args->x);
  return check.status();
}
