// Philox numbers by the numbering of philox.h. Normal numbers come in pairs: elements 4g and 4g + 1
// from the first two words of group g, 4g + 2 and 4g + 3 from the last two. With u = (word a >> 8 +
// 1) 2^-24 in (0, 1] and v = (word b >> 8) 2^-24 the pair is sqrt(-2 ln u) cos(2 pi v), sqrt(-2 ln
// u) sin(2 pi v), computed in double and rounded once.
#include <cmath>

#include "cpu/operations.h"
#include "cpu/rows.h"
#include "philox.h"

namespace polylora::cpu {

namespace {

constexpr double kTwoPi = 6.283185307179586476925286766559;

struct Uniform {
  float first, width, last;
  Uniform(float first, float second)
      : first(first),
        width(second - first),
        last(second > first ? std::nextafter(second, first) : first) {}
  // Rounding may reach `second`, which is not in the interval.
  float of(uint32_t word) const {
    const float value = first + width * philox_unit(word);
    return value > last ? last : value;
  }
  void operator()(const Philox4& words, float* four) const {
    four[0] = of(words.x);
    four[1] = of(words.y);
    four[2] = of(words.z);
    four[3] = of(words.w);
  }
};

struct Normal {
  double mean, deviation;
  void pair(uint32_t a, uint32_t b, float* two) const {
    const double radius = std::sqrt(-2 * std::log(double((a >> 8) + 1) * 0x1p-24));
    const double angle = kTwoPi * (double(b >> 8) * 0x1p-24);
    two[0] = float(mean + deviation * (radius * std::cos(angle)));
    two[1] = float(mean + deviation * (radius * std::sin(angle)));
  }
  void operator()(const Philox4& words, float* four) const {
    pair(words.x, words.y, four);
    pair(words.z, words.w, four + 2);
  }
};

template <class Distribution>
void fill(Pool& pool, const pl_random_args& args, int64_t count, const Distribution& distribution) {
  float* const y = static_cast<float*>(args.y.data);
  const uint32_t key0 = uint32_t(args.seed), key1 = uint32_t(args.seed >> 32);
  pool.parallel_ranges((count + 3) / 4, 4096, [&](int64_t begin, int64_t end, Worker&) {
    for (int64_t group = begin; group < end; ++group) {
      const Philox4 words = philox(random_counter(uint64_t(group), args.subsequence), key0, key1);
      float four[4];
      distribution(words, four);
      const int64_t rest = count - 4 * group < 4 ? count - 4 * group : 4;
      for (int64_t i = 0; i < rest; ++i) y[4 * group + i] = four[i];
    }
  });
}

}  // namespace

void run_random(Pool& pool, const pl_random_args& args) {
  const int64_t count = elements_of(args.y);
  if (args.distribution == PL_UNIFORM)
    fill(pool, args, count, Uniform(args.first, args.second));
  else
    fill(pool, args, count, Normal{args.first, args.second});
}

}  // namespace polylora::cpu
