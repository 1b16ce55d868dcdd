// top_k, argmax, sort, quantile and random: exact references, and statistics of the numbers.
#include <limits>
#include <numeric>

#include "operation_test.h"
#include "philox.h"

using namespace polylora;
using namespace polylora::test;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Few different values, so that ties are common; NaN and infinities now and then.
float awkward(Random& random) {
  switch (random.below(12)) {
    case 0:
      return NAN;
    case 1:
      return kInfinity;
    case 2:
      return -kInfinity;
    case 3:
      return -0.0f;
    case 4:
      return random.real();
    default:
      return float(random.below(4));
  }
}

float or_lowest(float x) { return std::isnan(x) ? -kInfinity : x; }

std::vector<int32_t> descending(const Floats& x, int64_t row) {
  std::vector<int32_t> order(size_t(x.shape[1]));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return or_lowest(x.at(row, a)) > or_lowest(x.at(row, b));
  });
  return order;
}

void test_top_k(Random& random) {
  for (int trial = 0; trial < 30; ++trial) {
    const int64_t t = random.below(20), n = 1 + random.below(trial % 5 ? 40 : 3000);
    const int64_t k = 1 + random.below(trial % 2 ? n : std::min<int64_t>(n, 4));
    Floats x(random, {t, n}), d_values(random, {t, k});
    x.fill([&] { return trial % 3 ? awkward(random) : random.real(); });
    d_values.uniform(random);
    on_every_pool([&](cpu::Pool& pool, const std::string& name) {
      Floats values(random, {t, k}), dx(random, {t, n});
      Ints indices(random, {t, k}), best(random, {t}, Layout::contiguous);
      auto args = arguments<pl_top_k_args>();
      args.x = x.tensor();
      args.values = values.tensor();
      args.indices = indices.tensor();
      RUN(top_k, pool, args);
      auto argmax = arguments<pl_argmax_args>();
      argmax.x = x.tensor();
      argmax.indices = best.tensor();
      RUN(argmax, pool, argmax);
      auto backward = arguments<pl_top_k_backward_args>();
      backward.d_values = d_values.tensor();
      backward.indices = indices.tensor();
      backward.dx = dx.tensor();
      RUN(top_k_backward, pool, backward);
      bool right = indices.written() && dx.written() && best.written();
      for (int64_t row = 0; row < t; ++row) {
        const std::vector<int32_t> order = descending(x, row);
        right = right && best[row] == order[0];
        std::vector<float> expected(size_t(n), 0.0f);
        for (int64_t j = 0; j < k; ++j) {
          const int32_t at = order[size_t(j)];
          right = right && indices.at(row, j) == at && same_bits(values.at(row, j), x.at(row, at));
          expected[size_t(at)] = d_values.at(row, j);
        }
        for (int64_t i = 0; i < n; ++i) right = right && dx.at(row, i) == expected[size_t(i)];
      }
      expect(right, "top_k, its backward and argmax, " + name + ", n " + std::to_string(n) +
                        ", k " + std::to_string(k));
      if (t > 0) {
        for (const int32_t bad : {-1, int32_t(n), 2147483647}) {
          Ints wrong = indices;
          wrong.at(t - 1, k - 1) = bad;
          backward.indices = wrong.tensor();
          EXPECT_KERNEL_ERROR(top_k_backward, pool, backward, "indices[");
        }
      }
    });
  }
  Floats x(random, {2, 3}), values(random, {2, 4});
  Ints indices(random, {2, 4});
  auto args = arguments<pl_top_k_args>();
  args.x = x.tensor();
  args.values = values.tensor();
  args.indices = indices.tensor();
  EXPECT_REFUSED(top_k, args, PL_ARGUMENT, "k is 4");
}

void test_argmax_of_nothing(Random& random) {
  on_every_pool([&](cpu::Pool& pool, const std::string& name) {
    for (const int64_t n : {1, 5, 16, 100}) {
      Floats x(random, {3, n});
      x.fill([] { return NAN; });
      if (n > 1) x.at(1, 1) = -kInfinity;
      x.at(2, n - 1) = -3e38f;
      Ints best(random, {3}, Layout::contiguous);
      auto args = arguments<pl_argmax_args>();
      args.x = x.tensor();
      args.indices = best.tensor();
      RUN(argmax, pool, args);
      expect(best[0] == 0 && best[1] == 0 && best[2] == n - 1, "argmax of NaN, " + name);
    }
  });
}

