#include "cpu/operations.h"
#include "cpu/rows.h"

#define PL_TARGET_FILE "cpu/argmax.cc"
#include "cpu/for_each_target.h"

#ifdef PL_TARGET

namespace polylora::cpu::PL_TARGET {
namespace {

// Position of the largest, the lowest one of several; NaN counts as -infinity.
int32_t argmax(const float* x, int64_t n) {
  float best = -__builtin_inff();
  int64_t i = 0;
  if (n >= kLanes) {
    // NaN on the left: the operations take the right operand then.
    Floats lanes = broadcast(best);
    for (; i + kLanes <= n; i += kLanes) lanes = maximum(load(x + i), lanes);
    best = largest(lanes);
  }
  for (; i < n; ++i) best = x[i] > best ? x[i] : best;
  for (i = 0; i < n; ++i)
    if (x[i] == best || (x[i] != x[i] && best == -__builtin_inff())) return int32_t(i);
  return 0;
}

}  // namespace
}  // namespace polylora::cpu::PL_TARGET

#else

namespace polylora::cpu {

void run_argmax(Pool& pool, const pl_argmax_args& args) {
  const Rows x = rows_of(args.x);
  int32_t* const indices = static_cast<int32_t*>(args.indices.data);
  const auto argmax = PL_SELECT(pool, argmax);
  pool.parallel_ranges(x.count, rows_per_piece(x.length), [&](int64_t begin, int64_t end, Worker&) {
    for (int64_t t = begin; t < end; ++t) indices[t] = argmax(x.at(t), x.length);
  });
}

}  // namespace polylora::cpu

#endif
