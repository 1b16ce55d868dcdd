// The order of Hugging Face's processors: temperature, then the top_k largest (ties with the last
// of them stay), then the smallest set of the most probable whose probability among those left
// reaches top_p, then a draw.
//
// The draw: u = 53 bits of philox({position, sample, 0, 0x73616d70}, seed), the first two words, in
// [0, 1). The token is the first at which the running sum of the kept probabilities exceeds u times
// their sum; tokens come in the order of their index if nothing was cut off, else the most probable
// first, the lower index first among equals.
//
// Only the tokens that may be kept are sorted: a histogram of how far each lies below the largest
// says how far down they reach.
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

namespace polylora::cpu {
namespace {
constexpr int kDepths = 2048;
constexpr int64_t kRun = 256;
}  // namespace
}  // namespace polylora::cpu

#endif
#include "cpu/for_each_target.h"

#ifdef PL_TARGET
#include "cpu/vector_math.h"

namespace polylora::cpu::PL_TARGET {
namespace {

// Of each token p = exp((x - most) / temperature), with the subtraction first, so that a tiny
// temperature cannot overflow; and how far it lies below the largest, in sixteenths, kDepths - 1 at
// most.
void probabilities(const float* x, float most, float temperature, float* p, int32_t* depth,
                   int64_t n) {
  const Floats shift = broadcast(most), divisor = broadcast(temperature);
  const Floats deepest = broadcast(float(1 - kDepths));
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const Floats t = (load(x + i) - shift) / divisor;
    store(p + i, exp_below_zero(t));
    store(depth + i, to_ints(-maximum(t * broadcast(16.0f), deepest)));
  }
  if (i == n) return;
  float last_p[kLanes];
  int32_t last_depth[kLanes];
  const Floats t = (load_partial(x + i, int(n - i)) - shift) / divisor;
  store(last_p, exp_below_zero(t));
  store(last_depth, to_ints(-maximum(t * broadcast(16.0f), deepest)));
  for (int lane = 0; i + lane < n; ++lane) {
    p[i + lane] = last_p[lane];
    depth[i + lane] = last_depth[lane];
  }
}

// totals[b] = sum of p[b * kRun, (b + 1) * kRun)
void sum_runs(const float* p, double* totals, int64_t n) {
  for (int64_t first = 0; first < n; first += kRun) {
    const int64_t last = first + kRun < n ? first + kRun : n;
    Floats total = zeros();
    for (int64_t i = first; i < last; i += kLanes) total = total + load_some(p + i, last - i);
    totals[first / kRun] = double(sum(total));
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

// Of the vocabulary, for one worker.
struct Scratch {
  float* p;
  int32_t* depth;
  int32_t* candidates;
  double* runs;  // one for each kRun tokens
};

int64_t runs_of(int64_t n) { return (n + kRun - 1) / kRun; }

// From all tokens, in the order of their index.
int32_t draw_from_all(const Scratch& scratch, int64_t n, double u) {
  double total = 0;
  for (int64_t run = 0; run < runs_of(n); ++run) total += scratch.runs[run];
  const double target = u * total;
  double reached = 0;
  int64_t run = 0;
  while (run + 1 < runs_of(n) && reached + scratch.runs[run] <= target)
    reached += scratch.runs[run++];
  // Should rounding let the run end below the target, its last possible token is taken.
  int64_t token = -1;
  for (int64_t i = run * kRun; i < std::min(n, (run + 1) * kRun); ++i) {
    if (scratch.p[i] == 0) continue;
    token = i;
    reached += double(scratch.p[i]);
    if (reached > target) break;
  }
  // No token is possible in the last runs: the last one before them.
  for (int64_t i = run * kRun; token < 0 && i-- > 0;)
    if (scratch.p[i] > 0) token = i;
  return int32_t(token);
}

// The tokens that top_k and top_p may keep and perhaps more, the most probable first.
int64_t find_candidates(const float* x, const Scratch& scratch, int64_t n, const Settings& settings,
                        double total) {
  int64_t counts[kDepths] = {};
  double masses[kDepths] = {};
  for (int64_t i = 0; i < n; ++i) {
    ++counts[scratch.depth[i]];
    masses[scratch.depth[i]] += double(scratch.p[i]);
  }
  int64_t count = 0;
  double mass = 0;
  int32_t depth = 0;
  for (; depth < kDepths - 1; ++depth) {
    count += counts[depth];
    mass += masses[depth];
    if (settings.top_k > 0 ? count >= settings.top_k : mass >= double(settings.top_p) * total)
      break;
  }
  // One more: sums in another order may fall on the other side.
  depth = std::min(depth + 1, kDepths - 1);
  count = 0;
  for (int64_t i = 0; i < n; ++i)
    if (scratch.depth[i] <= depth) scratch.candidates[count++] = int32_t(i);
  std::sort(scratch.candidates, scratch.candidates + count,
            [x](int32_t a, int32_t b) { return x[a] > x[b] || (x[a] == x[b] && a < b); });
  return count;
}

int32_t draw(const float* x, const Scratch& scratch, int64_t n, const Settings& settings,
             double u) {
  if (settings.top_k == 0 && settings.top_p >= 1) return draw_from_all(scratch, n, u);
  double total = 0;
  for (int64_t run = 0; run < runs_of(n); ++run) total += scratch.runs[run];
  int64_t count = find_candidates(x, scratch, n, settings, total);
  const int32_t* const candidates = scratch.candidates;
  if (settings.top_k > 0) {
    const float kth = x[candidates[std::min<int64_t>(settings.top_k, count) - 1]];
    while (x[candidates[count - 1]] < kth) --count;
    total = 0;
    for (int64_t i = 0; i < count; ++i) total += double(scratch.p[candidates[i]]);
  }
  // How many of the most probable reach top_p.
  int64_t kept = 0;
  double reached = 0;
  while (kept < count &&
         (kept == 0 || settings.top_p >= 1 || reached < double(settings.top_p) * total))
    reached += double(scratch.p[candidates[kept++]]);
  const double target = u * reached;
  double running = 0;
  for (int64_t i = 0; i < kept; ++i) {
    running += double(scratch.p[candidates[i]]);
    if (running > target) return candidates[i];
  }
  return candidates[kept - 1];
}

constexpr uint32_t kSampleCounter = 0x73616d70;

double unit_of(uint64_t seed, int32_t sample, int32_t position) {
  const Philox4 words = philox({uint32_t(position), uint32_t(sample), 0, kSampleCounter},
                               uint32_t(seed), uint32_t(seed >> 32));
  return double((uint64_t(words.x) << 32 | words.y) >> 11) * 0x1p-53;
}

}  // namespace

namespace {

// Bytes of one worker's scratch, a multiple of 8.
uint64_t scratch_bytes(int64_t n) {
  return (uint64_t(n) * (sizeof(float) + 2 * sizeof(int32_t)) + 7) / 8 * 8 +
         uint64_t(runs_of(n)) * sizeof(double);
}

Scratch scratch_at(unsigned char* memory, int64_t n) {
  Scratch scratch;
  scratch.runs = reinterpret_cast<double*>(memory);
  scratch.p = reinterpret_cast<float*>(scratch.runs + runs_of(n));
  scratch.depth = reinterpret_cast<int32_t*>(scratch.p + n);
  scratch.candidates = scratch.depth + n;
  return scratch;
}

}  // namespace

uint64_t sample_workspace(const pl_sample_args& args, int threads) {
  return scratch_bytes(args.logits.shape[1]) * uint64_t(threads);
}

void run_sample(Pool& pool, const pl_sample_args& args) {
  const Rows logits = rows_of(args.logits);
  const int64_t n = logits.length;
  auto* const memory = static_cast<unsigned char*>(args.header.workspace);
  const auto probabilities = PL_SELECT(pool, probabilities);
  const auto sum_runs = PL_SELECT(pool, sum_runs);
  pool.parallel(logits.count, [&](int64_t row, Worker& worker) {
    const Settings settings = {static_cast<const float*>(args.temperature.data)[row],
                               static_cast<const float*>(args.top_p.data)[row],
                               ints_of(args.top_k)[row]};
    require(row, settings);
    const float* const x = logits.at(row);
    int32_t token = largest_logit(row, x, n);
    if (settings.temperature > 0) {
      const Scratch scratch = scratch_at(memory + uint64_t(worker.index) * scratch_bytes(n), n);
      probabilities(x, x[token], settings.temperature, scratch.p, scratch.depth, n);
      sum_runs(scratch.p, scratch.runs, n);
      const double u = unit_of(args.seed, ints_of(args.sample)[row], ints_of(args.position)[row]);
      token = draw(x, scratch, n, settings, u);
    }
    static_cast<int32_t*>(args.tokens.data)[row] = token;
  });
}

}  // namespace polylora::cpu

#endif