void test_sort(Random& random) {
  for (int trial = 0; trial < 20; ++trial) {
    const int64_t n = trial == 0 ? 0 : 1 + random.below(3000), buckets = 1 + random.below(50);
    const int64_t limit = trial % 2 ? buckets : int64_t(1) << 30;
    std::vector<int32_t> values;
    for (int64_t i = 0; i < n; ++i)
      values.push_back(int32_t(random.below(3) ? random.below(limit) : limit - 1));
    Ints keys = ints(values);
    cpu::Pool pool(2, cpu::detect_instruction_set());
    Ints order(random, {n}), counts(random, {buckets});
    auto args = arguments<pl_sort_args>();
    args.keys = keys.tensor();
    args.order = order.tensor();
    if (trial % 2) args.counts = counts.tensor();
    RUN(sort, pool, args);
    std::vector<int32_t> expected(static_cast<size_t>(n));
    std::iota(expected.begin(), expected.end(), 0);
    std::stable_sort(expected.begin(), expected.end(),
                     [&](int32_t a, int32_t b) { return values[size_t(a)] < values[size_t(b)]; });
    bool right = order.written();
    for (int64_t i = 0; i < n; ++i) right = right && order[i] == expected[size_t(i)];
    for (int64_t b = 0; trial % 2 && b < buckets; ++b)
      right = right && counts[b] == std::count(values.begin(), values.end(), int32_t(b));
    expect(right, "sort of " + std::to_string(n));
    if (n == 0) continue;
    for (const int32_t bad : {-1, int32_t(limit), 2147483647}) {
      keys[n - 1] = bad;
      EXPECT_KERNEL_ERROR(sort, pool, args,
                          "keys[" + std::to_string(n - 1) + "] is " + std::to_string(bad));
    }
  }
}

void test_quantile(Random& random) {
  for (int trial = 0; trial < 40; ++trial) {
    const int64_t n = 1 + random.below(trial % 4 ? 100 : 30000);
    Floats x(random, {n}, Layout::contiguous);
    x.fill([&] {
      if (trial % 2) return float(std::ldexp(random.unit() - 0.5, int(random.below(60)) - 30));
      const float value = awkward(random);
      return std::isnan(value) ? kInfinity : value;
    });
    const bool absolute = trial % 3 == 0;
    const double qs[] = {0, 1, random.unit(), 0.5};
    std::vector<float> sorted;
    for (int64_t i = 0; i < n; ++i) sorted.push_back(absolute ? std::fabs(x[i]) : x[i]);
    std::sort(sorted.begin(), sorted.end());
    for (const double q : qs) {
      on_every_pool([&](cpu::Pool& pool, const std::string& name) {
        Floats y(random, {1}, Layout::contiguous);
        auto args = arguments<pl_quantile_args>();
        args.x = x.tensor();
        args.q = q;
        args.absolute = absolute;
        args.y = y.tensor();
        RUN(quantile, pool, args);
        expect(y[0] == sorted[size_t(std::floor(q * double(n - 1)))],
               "quantile, " + name + ", " + std::to_string(q));
      });
    }
  }
  Floats x(random, {4}), y(random, {1});
  x[0] = 1;
  x[1] = NAN;
  x[2] = -NAN;
  x[3] = 2;
  cpu::Pool pool(1, cpu::detect_instruction_set());
  auto args = arguments<pl_quantile_args>();
  args.x = x.tensor();
  args.q = 0.34;
  args.y = y.tensor();
  RUN(quantile, pool, args);
  expect(y[0] == 2, "NaN comes last");
  args.q = NAN;
  EXPECT_REFUSED(quantile, args, PL_ARGUMENT, "q is nan");
  args.q = 0;
  args.x.shape[0] = 0;
  EXPECT_REFUSED(quantile, args, PL_ARGUMENT, "must be positive");
}

