#include "checks/check.h"

using namespace polylora::check;

pl_status pl_check_sample(const pl_sample_args* args) {
  Check check("sample");
  if (!check.arguments(args)) return check.status();
  check.input("logits", args->logits, PL_F32, {kAny, kAny}, kLastContiguous);
  const int64_t b = args->logits.shape[0];
  check.in_range("the length of a row", double(args->logits.shape[1]), 1, 2147483647);
  check.input("temperature", args->temperature, PL_F32, {b}, kLastContiguous);
  check.input("top_k", args->top_k, PL_I32, {b}, kLastContiguous);
  check.input("top_p", args->top_p, PL_F32, {b}, kLastContiguous);
  check.input("sample", args->sample, PL_I32, {b}, kLastContiguous);
  check.input("position", args->position, PL_I32, {b}, kLastContiguous);
  check.output("tokens", args->tokens, PL_I32, {b}, kLastContiguous);
  check.disjoint("tokens", args->tokens, "logits", args->logits);
  check.disjoint("tokens", args->tokens, "temperature", args->temperature);
  check.disjoint("tokens", args->tokens, "top_k", args->top_k);
  check.disjoint("tokens", args->tokens, "top_p", args->top_p);
  check.disjoint("tokens", args->tokens, "sample", args->sample);
  check.disjoint("tokens", args->tokens, "position", args->position);
  return check.status();
}
