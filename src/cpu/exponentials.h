// Sums of exponentials of a row, for one instruction set; included where PL_TARGET is defined,
// after cpu/vector_math.h.
#ifdef PL_TARGET
#include "cpu/vector_math.h"

namespace polylora::cpu::PL_TARGET {
namespace {

// Of scale * x, NaN passed over; -infinity for an empty row.
inline float largest_of(const float* x, int64_t n, float scale) {
  const Floats scales = broadcast(scale);
  const float low = -__builtin_inff();
  Floats most = broadcast(low);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) most = maximum(load(x + i) * scales, most);
  float last = largest(most);
  for (; i < n; ++i) last = x[i] * scale > last ? x[i] * scale : last;
  return last;
}

// Sum of exp(scale * x - shift), and the terms themselves in y if given. Runs of 4,096 are summed
// in float, their sums in double: a vocabulary's sum keeps its digits.
inline double sum_of_exponentials(const float* x, int64_t n, float scale, float shift, float* y) {
  constexpr int64_t kRun = 4096;
  const Floats scales = broadcast(scale), shifts = broadcast(shift);
  double total = 0;
  for (int64_t first = 0; first < n; first += kRun) {
    const int64_t last = first + kRun < n ? first + kRun : n;
    Floats sums = zeros();
    int64_t i = first;
    for (; i + kLanes <= last; i += kLanes) {
      const Floats p = exp(load(x + i) * scales - shifts);
      if (y) store(y + i, p);
      sums = sums + p;
    }
    if (i < last) {
      const int rest = int(last - i);
      const Floats p = exp(load_partial(x + i, rest) * scales - shifts);
      if (y) store_partial(y + i, p, rest);
      sums = sums + select(lane_index() < broadcast(int32_t(rest)), p, zeros());
    }
    total += double(sum(sums));
  }
  return total;
}

}  // namespace
}  // namespace polylora::cpu::PL_TARGET

#endif  // PL_TARGET