void test_random(Random& random) {
  // The known answer of the Random123 library for counter 0 and key 0.
  const Philox4 words = philox({0, 0, 0, 0}, 0, 0);
  expect(words.x == 0x6627e8d5 && words.y == 0xe169c58d && words.z == 0xbc57ac4c &&
             words.w == 0x9b00dbd8,
         "philox");

  const int64_t n = 200003;
  const uint64_t seed = random.next(), subsequence = random.next();
  for (const int distribution : {PL_UNIFORM, PL_NORMAL}) {
    Floats first;
    for (const int threads : kThreadCounts) {
      for (const cpu::InstructionSet set : instruction_sets()) {
        cpu::Pool pool(threads, set);
        Floats y(random, {n}, Layout::contiguous);
        auto args = arguments<pl_random_args>();
        args.distribution = distribution;
        args.first = distribution == PL_UNIFORM ? -2.0f : 5.0f;
        args.second = distribution == PL_UNIFORM ? 3.0f : 2.0f;
        args.seed = seed;
        args.subsequence = subsequence;
        args.y = y.tensor();
        RUN(random, pool, args);
        expect(y.written(), "random writes y");
        if (first.data.empty()) first = y;
        expect(y.same(first), "random does not depend on threads or instructions");
        // A shorter tensor begins with the same numbers.
        Floats shorter(random, {7}, Layout::contiguous);
        args.y = shorter.tensor();
        RUN(random, pool, args);
        bool same = true;
        for (int64_t i = 0; i < 7; ++i) same = same && same_bits(shorter[i], y[i]);
        expect(same, "a shorter tensor");
        args.subsequence = subsequence + 1;
        RUN(random, pool, args);
        expect(shorter[0] != y[0] && shorter[1] != y[1], "another subsequence");
      }
    }
    double sum = 0, squares = 0, cubes = 0, fourths = 0, neighbours = 0;
    bool within = true, exact = true;
    for (int64_t i = 0; i < n; ++i) {
      const double z = distribution == PL_UNIFORM ? (double(first[i]) + 2) / 5 - 0.5
                                                  : (double(first[i]) - 5) / 2;
      sum += z;
      squares += z * z;
      cubes += z * z * z;
      fourths += z * z * z * z;
      if (i > 0)
        neighbours += z * (distribution == PL_UNIFORM ? (double(first[i - 1]) + 2) / 5 - 0.5
                                                      : (double(first[i - 1]) - 5) / 2);
      within =
          within && (distribution == PL_NORMAL ? std::fabs(z) < 6 : first[i] >= -2 && first[i] < 3);
      if (i % 1001 == 0) {
        const Philox4 four = philox(random_counter(uint64_t(i / 4), subsequence), uint32_t(seed),
                                    uint32_t(seed >> 32));
        const uint32_t all[] = {four.x, four.y, four.z, four.w};
        if (distribution == PL_UNIFORM) {
          exact = exact && same_bits(first[i], -2 + 5 * philox_unit(all[i % 4]));
        } else {
          const double u = double((all[i % 4 / 2 * 2] >> 8) + 1) * 0x1p-24,
                       v = double(all[i % 4 / 2 * 2 + 1] >> 8) * 0x1p-24;
          const double angle = 2 * 3.14159265358979323846 * v;
          const double normal =
              std::sqrt(-2 * std::log(u)) * (i % 2 ? std::sin(angle) : std::cos(angle));
          exact = exact && std::fabs(double(first[i]) - (5 + 2 * normal)) < 2e-6;
        }
      }
    }
    // Five standard deviations of each mean.
    const double m2 = distribution == PL_UNIFORM ? 1.0 / 12 : 1,
                 m4 = distribution == PL_UNIFORM ? 1.0 / 80 : 3;
    const double m6 = distribution == PL_UNIFORM ? 1.0 / 448 : 15,
                 m8 = distribution == PL_UNIFORM ? 1.0 / 2304 : 105;
    const double count = double(n), five = 5 / std::sqrt(count);
    expect(within && exact, "the numbering of philox.h");
    expect(std::fabs(sum / count) < five * std::sqrt(m2), "mean");
    expect(std::fabs(squares / count - m2) < five * std::sqrt(m4 - m2 * m2), "variance");
    expect(std::fabs(cubes / count) < five * std::sqrt(m6), "skew");
    expect(std::fabs(fourths / count - m4) < five * std::sqrt(m8 - m4 * m4), "fourth moment");
    expect(std::fabs(neighbours / count) < five * m2, "neighbours");
  }
  Floats y(random, {3}, Layout::contiguous);
  auto args = arguments<pl_random_args>();
  args.y = y.tensor();
  args.distribution = 2;
  EXPECT_REFUSED(random, args, PL_ARGUMENT, "distribution is 2");
  args.distribution = PL_UNIFORM;
  args.first = 1;
  args.second = 0;
  EXPECT_REFUSED(random, args, PL_ARGUMENT, "second is 0");
  args.distribution = PL_NORMAL;
  args.second = NAN;
  EXPECT_REFUSED(random, args, PL_ARGUMENT, "second is nan");
  // An interval so narrow that rounding reaches its end.
  cpu::Pool pool(1, cpu::detect_instruction_set());
  Floats narrow(random, {1000}, Layout::contiguous);
  args.distribution = PL_UNIFORM;
  args.first = 1;
  args.second = std::nextafter(1.0f, 2.0f);
  args.y = narrow.tensor();
  RUN(random, pool, args);
  bool below = true;
  for (int64_t i = 0; i < 1000; ++i) below = below && narrow[i] == 1;
  expect(below, "never the end of the interval");
}

}  // namespace

int main(int count, char** arguments_of_run) {
  Random random{seed_of(count, arguments_of_run)};
  test_top_k(random);
  test_argmax_of_nothing(random);
  test_sort(random);
  test_quantile(random);
  test_random(random);
  return report();
}
