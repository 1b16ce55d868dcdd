#include "checks/attention.h"

using namespace polylora::check;

namespace {

struct Sizes {
  int64_t t, heads, key_heads, d;
};

// q, k, v, cu_seqlens and scale; both structs name them alike.
template <class Args>
Sizes inputs(Check& check, const Args* args) {
  check.input("q", args->q, PL_F32, {kAny, kAny, kAny}, kLastContiguous);
  const int64_t t = args->q.shape[0], heads = args->q.shape[1], d = args->q.shape[2];
  check.input("k", args->k, PL_F32, {t, kAny, d}, kLastContiguous);
  const int64_t key_heads = args->k.shape[1];
  check.input("v", args->v, PL_F32, {t, key_heads, d}, kLastContiguous);
  check_heads(check, heads, key_heads, d);
  check.input("cu_seqlens", args->cu_seqlens, PL_I32, {kAny}, kLastContiguous);
  check.positive("the length of cu_seqlens", args->cu_seqlens.shape[0]);
  check.in_range("the number of rows", double(t), 0, 2147483647);
  check.in_range("scale", double(args->scale), -1e30, 1e30);
  return {t, heads, key_heads, d};
}

template <class Args>
void disjoint_from_inputs(Check& check, const char* field, const pl_tensor& tensor,
                          const Args* args) {
  check.disjoint(field, tensor, "q", args->q);
  check.disjoint(field, tensor, "k", args->k);
  check.disjoint(field, tensor, "v", args->v);
  check.disjoint(field, tensor, "cu_seqlens", args->cu_seqlens);
}

}  // namespace

pl_status pl_check_attention(const pl_attention_args* args) {
  Check check("attention");
  if (!check.arguments(args)) return check.status();
  const Sizes sizes = inputs(check, args);
  check.output("o", args->o, PL_F32, {sizes.t, sizes.heads, sizes.d}, kLastContiguous);
  disjoint_from_inputs(check, "o", args->o, args);
  if (check.ok() && given(args->lse)) {
    check.output("lse", args->lse, PL_F32, {sizes.heads, sizes.t}, kLastContiguous);
    disjoint_from_inputs(check, "lse", args->lse, args);
    check.disjoint("lse", args->lse, "o", args->o);
  }
  return check.status();
}

pl_status pl_check_attention_backward(const pl_attention_backward_args* args) {
  Check check("attention_backward");
  if (!check.arguments(args)) return check.status();
  const Sizes sizes = inputs(check, args);
  check.input("o", args->o, PL_F32, {sizes.t, sizes.heads, sizes.d}, kLastContiguous);
  check.input("lse", args->lse, PL_F32, {sizes.heads, sizes.t}, kLastContiguous);
  check.input("d_o", args->d_o, PL_F32, {sizes.t, sizes.heads, sizes.d}, kLastContiguous);
  check.output("dq", args->dq, PL_F32, {sizes.t, sizes.heads, sizes.d}, kLastContiguous);
  check.output("dk", args->dk, PL_F32, {sizes.t, sizes.key_heads, sizes.d}, kLastContiguous);
  check.output("dv", args->dv, PL_F32, {sizes.t, sizes.key_heads, sizes.d}, kLastContiguous);
  const struct {
    const char* field;
    const pl_tensor& tensor;
  } outputs[] = {{"dq", args->dq}, {"dk", args->dk}, {"dv", args->dv}};
  for (const auto& output : outputs) {
    disjoint_from_inputs(check, output.field, output.tensor, args);
    check.disjoint(output.field, output.tensor, "o", args->o);
    check.disjoint(output.field, output.tensor, "lse", args->lse);
    check.disjoint(output.field, output.tensor, "d_o", args->d_o);
  }
  check.disjoint("dk", args->dk, "dq", args->dq);
  check.disjoint("dv", args->dv, "dq", args->dq);
  check.disjoint("dv", args->dv, "dk", args->dk);
  return check.status();
}
