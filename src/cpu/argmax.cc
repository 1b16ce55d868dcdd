#include "cpu/operations.h"
#include "cpu/rows.h"

#define PL_TARGET_FILE "cpu/argmax.cc"
#include "cpu/for_each_target.h"

#ifdef PL_TARGET

namespace polylora::cpu::PL_TARGET {
namespace {

// Position of the largest, the lowest one of several; NaN counts as -infinity.
int32_t argmax(const float* x, int64_t n) {
  const float low = -__builtin_inff();
  // NaN on the left: the operations take the right operand then.
  Floats most[4] = {broadcast(low), broadcast(low), broadcast(low), broadcast(low)};
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes)
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) most[v] = maximum(load(x + i + v * kLanes), most[v]);
  float best = largest(maximum(maximum(most[0], most[1]), maximum(most[2], most[3])));
  for (; i < n; ++i) best = x[i] > best ? x[i] : best;
  if (best == low) return 0;
  const Floats bests = broadcast(best);
  for (i = 0; i + kLanes <= n && !any(load(x + i) == bests);) i += kLanes;
  while (x[i] != best) ++i;
  return int32_t(i);
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
