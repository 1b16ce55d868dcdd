// sample: the distribution that Hugging Face's processors leave, what a draw depends on, hostile
// values.
#include <limits>

#include "operation_test.h"

using namespace polylora;
using namespace polylora::test;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Draws {
  Floats logits, temperature, top_p;
  Ints top_k, sample, position, tokens;
  uint64_t seed;
  Draws(Random& random, int64_t rows, int64_t vocabulary)
      : logits(random, {rows, vocabulary}),
        temperature(random, {rows}, Layout::contiguous),
        top_p(random, {rows}, Layout::contiguous),
        top_k(random, {rows}, Layout::contiguous),
        sample(random, {rows}, Layout::contiguous),
        position(random, {rows}, Layout::contiguous),
        tokens(random, {rows}, Layout::contiguous),
        seed(random.next()) {
    temperature.fill([] { return 1.0f; });
    top_p.fill([] { return 1.0f; });
    top_k.fill([] { return 0; });
    int32_t next = 0;
    sample.fill([&] { return next++; });
    position.fill([] { return 3; });
  }
  pl_sample_args args() {
    auto a = arguments<pl_sample_args>();
    a.logits = logits.tensor();
    a.temperature = temperature.tensor();
    a.top_k = top_k.tensor();
    a.top_p = top_p.tensor();
    a.sample = sample.tensor();
    a.position = position.tensor();
    a.seed = seed;
    a.tokens = tokens.tensor();
    return a;
  }
};

// The probabilities that Hugging Face's processors leave, in float64.
std::vector<double> kept_probabilities(const Floats& logits, int64_t row, double temperature,
                                       int64_t top_k, double top_p) {
  const int64_t n = logits.shape[1];
  std::vector<std::pair<double, int64_t>> order;
  for (int64_t i = 0; i < n; ++i) order.push_back({-double(logits.at(row, i)) / temperature, i});
  std::sort(order.begin(), order.end());
  if (top_k > 0 && top_k < n) {
    const double last = order[size_t(top_k - 1)].first;
    while (order.back().first > last) order.pop_back();
  }
  std::vector<double> p;
  double total = 0, before = 0;
  for (const auto& one : order) p.push_back(std::exp(order[0].first - one.first));
  for (double x : p) total += x;
  size_t kept = 0;
  for (; kept < p.size() && (kept == 0 || top_p >= 1 || before < top_p * total); ++kept)
    before += p[kept];
  std::vector<double> result(size_t(n), 0);
  for (size_t i = 0; i < kept; ++i) result[size_t(order[i].second)] = p[i] / before;
  return result;
}

// Tokens are counted by their index modulo 13.
void test_sample_distribution(Random& random, int64_t rows, int64_t vocabulary) {
  struct Setting {
    float temperature;
    int32_t top_k;
    float top_p;
  };
  const Setting settings[] = {{1, 0, 1},       {0.5f, 0, 1},    {1.7f, 5, 1},    {1, 0, 0.6f},
                              {0.8f, 7, 0.7f}, {1, 1, 1},       {1, 100, 0.95f}, {1, 0, 0},
                              {1, 13, 1},      {0.1f, 3, 0.5f}, {1e-30f, 0, 1}};
  constexpr int64_t kGroups = 13;
  for (const Setting& setting : settings) {
    Draws draws(random, rows, vocabulary);
    std::vector<float> logits;
    for (int64_t i = 0; i < vocabulary; ++i)
      logits.push_back(i % 4 == 3 ? 1.0f : 2 * random.real());  // with ties
    logits[5] = -kInfinity;
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t i = 0; i < vocabulary; ++i) draws.logits.at(row, i) = logits[size_t(i)];
      draws.temperature[row] = setting.temperature;
      draws.top_k[row] = setting.top_k;
      draws.top_p[row] = setting.top_p;
    }
    const std::vector<double> p = kept_probabilities(draws.logits, 0, double(setting.temperature),
                                                     setting.top_k, double(setting.top_p));
    Ints first;
    on_every_pool([&](cpu::Pool& pool, const std::string& name) {
      draws.tokens.poisoned();
      RUN(sample, pool, draws.args());
      expect(draws.tokens.written(), "sample writes tokens");
      if (first.data.empty()) {
        first = draws.tokens;
        double seen[kGroups] = {}, probability[kGroups] = {};
        bool right = true;
        for (int64_t row = 0; row < rows; ++row) {
          seen[draws.tokens[row] % kGroups] += 1;
          right = right && p[size_t(draws.tokens[row])] > 0;
        }
        for (int64_t i = 0; i < vocabulary; ++i) probability[i % kGroups] += p[size_t(i)];
        for (int64_t i = 0; i < kGroups; ++i) {
          // Five standard deviations of a count, and one more where few are expected.
          const double expected = probability[i] * double(rows);
          right = right && std::fabs(seen[i] - expected) <=
                               5 * std::sqrt(expected * std::max(1 - probability[i], 0.0)) + 1;
        }
        expect(right, "sample follows its distribution, temperature " +
                          std::to_string(setting.temperature) + ", top_k " +
                          std::to_string(setting.top_k) + ", top_p " +
                          std::to_string(setting.top_p));
      }
      // exp differs in the last place between instruction sets, which a draw sees once in millions.
      expect(draws.tokens.same(first), "the same draws, " + name);
    });
  }
}

