#include "checks/check.h"

using namespace polylora::check;

pl_status pl_check_segmented_matmul(const pl_segmented_matmul_args* args) {
  Check check("segmented_matmul");
  if (!check.arguments(args)) return check.status();
  check.input("x", args->x, PL_F32, {kAny, kAny}, kLastContiguous);
  const int64_t t = args->x.shape[0], r = args->x.shape[1];
  check.input("w", args->w, PL_F32, {kAny, r, r}, kLastContiguous);
  check.input("segment_of", args->segment_of, PL_I32, {t}, kLastContiguous);
  check.output("y", args->y, PL_F32, {t, r}, kLastContiguous);
  check.disjoint("y", args->y, "x", args->x);
  check.disjoint("y", args->y, "w", args->w);
  check.disjoint("y", args->y, "segment_of", args->segment_of);
  return check.status();
}

pl_status pl_check_segmented_matmul_backward(const pl_segmented_matmul_backward_args* args) {
  Check check("segmented_matmul_backward");
  if (!check.arguments(args)) return check.status();
  check.input("x", args->x, PL_F32, {kAny, kAny}, kLastContiguous);
  const int64_t t = args->x.shape[0], r = args->x.shape[1];
  check.input("dy", args->dy, PL_F32, {t, r}, kLastContiguous);
  check.input("segment_of", args->segment_of, PL_I32, {t}, kLastContiguous);
  check.output("d_w", args->d_w, PL_F32, {kAny, r, r}, kLastContiguous);
  check.disjoint("d_w", args->d_w, "x", args->x);
  check.disjoint("d_w", args->d_w, "dy", args->dy);
  check.disjoint("d_w", args->d_w, "segment_of", args->segment_of);
  return check.status();
}
