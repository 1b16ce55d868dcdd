// Philox numbers by the numbering of philox.h: elements 4g .. 4g + 3 are the words of group g.
//
// Uniform numbers have the same bits on every device. A normal pair is sqrt(-2 ln u) (cos, sin)(2
// pi v) with u = (word a >> 8 + 1) 2^-24 and v = (word b >> 8) 2^-24, in double and rounded once:
// log, cos and sin of two devices may differ in double's last places, which changes the float's
// last place about once in 10^8 numbers.
#include <cmath>

#include "cuda/layout.h"
#include "cuda/numbers.h"
#include "cuda/operations.h"
#include "cuda/random.h"

namespace polylora::cuda {
namespace {

struct Uniform {
  float first, width, last;
  // Rounding may reach the end of the interval, which is not in it.
  __device__ float of(uint32_t word) const {
    const float value = first + width * philox_unit(word);
    return value > last ? last : value;
  }
  __device__ float4 operator()(const Philox4& words) const {
    return {of(words.x), of(words.y), of(words.z), of(words.w)};
  }
};

struct Normal {
  double mean, deviation;
  __device__ float2 pair(uint32_t a, uint32_t b) const {
    const double radius = sqrt(-2 * log(double((a >> 8) + 1) * 0x1p-24));
    const double angle = 6.283185307179586476925286766559 * (double(b >> 8) * 0x1p-24);
    return {float(mean + deviation * (radius * cos(angle))),
            float(mean + deviation * (radius * sin(angle)))};
  }
  __device__ float4 operator()(const Philox4& words) const {
    const float2 first = pair(words.x, words.y), second = pair(words.z, words.w);
    return {first.x, first.y, second.x, second.y};
  }
};

template <class Distribution>
struct Draw {
  Distribution distribution;
  uint32_t key0, key1;
  uint64_t subsequence;
  float* y;
  int64_t count;
  bool aligned;
  __device__ void operator()(int64_t group) const {
    const float4 four =
        distribution(philox(random_counter(uint64_t(group), subsequence), key0, key1));
    float* const to = y + 4 * group;
    const int64_t rest = count - 4 * group;
    if (aligned && rest >= 4) return store4(to, four);
    to[0] = four.x;
    if (rest > 1) to[1] = four.y;
    if (rest > 2) to[2] = four.z;
    if (rest > 3) to[3] = four.w;
  }
};

template <class Distribution>
void draw(Stream& stream, const pl_random_args& args, const Distribution& distribution) {
  int64_t count = 1;
  for (int d = 0; d < args.y.rank; ++d) count *= args.y.shape[d];
  auto* const y = static_cast<float*>(args.y.data);
  for_each_element(stream, (count + 3) / 4,
                   Draw<Distribution>{distribution, uint32_t(args.seed), uint32_t(args.seed >> 32),
                                      args.subsequence, y, count, rows_are_aligned(y, 0)});
}

}  // namespace

void run_random(Stream& stream, const pl_random_args& args) {
  const float first = args.first, second = args.second;
  if (args.distribution == PL_UNIFORM)
    draw(stream, args,
         Uniform{first, second - first, second > first ? std::nextafterf(second, first) : first});
  else
    draw(stream, args, Normal{double(first), double(second)});
}

}  // namespace polylora::cuda
