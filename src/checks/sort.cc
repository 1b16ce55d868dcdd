#include "checks/check.h"

using namespace polylora::check;

pl_status pl_check_sort(const pl_sort_args* args) {
  Check check("sort");
  if (!check.arguments(args)) return check.status();
  check.input("keys", args->keys, PL_I32, {kAny}, kLastContiguous);
  check.in_range("the number of keys", double(args->keys.shape[0]), 0, 2147483647);
  check.output("order", args->order, PL_I32, {args->keys.shape[0]}, kLastContiguous);
  check.disjoint("order", args->order, "keys", args->keys);
  if (check.ok() && given(args->counts)) {
    check.output("counts", args->counts, PL_I32, {kAny}, kLastContiguous);
    check.in_range("the length of counts", double(args->counts.shape[0]), 0, double(1 << 30));
    check.disjoint("counts", args->counts, "keys", args->keys);
    check.disjoint("counts", args->counts, "order", args->order);
  }
  return check.status();
}
