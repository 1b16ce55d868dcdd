#include "checks/check.h"

using namespace polylora::check;

namespace {

// The CPU keeps a row of probabilities on the stack.
constexpr int64_t kMostExperts = 1024;

// What the three share. False if something is wrong.
bool router_fields(Check& check, const pl_tensor& logits, const pl_tensor& gate, bool writes_gate,
                   float scale, uint32_t top_k) {
  check.input("logits", logits, PL_F32, {kAny, kAny, kAny}, kLastContiguous);
  const int64_t t = logits.shape[0], m = logits.shape[1], e = logits.shape[2];
  if (writes_gate)
    check.output("gate", gate, PL_F32, {t, m, e}, kLastContiguous);
  else
    check.input("gate", gate, PL_F32, {t, m, e}, kLastContiguous);
  check.in_range("the number of experts", double(e), 1, double(kMostExperts));
  check.in_range("scale", double(scale), -1e30, 1e30);
  check.in_range("top_k", double(top_k), 1, double(e));
  return check.ok();
}

}  // namespace

pl_status pl_check_router(const pl_router_args* args) {
  Check check("router");
  if (!check.arguments(args)) return check.status();
  if (!router_fields(check, args->logits, args->gate, true, args->scale, args->top_k))
    return check.status();
  check.disjoint("gate", args->gate, "logits", args->logits);
  if (given(args->bias)) {
    check.input("bias", args->bias, PL_F32, {args->logits.shape[1], args->logits.shape[2]},
                kLastContiguous);
    check.disjoint("gate", args->gate, "bias", args->bias);
  }
  return check.status();
}

pl_status pl_check_router_backward(const pl_router_backward_args* args) {
  Check check("router_backward");
  if (!check.arguments(args)) return check.status();
  if (!router_fields(check, args->logits, args->gate, false, args->scale, args->top_k))
    return check.status();
  const int64_t t = args->logits.shape[0], m = args->logits.shape[1], e = args->logits.shape[2];
  check.input("d_gate", args->d_gate, PL_F32, {t, m, e}, kLastContiguous);
  check.output("d_logits", args->d_logits, PL_F32, {t, m, e}, kLastContiguous);
  check.disjoint("d_logits", args->d_logits, "logits", args->logits);
  check.disjoint("d_logits", args->d_logits, "gate", args->gate);
  check.disjoint_or_same("d_logits", args->d_logits, "d_gate", args->d_gate);
  check.in_range("balance", double(args->balance), 0, 1e30);
  check.in_range("variance", double(args->variance), 0, 1e30);
  check.in_range("z", double(args->z), 0, 1e30);
  check.in_range("supervised", double(args->supervised), 0, 1e30);
  if (given(args->loss_scale)) {
    check.input("loss_scale", args->loss_scale, PL_F32, {1}, kLastContiguous);
    check.disjoint("d_logits", args->d_logits, "loss_scale", args->loss_scale);
  }
  if (given(args->expert_of_row)) {
    check.input("expert_of_row", args->expert_of_row, PL_I32, {t}, kContiguous);
    check.disjoint("d_logits", args->d_logits, "expert_of_row", args->expert_of_row);
  }
  return check.status();
}

pl_status pl_check_router_statistics(const pl_router_statistics_args* args) {
  Check check("router_statistics");
  if (!check.arguments(args)) return check.status();
  if (!router_fields(check, args->logits, args->gate, false, args->scale, args->top_k))
    return check.status();
  const int64_t t = args->logits.shape[0], m = args->logits.shape[1], e = args->logits.shape[2];
  check.input("row_group", args->row_group, PL_I32, {t}, kContiguous);
  check.output("statistics", args->statistics, PL_F32, {m, kAny, 3 * e + 4}, kLastContiguous);
  check.disjoint("statistics", args->statistics, "logits", args->logits);
  check.disjoint("statistics", args->statistics, "gate", args->gate);
  check.disjoint("statistics", args->statistics, "row_group", args->row_group);
  if (given(args->expert_of_row)) {
    check.input("expert_of_row", args->expert_of_row, PL_I32, {t}, kContiguous);
    check.disjoint("statistics", args->statistics, "expert_of_row", args->expert_of_row);
  }
  return check.status();
}
