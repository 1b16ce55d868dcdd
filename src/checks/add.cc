#include "checks/check.h"

using namespace polylora::check;

pl_status pl_check_add(const pl_add_args* args) {
  Check check("add");
  if (!check.arguments(args)) return check.status();
  check.input_of_any_shape("a", args->a, {PL_F32});
  check.input_of_any_shape("b", args->b, {PL_F32});
  check.same_shape("b", args->b, "a", args->a);
  check.output_of_any_shape("y", args->y, {PL_F32});
  check.same_shape("y", args->y, "a", args->a);
  check.disjoint_or_same("y", args->y, "a", args->a);
  check.disjoint_or_same("y", args->y, "b", args->b);
  return check.status();
}