void test_sample_keys(Random& random) {
  const int64_t rows = 50, vocabulary = 1000;
  Draws draws(random, rows, vocabulary);
  draws.logits.uniform(random, 3);
  draws.position.fill([&] { return int32_t(random.below(1000)); });
  cpu::Pool pool(3, cpu::detect_instruction_set());
  RUN(sample, pool, draws.args());
  // Alone, a row gets the token it got among the others.
  Draws one(random, 1, vocabulary);
  one.seed = draws.seed;
  bool same = true;
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t i = 0; i < vocabulary; ++i) one.logits.at(0, i) = draws.logits.at(row, i);
    one.sample[0] = draws.sample[row];
    one.position[0] = draws.position[row];
    RUN(sample, pool, one.args());
    same = same && one.tokens[0] == draws.tokens[row];
  }
  expect(same, "a row's token depends on no other row");
  const Ints before = draws.tokens;
  int changed = 0;
  draws.position.fill([] { return 9; });
  RUN(sample, pool, draws.args());
  for (int64_t row = 0; row < rows; ++row) changed += draws.tokens[row] != before[row];
  expect(changed > 40, "another position, another draw");
  draws.temperature.fill([] { return 0.0f; });
  RUN(sample, pool, draws.args());
  bool greedy = true;
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t i = 0; i < vocabulary; ++i)
      greedy = greedy && draws.logits.at(row, i) <= draws.logits.at(row, draws.tokens[row]);
  expect(greedy, "temperature 0 is argmax");
}

void test_sample_hostile(Random& random) {
  on_every_pool([&](cpu::Pool& pool, const std::string&) {
    const auto fresh = [&] {
      Draws draws(random, 3, 20);
      draws.logits.uniform(random);
      return draws;
    };
    for (const float temperature : {0.0f, 1.0f}) {
      Draws draws = fresh();
      draws.temperature[1] = temperature;
      draws.logits.at(1, 19) = NAN;
      EXPECT_KERNEL_ERROR(sample, pool, draws.args(), "row 1: logit 19 is nan");
      draws.logits.at(1, 19) = kInfinity;
      EXPECT_KERNEL_ERROR(sample, pool, draws.args(), "row 1: logit 19 is inf");
      for (int64_t i = 0; i < 20; ++i) draws.logits.at(1, i) = -kInfinity;
      EXPECT_KERNEL_ERROR(sample, pool, draws.args(), "row 1: every logit is -inf");
      draws.logits.at(1, 7) = -1e30f;
      RUN(sample, pool, draws.args());
      expect(draws.tokens[1] == 7, "the only token");
    }
    for (const float bad : {-1.0f, NAN, kInfinity}) {
      Draws draws = fresh();
      draws.temperature[2] = bad;
      EXPECT_KERNEL_ERROR(sample, pool, draws.args(), "row 2: temperature is");
    }
    for (const float bad : {-0.5f, 1.5f, NAN}) {
      Draws draws = fresh();
      draws.top_p[0] = bad;
      EXPECT_KERNEL_ERROR(sample, pool, draws.args(), "row 0: top_p is");
    }
    Draws draws = fresh();
    draws.top_k[0] = -1;
    EXPECT_KERNEL_ERROR(sample, pool, draws.args(), "row 0: top_k is -1");
    draws.top_k[0] = 2147483647;
    RUN(sample, pool, draws.args());
  });
}

}  // namespace

int main(int count, char** arguments_of_run) {
  Random random{seed_of(count, arguments_of_run)};
  test_sample_distribution(random, 4000, 13);
  test_sample_distribution(random, 300, 3001);
  test_sample_keys(random);
  test_sample_hostile(random);
  return report();
}
