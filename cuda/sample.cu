// The order of Hugging Face's processors: temperature, then the top_k largest (ties with the last
// of them stay), then the smallest set of the most probable whose probability among those left
// reaches top_p, then a draw.
//
// The draw: u = 53 bits of philox({position, sample, 0, 0x73616d70}, seed), the first two words, in
// [0, 1). The token is the first at which the running sum of the kept probabilities exceeds u times
// their sum; tokens come in the order of their index if nothing was cut off, else the most probable
// first, the lower index first among equals.
//
// One block a row. Probabilities are integers, in units of 2^-44 of the largest for a vocabulary of
// 2^18, so sums do not depend on their order; src/cpu adds floats, whose last place shows in one
// draw among many millions. Only the tokens that may be kept are sorted: a histogram of how far
// each lies below the largest says how far down they reach.
#include "cuda/launch.h"
#include "cuda/operations.h"
#include "cuda/order.h"
#include "cuda/random.h"
#include "cuda/reduce.h"
#include "cuda/rows.h"

namespace polylora::cuda {
namespace {

constexpr int kFewThreads = 256, kManyThreads = 1024;
constexpr int64_t kFewTokens = 8192;  // the largest vocabulary for kFewThreads
constexpr int kDepths = 2048;         // of the histogram, in sixteenths
constexpr uint32_t kSampleCounter = 0x73616d70;

using Mass = unsigned long long;  // what atomicAdd takes

struct Settings {
  float temperature, top_p;
  int32_t top_k;
};

// exp((x - most) / temperature), with the subtraction first, so that a tiny temperature cannot
// overflow.
struct Distribution {
  const float* x;
  float most, temperature;
  float unit;  // of a mass

