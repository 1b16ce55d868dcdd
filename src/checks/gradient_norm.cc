#include "checks/check.h"

using namespace polylora::check;

pl_status pl_check_gradient_norm(const pl_gradient_norm_args* args) {
  Check check("gradient_norm");
  if (!check.arguments(args)) return check.status();
  check.output("result", args->result, PL_F32, {3}, kContiguous);
  check.in_range("max_norm", double(args->max_norm), 0, 3.4028234663852886e38);
  if (check.ok() && args->gradient_count > 0 && !args->gradients)
    check.fail(PL_ARGUMENT, "gradients is missing, gradient_count is %u", args->gradient_count);
  for (uint32_t i = 0; check.ok() && i < args->gradient_count; ++i) {
    check.input_of_any_shape("a gradient", args->gradients[i], {PL_F32}, kContiguous);
    check.disjoint("result", args->result, "a gradient", args->gradients[i]);
  }
  if (check.ok() && given(args->watched)) {
    check.input_of_any_shape("watched", args->watched, {PL_F32}, kContiguous);
    check.disjoint("result", args->result, "watched", args->watched);
  }
  return check.status();
}
