#include "checks/check.h"

using namespace polylora::check;

namespace {

bool is_float(int32_t dtype) { return dtype == PL_F32 || dtype == PL_BF16 || dtype == PL_F16; }

// Among floats; between f32, i32 and u8.
bool convertible(int32_t from, int32_t to) {
  if (from == to || (is_float(from) && is_float(to))) return true;
  const auto exact = [](int32_t dtype) { return dtype == PL_F32 || !is_float(dtype); };
  return exact(from) && exact(to);
}

}  // namespace

pl_status pl_check_copy(const pl_copy_args* args) {
  Check check("copy");
  if (!check.arguments(args)) return check.status();
  check.input_of_any_shape("x", args->x, {PL_F32, PL_BF16, PL_F16, PL_I32, PL_U8});
  check.output_of_any_shape("y", args->y, {PL_F32, PL_BF16, PL_F16, PL_I32, PL_U8});
  check.same_shape("y", args->y, "x", args->x);
  if (check.ok() && !convertible(args->x.dtype, args->y.dtype))
    check.fail(PL_DTYPE, "%s cannot become %s: go through f32", dtype_name(args->x.dtype),
               dtype_name(args->y.dtype));
  check.disjoint_or_same("y", args->y, "x", args->x);
  return check.status();
}