  __device__ float below(int64_t i) const { return (x[i] - most) / temperature; }
  __device__ Mass mass(int64_t i) const { return Mass(expf(below(i)) * unit); }
  // How far below the largest: the deeper, the less probable.
  __device__ int depth(int64_t i) const {
    return int(fminf(below(i) * -16.0f, float(kDepths - 1)));
  }
};

struct Found {
  int64_t position;
  Mass reached;  // the sum up to and with it
};

// The first i at which the sum of mass(0) .. mass(i) reaches the goal, which is at least 1 and at
// most the sum of all. Each warp has a part of them. All threads call it and get the result.
template <int kThreads, class Masses>
__device__ Found find_sum(const Masses& mass, int64_t count, Mass goal) {
  PL_SHARED(Mass, parts, kThreads / 32);
  PL_SHARED(Found, result, 1);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t length = (count + kThreads - 1) / kThreads * 32, begin = warp * length;
  const int64_t end = begin + length < count ? begin + length : count;
  Mass sum = 0;
  for (int64_t i = begin + lane; i < end; i += 32) sum += mass(i);
  sum = warp_sum(sum);
  if (lane == 0) parts[warp] = sum;
  __syncthreads();
  Mass before = 0;
  for (int w = 0; w < warp; ++w) before += parts[w];
  // One warp's part reaches the goal; it looks where.
  if (before < goal && before + parts[warp] >= goal)
    for (int64_t i = begin; i < end; i += 32) {
      const Mass through = before + warp_inclusive_scan(i + lane < end ? mass(i + lane) : Mass(0));
      const unsigned reaches = __ballot_sync(kAllLanes, through >= goal);
      if (reaches != 0) {
        const int first = __ffs(int(reaches)) - 1;
        if (lane == first) result[0] = {i + lane, through};
        break;
      }
      before = __shfl_sync(kAllLanes, through, 31);
    }
  __syncthreads();
  const Found found = result[0];
  __syncthreads();
  return found;
}

template <int kThreads, class Masses>
__device__ Mass sum_masses(const Masses& mass, int64_t count) {
  Mass sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) sum += mass(i);
  return block_sum<kThreads>(sum);
}

// The part of a sum, at least 1 and at most all of it.
__device__ inline Mass part_of(Mass sum, double part) {
  const double goal = ceil(double(sum) * part);
  return goal < 1 ? 1 : goal >= double(sum) ? sum : Mass(goal);
}

// Collects the tokens that top_k and top_p may keep, in no order, and returns how many they are.
template <int kThreads>
__device__ int64_t find_candidates(const Distribution& distribution, int64_t n,
                                   const Settings& settings, uint64_t* keys) {
  PL_SHARED(unsigned, counts, kDepths);
  PL_SHARED(Mass, masses, kDepths);
  PL_SHARED(int, found, 1);
  for (int i = threadIdx.x; i < kDepths; i += kThreads) {
    counts[i] = 0;
    masses[i] = 0;
  }
  if (threadIdx.x == 0) found[0] = 0;
  __syncthreads();
  for (int64_t i = threadIdx.x; i < n; i += kThreads) {
    const int depth = distribution.depth(i);
    atomicAdd(&counts[depth], 1u);
    atomicAdd(&masses[depth], distribution.mass(i));
  }
  __syncthreads();
  const auto count_at = [&](int64_t i) { return Mass(counts[i]); };
  const auto mass_at = [&](int64_t i) { return masses[i]; };
  int64_t deepest;
  if (settings.top_k > 0) {
    const Mass goal = settings.top_k < n ? Mass(settings.top_k) : Mass(n);
    deepest = find_sum<kThreads>(count_at, kDepths, goal).position;
  } else {
    const Mass goal = part_of(sum_masses<kThreads>(mass_at, kDepths), double(settings.top_p));
    deepest = find_sum<kThreads>(mass_at, kDepths, goal).position;
  }
  for (int64_t i = threadIdx.x; i < n; i += kThreads)
    if (distribution.depth(i) <= deepest)
      keys[atomicAdd(&found[0], 1)] = key_of(distribution.x[i], i);
  __syncthreads();
  return found[0];
}

template <int kThreads>
__device__ int32_t draw(const Distribution& distribution, int64_t n, const Settings& settings,
                        double u, uint64_t* keys) {
  // The first at which the running sum exceeds u times the sum.
  const auto target = [u](Mass sum) {
    const Mass below = Mass(u * double(sum));
    return (below < sum ? below : sum - 1) + 1;
  };
  if (settings.top_k == 0 && settings.top_p >= 1) {
    const auto mass = [&](int64_t i) { return distribution.mass(i); };
    const Mass sum = sum_masses<kThreads>(mass, n);
    return int32_t(find_sum<kThreads>(mass, n, target(sum)).position);
  }
  int64_t count = find_candidates<kThreads>(distribution, n, settings, keys);
  sort_descending<kThreads>(keys, count);
  const auto mass = [&](int64_t i) { return distribution.mass(index_of(keys[i])); };
  if (settings.top_k > 0) {
    const uint32_t least =
        order_of_key(keys[(settings.top_k < count ? settings.top_k : count) - 1]);
    int64_t mine = 0;
    for (int64_t i = threadIdx.x; i < count; i += kThreads) mine += order_of_key(keys[i]) >= least;
    count = block_sum<kThreads>(mine);
  }
  Mass sum = 0;
  if (settings.top_k > 0) {
    sum = sum_masses<kThreads>(mass, count);
  } else {
    const auto all = [&](int64_t i) { return distribution.mass(i); };
    sum = sum_masses<kThreads>(all, n);
  }
  if (settings.top_p < 1)
    sum = find_sum<kThreads>(mass, count, part_of(sum, double(settings.top_p))).reached;
  return index_of(keys[find_sum<kThreads>(mass, count, target(sum)).position]);
}

struct Rules {
  const float *temperature, *top_p;
  const int32_t *top_k, *sample, *position;
  uint32_t key0, key1;
};

__device__ bool report_settings(Failure* failure, int64_t row, const Settings& settings) {
  const auto bad = [&](const char* name, float number, const char* allowed) {
    report_number(failure, PL_OPERATION_sample, name, row, number, allowed);
    return true;
  };
  if (!(settings.temperature >= 0) || isinf(settings.temperature))
    return bad("temperature of row", settings.temperature, "0 or more and finite");
  if (settings.top_k < 0) return bad("top_k of row", float(settings.top_k), "0 or more");
  if (!(settings.top_p >= 0 && settings.top_p <= 1))
    return bad("top_p of row", settings.top_p, "from 0 to 1");
  return false;
}

template <int kThreads>
__global__ void __launch_bounds__(kThreads)
    sample_kernel(Rows logits, Rules rules, float unit, uint64_t* memory, int32_t* tokens,
                  Failure* failure) {
  const int64_t row = blockIdx.x, n = logits.length;
  const float* const x = logits.at(row);
  const Settings settings = {rules.temperature[row], rules.top_p[row], rules.top_k[row]};
  uint64_t best = 0;
  int is_bad = 0;
  for (int64_t i = threadIdx.x; i < n; i += kThreads) {
    if (isnan(x[i]) || x[i] == INFINITY) {
      report_number(failure, PL_OPERATION_sample, "a logit of row", row, x[i],
                    "below infinity and a number");
      is_bad = 1;
    }
    best = larger(best, key_of(x[i], i));
  }
  best = block_max<kThreads>(best);
  int32_t token = index_of(best);
  const float most = x[token];
  if (threadIdx.x == 0) {
    if (most == -INFINITY)
      report_number(failure, PL_OPERATION_sample, "the largest logit of row", row, most, "finite");
    is_bad |= report_settings(failure, row, settings);
  }
  is_bad |= most == -INFINITY;
  // What follows holds for sound values alone; the same for all threads.
  if (!__syncthreads_or(is_bad) && settings.temperature > 0) {
    const Philox4 words =
        philox({uint32_t(rules.position[row]), uint32_t(rules.sample[row]), 0, kSampleCounter},
               rules.key0, rules.key1);
    const double u = double((uint64_t(words.x) << 32 | words.y) >> 11) * 0x1p-53;
    token = draw<kThreads>({x, most, settings.temperature, unit}, n, settings, u, memory + row * n);
  }
  if (threadIdx.x == 0) tokens[row] = token;
}

}  // namespace

