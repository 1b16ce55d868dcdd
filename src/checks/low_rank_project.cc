#include "checks/check.h"

using namespace polylora::check;

pl_status pl_check_low_rank_project(const pl_low_rank_project_args* args) {
  Check check("low_rank_project");
  if (!check.arguments(args)) return check.status();
  check.input("x", args->x, PL_F32, {kAny, kAny}, kLastContiguous);
  const int64_t t = args->x.shape[0], k = args->x.shape[1];
  check.input("a", args->a, PL_F32, {kAny, k}, kLastContiguous);
  const int64_t r = args->a.shape[0];
  check.input("rank_scale", args->rank_scale, PL_F32, {r}, kLastContiguous);
  check.output("s", args->s, PL_F32, {t, r}, kLastContiguous);
  check.dropout(args->dropout, t, k);
  check.disjoint("s", args->s, "x", args->x);
  check.disjoint("s", args->s, "a", args->a);
  check.disjoint("s", args->s, "rank_scale", args->rank_scale);
  return check.status();
}
