#include "checks/check.h"

using namespace polylora::check;

pl_status pl_check_rope(const pl_rope_args* args) {
  Check check("rope");
  if (!check.arguments(args)) return check.status();
  check.input("x", args->x, PL_F32, {kAny, kAny, kAny}, kLastContiguous);
  const int64_t t = args->x.shape[0], h = args->x.shape[1], d = args->x.shape[2];
  if (check.ok() && d % 2 != 0)
    check.fail(PL_SHAPE, "x has heads of %lld elements, must be even", static_cast<long long>(d));
  check.input("positions", args->positions, PL_I32, {t}, kLastContiguous);
  check.input("cosines", args->cosines, PL_F32, {kAny, d / 2}, kLastContiguous);
  check.input("sines", args->sines, PL_F32, {args->cosines.shape[0], d / 2}, kLastContiguous);
  check.output("y", args->y, PL_F32, {t, h, d}, kLastContiguous);
  check.disjoint_or_same("y", args->y, "x", args->x);
  check.disjoint("y", args->y, "positions", args->positions);
  check.disjoint("y", args->y, "cosines", args->cosines);
  check.disjoint("y", args->y, "sines", args->sines);
  return check.status();
}
