#include "checks/check.h"

using namespace polylora::check;

pl_status pl_check_low_rank_backward(const pl_low_rank_backward_args* args) {
  Check check("low_rank_backward");
  if (!check.arguments(args)) return check.status();
  check.input("dy", args->dy, PL_F32, {kAny, kAny}, kLastContiguous);
  const int64_t t = args->dy.shape[0], n = args->dy.shape[1];
  check.input("b", args->b, PL_F32, {n, kAny}, kLastContiguous);
  const int64_t r = args->b.shape[1];
  check.input("p", args->p, PL_F32, {t, r}, kLastContiguous);
  check.input("rank_scale", args->rank_scale, PL_F32, {r}, kLastContiguous);
  check.output("t", args->t, PL_F32, {t, r}, kLastContiguous);
  check.disjoint("t", args->t, "dy", args->dy);
  check.disjoint("t", args->t, "b", args->b);
  check.disjoint("t", args->t, "p", args->p);
  check.disjoint("t", args->t, "rank_scale", args->rank_scale);
  if (given(args->d_b)) {
    check.output("d_b", args->d_b, PL_F32, {n, r}, kLastContiguous);
    check.disjoint("d_b", args->d_b, "dy", args->dy);
    check.disjoint("d_b", args->d_b, "b", args->b);
    check.disjoint("d_b", args->d_b, "p", args->p);
    check.disjoint("d_b", args->d_b, "rank_scale", args->rank_scale);
    check.disjoint("d_b", args->d_b, "t", args->t);
  }
  return check.status();
}