uint64_t workspace_sample(const Stream&, const pl_sample_args& args) {
  return uint64_t(args.logits.shape[0]) * uint64_t(args.logits.shape[1]) * sizeof(uint64_t);
}

void run_sample(Stream& stream, const pl_sample_args& args) {
  const Rows logits = rows_of(args.logits);
  // The sum of all masses stays below 2^62.
  float unit = 0x1p62f;
  for (int64_t i = 1; i < logits.length; i *= 2) unit /= 2;
  const auto floats = [](const pl_tensor& t) { return static_cast<const float*>(t.data); };
  const auto ints = [](const pl_tensor& t) { return static_cast<const int32_t*>(t.data); };
  const Rules rules = {floats(args.temperature), floats(args.top_p),  ints(args.top_k),
                       ints(args.sample),        ints(args.position), uint32_t(args.seed),
                       uint32_t(args.seed >> 32)};
  auto* const memory = static_cast<uint64_t*>(args.header.workspace);
  auto* const tokens = static_cast<int32_t*>(args.tokens.data);
  const unsigned rows = blocks_for(logits.count, 1);
  if (logits.length <= kFewTokens)
    launch(stream, {rows, kFewThreads}, sample_kernel<kFewThreads>, logits, rules, unit, memory,
           tokens, stream.failure());
  else
    launch(stream, {rows, kManyThreads}, sample_kernel<kManyThreads>, logits, rules, unit, memory,
           tokens, stream.failure());
}

}  // namespace polylora::cuda
