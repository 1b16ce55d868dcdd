#include "checks/check.h"

using namespace polylora::check;

pl_status pl_check_scale_columns(const pl_scale_columns_args* args) {
  Check check("scale_columns");
  if (!check.arguments(args)) return check.status();
  check.input("x", args->x, PL_F32, {kAny, kAny}, kLastContiguous);
  const int64_t t = args->x.shape[0], n = args->x.shape[1];
  check.input("scale", args->scale, PL_F32, {n}, kLastContiguous);
  check.output("y", args->y, PL_F32, {t, n}, kLastContiguous);
  check.disjoint_or_same("y", args->y, "x", args->x);
  check.disjoint("y", args->y, "scale", args->scale);
  if (given(args->bias))
    check.input("bias", args->bias, PL_F32, {n}, kLastContiguous) &&
        check.disjoint("y", args->y, "bias", args->bias);
  if (given(args->residual))
    check.input("residual", args->residual, PL_F32, {t, n}, kLastContiguous) &&
        check.disjoint_or_same("y", args->y, "residual", args->residual);
  return check.status();
}

pl_status pl_check_scale_columns_backward(const pl_scale_columns_backward_args* args) {
  Check check("scale_columns_backward");
  if (!check.arguments(args)) return check.status();
  check.input("dy", args->dy, PL_F32, {kAny, kAny}, kLastContiguous);
  const int64_t t = args->dy.shape[0], n = args->dy.shape[1];
  check.input("x", args->x, PL_F32, {t, n}, kLastContiguous);
  check.input("scale", args->scale, PL_F32, {n}, kLastContiguous);
  check.input("norm", args->norm, PL_F32, {n}, kLastContiguous);
  check.output("dx", args->dx, PL_F32, {t, n}, kLastContiguous);
  check.disjoint("dx", args->dx, "dy", args->dy);
  check.disjoint_or_same("dx", args->dx, "x", args->x);
  check.disjoint("dx", args->dx, "scale", args->scale);
  check.disjoint("dx", args->dx, "norm", args->norm);
  if (given(args->d_magnitude)) {
    check.output("d_magnitude", args->d_magnitude, PL_F32, {n}, kLastContiguous);
    check.disjoint("d_magnitude", args->d_magnitude, "dy", args->dy);
    check.disjoint("d_magnitude", args->d_magnitude, "x", args->x);
    check.disjoint("d_magnitude", args->d_magnitude, "scale", args->scale);
    check.disjoint("d_magnitude", args->d_magnitude, "norm", args->norm);
    check.disjoint("d_magnitude", args->d_magnitude, "dx", args->dx);
  }
  return check.status();
}
