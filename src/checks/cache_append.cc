#include "checks/check.h"

using namespace polylora::check;

pl_status pl_check_cache_append(const pl_cache_append_args* args) {
  Check check("cache_append");
  if (!check.arguments(args)) return check.status();
  check.input("x", args->x, PL_F32, {kAny, kAny, kAny}, kLastContiguous);
  const int64_t t = args->x.shape[0];
  check.input("row_sequence", args->row_sequence, PL_I32, {t}, kLastContiguous);
  check.input("row_position", args->row_position, PL_I32, {t}, kLastContiguous);
  check.output("cache", args->cache, PL_F32, {kAny, kAny, args->x.shape[1], args->x.shape[2]},
               kLastContiguous);
  check.disjoint("cache", args->cache, "x", args->x);
  check.disjoint("cache", args->cache, "row_sequence", args->row_sequence);
  check.disjoint("cache", args->cache, "row_position", args->row_position);
  return check.status();
}
