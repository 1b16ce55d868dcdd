// y[0] = the element of rank floor(q (n - 1)) of x, or of |x|, counted upward from 0. Overwrites.
//
// Selection by radix: three passes count the leading bits of all elements that begin with what is
// known of the answer. Exact, and only integers are added, so their order does not matter.
#include <cmath>

#include "cuda/launch.h"
#include "cuda/numbers.h"
#include "cuda/operations.h"

namespace polylora::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kElements = 8192;  // of a block
constexpr int kBits[] = {11, 11, 10};
constexpr int kBuckets = 1 << 11;

using Count = unsigned long long;  // what atomicAdd takes

struct Selection {
  Count counts[kBuckets];
  int64_t rank;     // among those that begin with the prefix
  uint32_t prefix;  // the leading bits of the answer
};

// A number whose unsigned order is the order of the floats; NaN of either sign comes last.
__device__ inline uint32_t key_of(float value, bool absolute) {
  const uint32_t bits = absolute ? bits_of(value) & 0x7fffffffu : bits_of(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0xffffffffu;
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ inline float value_of(uint32_t key) {
  if (key == 0xffffffffu) return float_of(0x7fc00000u);
  return float_of(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

__global__ void __launch_bounds__(kThreads)
    count_kernel(const float* x, int64_t n, bool absolute, int known, int bits, Selection* state) {
  PL_SHARED(unsigned, counts, kBuckets);
  for (int i = threadIdx.x; i < kBuckets; i += kThreads) counts[i] = 0;
  __syncthreads();
  const int64_t begin = blockIdx.x * kElements;
  const int64_t end = begin + kElements < n ? begin + kElements : n;
  for (int64_t i = begin + threadIdx.x; i < end; i += kThreads) {
    const uint32_t key = key_of(x[i], absolute);
    // A shift by 32 is none.
    if (known == 0 || key >> (32 - known) == state->prefix)
      atomicAdd(&counts[key >> (32 - known - bits) & ((1u << bits) - 1)], 1u);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < kBuckets; i += kThreads)
    if (counts[i] != 0) atomicAdd(&state->counts[i], Count(counts[i]));
}

// The bucket of the answer, for the next pass or at last in y; one block.
__global__ void __launch_bounds__(kThreads)
    choose_kernel(int64_t rank, int known, int bits, Selection* state, float* y) {
  constexpr int kEach = kBuckets / kThreads;
  PL_SHARED(int64_t, sums, kThreads);
  Count* const mine = state->counts + threadIdx.x * kEach;
  int64_t sum = 0;
  for (int i = 0; i < kEach; ++i) sum += int64_t(mine[i]);
  sums[threadIdx.x] = sum;
  __syncthreads();
  int64_t left = known == 0 ? rank : state->rank;
  for (int i = 0; i < int(threadIdx.x); ++i) left -= sums[i];
  const bool holds = left >= 0 && left < sum;  // of one thread
  __syncthreads();
  if (holds) {
    int bucket = 0;
    while (left >= int64_t(mine[bucket])) left -= int64_t(mine[bucket++]);
    state->rank = left;
    state->prefix = state->prefix << bits | uint32_t(threadIdx.x * kEach + bucket);
    if (known + bits == 32) *y = value_of(state->prefix);
  }
  for (int i = 0; i < kEach; ++i) mine[i] = 0;
}

}  // namespace

uint64_t workspace_quantile(const Stream&, const pl_quantile_args&) { return sizeof(Selection); }

void run_quantile(Stream& stream, const pl_quantile_args& args) {
  int64_t n = 1;
  for (int d = 0; d < args.x.rank; ++d) n *= args.x.shape[d];
  int64_t rank = int64_t(std::floor(args.q * double(n - 1)));
  if (rank > n - 1) rank = n - 1;
  const auto* const x = static_cast<const float*>(args.x.data);
  auto* const state = static_cast<Selection*>(args.header.workspace);
  stream.note(cudaMemsetAsync(state, 0, sizeof *state, stream.handle()));
  int known = 0;
  for (const int bits : kBits) {
    launch(stream, {blocks_for(n, kElements), kThreads}, count_kernel, x, n, args.absolute != 0,
           known, bits, state);
    launch(stream, {1, kThreads}, choose_kernel, rank, known, bits, state,
           static_cast<float*>(args.y.data));
    known += bits;
  }
}

}  // namespace polylora::cuda
