#include "checks/check.h"

using namespace polylora::check;

namespace {

// Columns of s and p that E experts can have: E r each, or r where A or B is shared.
bool ranks_fit(Check& check, const char* field, int64_t s, int64_t p, int64_t experts) {
  if (!check.in_range("the number of experts", double(experts), 1, 65536)) return false;
  const bool fits =
      (s == p && s % experts == 0) || (s <= p && p == s * experts) || (p <= s && s == p * experts);
  return fits || check.fail(PL_SHAPE,
                            "s has %lld columns and %s %lld, with %lld experts one must be the "
                            "other, or the other times the experts",
                            static_cast<long long>(s), field, static_cast<long long>(p),
                            static_cast<long long>(experts));
}

}  // namespace

pl_status pl_check_mixture(const pl_mixture_args* args) {
  Check check("mixture");
  if (!check.arguments(args)) return check.status();
  check.input("s", args->s, PL_F32, {kAny, kAny}, kLastContiguous);
  const int64_t t = args->s.shape[0];
  check.input("gate", args->gate, PL_F32, {t, kAny}, kLastContiguous);
  check.output("p", args->p, PL_F32, {t, kAny}, kLastContiguous);
  if (!check.ok()) return check.status();
  ranks_fit(check, "p", args->s.shape[1], args->p.shape[1], args->gate.shape[1]);
  check.disjoint("p", args->p, "s", args->s);
  check.disjoint("p", args->p, "gate", args->gate);
  return check.status();
}

pl_status pl_check_mixture_backward(const pl_mixture_backward_args* args) {
  Check check("mixture_backward");
  if (!check.arguments(args)) return check.status();
  check.input("s", args->s, PL_F32, {kAny, kAny}, kLastContiguous);
  const int64_t t = args->s.shape[0], columns = args->s.shape[1];
  check.input("g", args->g, PL_F32, {t, kAny}, kLastContiguous);
  check.input("gate", args->gate, PL_F32, {t, kAny}, kLastContiguous);
  check.input("rank_scale", args->rank_scale, PL_F32, {columns}, kLastContiguous);
  check.output("t", args->t, PL_F32, {t, columns}, kLastContiguous);
  if (!check.ok()) return check.status();
  ranks_fit(check, "g", columns, args->g.shape[1], args->gate.shape[1]);
  check.disjoint("t", args->t, "s", args->s);
  check.disjoint("t", args->t, "g", args->g);
  check.disjoint("t", args->t, "gate", args->gate);
  check.disjoint("t", args->t, "rank_scale", args->rank_scale);
  if (given(args->d_gate)) {
    check.output("d_gate", args->d_gate, PL_F32, {t, args->gate.shape[1]}, kLastContiguous);
    check.disjoint("d_gate", args->d_gate, "s", args->s);
    check.disjoint("d_gate", args->d_gate, "g", args->g);
    check.disjoint("d_gate", args->d_gate, "gate", args->gate);
    check.disjoint("d_gate", args->d_gate, "rank_scale", args->rank_scale);
    check.disjoint("d_gate", args->d_gate, "t", args->t);
  }
  return check.status();
}
