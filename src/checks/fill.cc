#include "checks/check.h"

using namespace polylora::check;

pl_status pl_check_fill(const pl_fill_args* args) {
  Check check("fill");
  if (!check.arguments(args)) return check.status();
  check.output_of_any_shape("y", args->y, {PL_F32, PL_BF16, PL_F16, PL_I32, PL_U8});
  if (!check.ok() || (args->y.dtype != PL_I32 && args->y.dtype != PL_U8)) return check.status();
  const bool bytes = args->y.dtype == PL_U8;
  check.in_range("value", args->value, bytes ? 0 : -2147483648.0, bytes ? 255 : 2147483647.0);
  if (check.ok() && args->value != double(int64_t(args->value)))
    check.fail(PL_ARGUMENT, "value is %g, must be an integer for %s", args->value,
               dtype_name(args->y.dtype));
  return check.status();
}
