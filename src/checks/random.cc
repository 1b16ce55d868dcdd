#include "checks/check.h"

using namespace polylora::check;

pl_status pl_check_random(const pl_random_args* args) {
  Check check("random");
  if (!check.arguments(args)) return check.status();
  check.output_of_any_shape("y", args->y, {PL_F32}, kContiguous);
  // The width of a uniform interval must be finite too.
  constexpr double kMost = 1.7e38;
  if (args->distribution == PL_UNIFORM) {
    check.in_range("first", double(args->first), -kMost, kMost);
    check.in_range("second", double(args->second), double(args->first), kMost);
  } else if (args->distribution == PL_NORMAL) {
    check.in_range("first", double(args->first), -kMost, kMost);
    check.in_range("second", double(args->second), 0, kMost);
  } else {
    check.fail(PL_ARGUMENT, "distribution is %d, must be %d (uniform) or %d (normal)",
               args->distribution, PL_UNIFORM, PL_NORMAL);
  }
  return check.status();
}
