// The order of Hugging Face's processors: temperature, then the top_k largest (ties with the last
// of them stay), then the smallest set of the most probable whose probability among those left
// reaches top_p, then a draw.
//
// The draw: u = 53 bits of philox({position, sample, 0, 0x73616d70}, seed), the first two words, in
// [0, 1). The token is the first at which the running sum of the kept probabilities exceeds u times
// their sum; tokens come in the order of their index if nothing was cut off, else the most probable
// first, the lower index first among equals.
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "cpu/indices.h"
#include "cpu/operations.h"
#include "cpu/rows.h"
#include "cpu/workspace.h"
#include "philox.h"

#ifndef PL_TARGET_FILE
#define PL_TARGET_FILE "cpu/sample.cc"
#endif
#include "cpu/for_each_target.h"

#ifdef PL_TARGET
#include "cpu/vector_math.h"

namespace polylora::cpu::PL_TARGET {
namespace {

// p = exp((x - most) / temperature); the subtraction first, so that a tiny temperature cannot
// overflow.
void probabilities(const float* x, float most, float temperature, float* p, int64_t n) {
  const Floats shift = broadcast(most), divisor = broadcast(temperature);
  for (int64_t i = 0; i < n; i += kLanes) {
    const int rest = n - i < kLanes ? int(n - i) : kLanes;
    store_partial(p + i, exp((load_partial(x + i, rest) - shift) / divisor), rest);
  }
}

}  // namespace
}  // namespace polylora::cpu::PL_TARGET

#else

namespace polylora::cpu {

namespace {

struct Settings {
  float temperature, top_p;
  int32_t top_k;
};

[[noreturn]] void fail(int64_t row, const std::string& what) {
  throw KernelError("sample: row " + std::to_string(row) + ": " + what);
}

void require(int64_t row, const Settings& settings) {
  if (!(settings.temperature >= 0) || std::isinf(settings.temperature))
    fail(row, "temperature is " + std::to_string(settings.temperature) +
                  ", must be 0 or more and finite");
  if (settings.top_k < 0)
    fail(row, "top_k is " + std::to_string(settings.top_k) + ", must be 0 or more");
  if (!(settings.top_p >= 0 && settings.top_p <= 1))
    fail(row, "top_p is " + std::to_string(settings.top_p) + ", must be from 0 to 1");
}

// The largest logit's index, the lowest of several.
int32_t largest_logit(int64_t row, const float* x, int64_t n) {
  int64_t best = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (std::isnan(x[i]) || x[i] == std::numeric_limits<float>::infinity())
      fail(row, "logit " + std::to_string(i) + " is " + std::to_string(x[i]));
    if (x[i] > x[best]) best = i;
  }
  if (std::isinf(x[best])) fail(row, "every logit is -inf");
  return int32_t(best);
}

// A heap whose top is the most probable token, the lower index among equals.
struct LessProbable {
  const float* x;
  bool operator()(int32_t a, int32_t b) const { return x[a] < x[b] || (x[a] == x[b] && a > b); }
};

int32_t draw(const float* x, const float* p, int64_t n, const Settings& settings, double u,
             int32_t* heap) {
  double total = 0;
  if (settings.top_k == 0 && settings.top_p >= 1) {
    for (int64_t i = 0; i < n; ++i) total += double(p[i]);
    const double target = u * total;
    double reached = 0;
    int32_t last = 0;
    for (int64_t i = 0; i < n; ++i) {
      if (p[i] == 0) continue;
      reached += double(p[i]);
      last = int32_t(i);
      if (reached > target) break;
    }
    return last;
  }
  // Taken from the heap, tokens gather at the end of the array: the first one taken comes last.
  for (int64_t i = 0; i < n; ++i) heap[i] = int32_t(i);
  const LessProbable less{x};
  std::make_heap(heap, heap + n, less);
  int64_t left = n;
  const auto take = [&] {
    std::pop_heap(heap, heap + left, less);
    return heap[--left];
  };
  if (settings.top_k > 0) {
    float kth = 0;
    while (left > 0 && (n - left < settings.top_k || x[heap[0]] == kth)) {
      const int32_t token = take();
      total += double(p[token]);
      kth = x[token];
    }
  } else {
    for (int64_t i = 0; i < n; ++i) total += double(p[i]);
  }
  // How many of the most probable reach top_p.
  int64_t kept = 0;
  double reached = 0;
  const int64_t candidates = settings.top_k > 0 ? n - left : n;
  while (kept < candidates &&
         (kept == 0 || settings.top_p >= 1 || reached < double(settings.top_p) * total)) {
    const int32_t token = kept < n - left ? heap[n - 1 - kept] : take();
    reached += double(p[token]);
    ++kept;
  }
  const double target = u * reached;
  double running = 0;
  for (int64_t i = 0; i < kept; ++i) {
    const int32_t token = heap[n - 1 - i];
    running += double(p[token]);
    if (running > target) return token;
  }
  return heap[n - kept];
}

constexpr uint32_t kSampleCounter = 0x73616d70;

double unit_of(uint64_t seed, int32_t sample, int32_t position) {
  const Philox4 words = philox({uint32_t(position), uint32_t(sample), 0, kSampleCounter},
                               uint32_t(seed), uint32_t(seed >> 32));
  return double((uint64_t(words.x) << 32 | words.y) >> 11) * 0x1p-53;
}

}  // namespace

// For each worker a row of probabilities and one of tokens.
uint64_t sample_workspace(const pl_sample_args& args, int threads) {
  return uint64_t(args.logits.shape[1]) * uint64_t(threads) * (sizeof(float) + sizeof(int32_t));
}

void run_sample(Pool& pool, const pl_sample_args& args) {
  const Rows logits = rows_of(args.logits);
  const int64_t n = logits.length;
  float* const memory = static_cast<float*>(args.header.workspace);
  const auto probabilities = PL_SELECT(pool, probabilities);
  pool.parallel(logits.count, [&](int64_t row, Worker& worker) {
    const Settings settings = {static_cast<const float*>(args.temperature.data)[row],
                               static_cast<const float*>(args.top_p.data)[row],
                               ints_of(args.top_k)[row]};
    require(row, settings);
    const float* const x = logits.at(row);
    int32_t token = largest_logit(row, x, n);
    if (settings.temperature > 0 && settings.top_k != 1) {
      float* const p = memory + 2 * worker.index * n;
      probabilities(x, x[token], settings.temperature, p, n);
      token = draw(x, p, n, settings,
                   unit_of(args.seed, ints_of(args.sample)[row], ints_of(args.position)[row]),
                   reinterpret_cast<int32_t*>(p + n));
    }
    static_cast<int32_t*>(args.tokens.data)[row] = token;
  });
}

}  // namespace polylora::cpu

#endif
