#include "checks/check.h"

using namespace polylora::check;

pl_status pl_check_top_k(const pl_top_k_args* args) {
  Check check("top_k");
  if (!check.arguments(args)) return check.status();
  check.input("x", args->x, PL_F32, {kAny, kAny}, kLastContiguous);
  const int64_t t = args->x.shape[0], n = args->x.shape[1];
  check.in_range("the length of a row", double(n), 1, 2147483647);
  check.output("values", args->values, PL_F32, {t, kAny}, kLastContiguous);
  check.in_range("k", double(args->values.shape[1]), 1, double(n));
  check.output("indices", args->indices, PL_I32, {t, args->values.shape[1]}, kLastContiguous);
  check.disjoint("values", args->values, "x", args->x);
  check.disjoint("indices", args->indices, "x", args->x);
  check.disjoint("indices", args->indices, "values", args->values);
  return check.status();
}

pl_status pl_check_top_k_backward(const pl_top_k_backward_args* args) {
  Check check("top_k_backward");
  if (!check.arguments(args)) return check.status();
  check.input("d_values", args->d_values, PL_F32, {kAny, kAny}, kLastContiguous);
  const int64_t t = args->d_values.shape[0], k = args->d_values.shape[1];
  check.input("indices", args->indices, PL_I32, {t, k}, kLastContiguous);
  check.output("dx", args->dx, PL_F32, {t, kAny}, kLastContiguous);
  check.disjoint("dx", args->dx, "d_values", args->d_values);
  check.disjoint("dx", args->dx, "indices", args->indices);
  return check.status();
}
