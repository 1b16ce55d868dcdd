#include "checks/attention.h"

using namespace polylora::check;

pl_status pl_check_attention_cached(const pl_attention_cached_args* args) {
  Check check("attention_cached");
  if (!check.arguments(args)) return check.status();
  check.input("q", args->q, PL_F32, {kAny, kAny, kAny}, kLastContiguous);
  const int64_t t = args->q.shape[0], heads = args->q.shape[1], d = args->q.shape[2];
  const pl_tensor &k = args->k_cache, &v = args->v_cache;
  check.input("k_cache", k, PL_F32, {kAny, kAny, kAny, d}, kLastContiguous);
  check.input("v_cache", v, PL_F32, {k.shape[0], k.shape[1], k.shape[2], d}, kLastContiguous);
  check_heads(check, heads, k.shape[2], d);
  check.input("row_sequence", args->row_sequence, PL_I32, {t}, kLastContiguous);
  check.input("row_position", args->row_position, PL_I32, {t}, kLastContiguous);
  check.in_range("scale", double(args->scale), -1e30, 1e30);
  check.output("o", args->o, PL_F32, {t, heads, d}, kLastContiguous);
  check.disjoint("o", args->o, "q", args->q);
  check.disjoint("o", args->o, "k_cache", k);
  check.disjoint("o", args->o, "v_cache", v);
  check.disjoint("o", args->o, "row_sequence", args->row_sequence);
  check.disjoint("o", args->o, "row_position", args->row_position);
  return check.status();
}
