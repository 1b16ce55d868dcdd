#include "checks/check.h"

using namespace polylora::check;

pl_status pl_check_magnitude_scale(const pl_magnitude_scale_args* args) {
  Check check("magnitude_scale");
  if (!check.arguments(args)) return check.status();
  check.input("b", args->b, PL_F32, {kAny, kAny}, kLastContiguous);
  const int64_t n = args->b.shape[0], r = args->b.shape[1];
  check.input("base_norm", args->base_norm, PL_F32, {n}, kLastContiguous);
  check.input("u", args->u, PL_F32, {n, r}, kLastContiguous);
  check.input("magnitude", args->magnitude, PL_F32, {n}, kLastContiguous);
  check.output("norm", args->norm, PL_F32, {n}, kLastContiguous);
  check.output("scale", args->scale, PL_F32, {n}, kLastContiguous);
  const struct {
    const char* field;
    const pl_tensor& tensor;
  } inputs[] = {{"base_norm", args->base_norm},
                {"u", args->u},
                {"b", args->b},
                {"magnitude", args->magnitude}};
  for (const auto& input : inputs) {
    check.disjoint("norm", args->norm, input.field, input.tensor);
    check.disjoint("scale", args->scale, input.field, input.tensor);
  }
  check.disjoint("norm", args->norm, "scale", args->scale);
  return check.status();
}
