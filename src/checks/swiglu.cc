#include "checks/check.h"

using namespace polylora::check;

pl_status pl_check_swiglu(const pl_swiglu_args* args) {
  Check check("swiglu");
  if (!check.arguments(args)) return check.status();
  check.input("gate", args->gate, PL_F32, {kAny, kAny}, kLastContiguous);
  const int64_t t = args->gate.shape[0], n = args->gate.shape[1];
  check.input("up", args->up, PL_F32, {t, n}, kLastContiguous);
  check.output("y", args->y, PL_F32, {t, n}, kLastContiguous);
  check.disjoint_or_same("y", args->y, "gate", args->gate);
  check.disjoint_or_same("y", args->y, "up", args->up);
  return check.status();
}

pl_status pl_check_swiglu_backward(const pl_swiglu_backward_args* args) {
  Check check("swiglu_backward");
  if (!check.arguments(args)) return check.status();
  check.input("gate", args->gate, PL_F32, {kAny, kAny}, kLastContiguous);
  const int64_t t = args->gate.shape[0], n = args->gate.shape[1];
  check.input("up", args->up, PL_F32, {t, n}, kLastContiguous);
  check.input("dy", args->dy, PL_F32, {t, n}, kLastContiguous);
  check.output("d_gate", args->d_gate, PL_F32, {t, n}, kLastContiguous);
  check.output("d_up", args->d_up, PL_F32, {t, n}, kLastContiguous);
  check.disjoint_or_same("d_gate", args->d_gate, "gate", args->gate);
  check.disjoint("d_gate", args->d_gate, "up", args->up);
  check.disjoint("d_gate", args->d_gate, "dy", args->dy);
  check.disjoint_or_same("d_up", args->d_up, "up", args->up);
  check.disjoint("d_up", args->d_up, "gate", args->gate);
  check.disjoint("d_up", args->d_up, "dy", args->dy);
  check.disjoint("d_up", args->d_up, "d_gate", args->d_gate);
  return check.status();
}
