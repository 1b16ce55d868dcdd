#include "checks/check.h"

using namespace polylora::check;

pl_status pl_check_softmax(const pl_softmax_args* args) {
  Check check("softmax");
  if (!check.arguments(args)) return check.status();
  check.input("x", args->x, PL_F32, {kAny, kAny}, kLastContiguous);
  check.output("y", args->y, PL_F32, {args->x.shape[0], args->x.shape[1]}, kLastContiguous);
  check.in_range("scale", double(args->scale), -1e30, 1e30);
  check.disjoint_or_same("y", args->y, "x", args->x);
  return check.status();
}

pl_status pl_check_softmax_backward(const pl_softmax_backward_args* args) {
  Check check("softmax_backward");
  if (!check.arguments(args)) return check.status();
  check.input("y", args->y, PL_F32, {kAny, kAny}, kLastContiguous);
  check.input("dy", args->dy, PL_F32, {args->y.shape[0], args->y.shape[1]}, kLastContiguous);
  check.output("dx", args->dx, PL_F32, {args->y.shape[0], args->y.shape[1]}, kLastContiguous);
  check.in_range("scale", double(args->scale), -1e30, 1e30);
  check.disjoint_or_same("dx", args->dx, "dy", args->dy);
  check.disjoint("dx", args->dx, "y", args->y);
  return check.status();
}
