#include "checks/check.h"

using namespace polylora::check;

pl_status pl_check_argmax(const pl_argmax_args* args) {
  Check check("argmax");
  if (!check.arguments(args)) return check.status();
  check.input("x", args->x, PL_F32, {kAny, kAny}, kLastContiguous);
  check.in_range("the length of a row", double(args->x.shape[1]), 1, 2147483647);
  check.output("indices", args->indices, PL_I32, {args->x.shape[0]}, kLastContiguous);
  check.disjoint("indices", args->indices, "x", args->x);
  return check.status();
}
