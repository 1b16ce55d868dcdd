// The k largest of each row, largest first (order.h says of equals and NaN), and back: dx is
// d_values at their indices and 0 elsewhere. Both overwrite.
//
// A few are found one after the other, by a warp a row: the largest key below the one before. Many
// by a block: eight bits of the k-th key at a time, from counts of the keys that begin with what is
// known of it; then all keys from it on are collected and sorted.
#include "cuda/launch.h"
#include "cuda/layout.h"
#include "cuda/operations.h"
#include "cuda/order.h"
#include "cuda/reduce.h"
#include "cuda/rows.h"

namespace polylora::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kFew = 16;           // found by a warp
constexpr int64_t kWarpLength = 4096;  // of a row that a warp takes

__global__ void __launch_bounds__(kThreads)
    top_few_kernel(Rows x, Rows values, int32_t* indices, int64_t indices_row) {
  const int64_t row = int64_t(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32;
  if (row >= x.count) return;  // whole warps
  const int lane = threadIdx.x % 32;
  const float* const from = x.at(row);
  uint64_t last = ~uint64_t(0);
  for (int64_t j = 0; j < values.length; ++j) {
    uint64_t best = 0;
    for (int64_t i = lane; i < x.length; i += 32) {
      const uint64_t key = key_of(from[i], i);
      if (key < last) best = larger(best, key);
    }
    last = warp_max(best);
    if (lane == 0) {
      indices[row * indices_row + j] = index_of(last);
      values.at(row)[j] = from[index_of(last)];
    }
  }
}

// The k-th largest key of a row, the first being the largest. All threads call it and get it.
__device__ uint64_t select_key(const float* x, int64_t n, int64_t k) {
  PL_SHARED(int, counts, 256);
  uint64_t prefix = 0;  // what is known of the key
  for (int shift = 56; shift >= 0; shift -= 8) {
    counts[threadIdx.x] = 0;
    __syncthreads();
    for (int64_t i = threadIdx.x; i < n; i += kThreads) {
      const uint64_t key = key_of(x[i], i);
      // A shift by 64 is none.
      if (shift == 56 || key >> (shift + 8) == prefix) atomicAdd(&counts[key >> shift & 255], 1);
    }
    __syncthreads();
    int digit = 255;
    while (digit > 0 && counts[digit] < k) k -= counts[digit--];
    prefix = prefix << 8 | uint64_t(digit);
    __syncthreads();
  }
  return prefix;
}
static_assert(kThreads == 256, "a thread a digit");

__global__ void __launch_bounds__(kThreads)
    top_many_kernel(Rows x, Rows values, int32_t* indices, int64_t indices_row, uint64_t* memory) {
  PL_SHARED(int, found, 1);
  const int64_t k = values.length;
  uint64_t* const keys = memory + blockIdx.x * k;
  for (int64_t row = blockIdx.x; row < x.count; row += gridDim.x) {
    const float* const from = x.at(row);
    const uint64_t least = select_key(from, x.length, k);
    if (threadIdx.x == 0) found[0] = 0;
    __syncthreads();
    for (int64_t i = threadIdx.x; i < x.length; i += kThreads) {
      const uint64_t key = key_of(from[i], i);
      if (key >= least) keys[atomicAdd(&found[0], 1)] = key;
    }
    sort_descending<kThreads>(keys, k);
    for (int64_t j = threadIdx.x; j < k; j += kThreads) {
      indices[row * indices_row + j] = index_of(keys[j]);
      values.at(row)[j] = from[index_of(keys[j])];
    }
    __syncthreads();
  }
}

bool are_few(const pl_top_k_args& args) {
  return args.values.shape[1] <= kFew && args.x.shape[1] <= kWarpLength;
}
unsigned many_blocks(const Stream& stream, const pl_top_k_args& args) {
  const int64_t most = 2 * stream.processors();
  return unsigned(args.x.shape[0] < most ? args.x.shape[0] : most);
}

// The indices of a row differ, as top_k's do; of equal ones any may win.
struct TopKBackward {
  Rows d_values, dx;
  const int32_t* indices;
  int64_t indices_row;
  Failure* failure;
  __device__ void operator()(int64_t i) const {
    const int64_t k = d_values.length, t = i / k, j = i % k;
    const int64_t index = indices[t * indices_row + j];
    if (index < 0 || index >= dx.length)
      report_index(failure, PL_OPERATION_top_k_backward, "indices", i, index, dx.length);
    else
      dx.at(t)[index] = d_values.at(t)[j];
  }
};

struct Clear {
  Rows rows;
  __device__ void operator()(int64_t i) const { rows.at(i / rows.length)[i % rows.length] = 0; }
};

}  // namespace

uint64_t workspace_top_k(const Stream& stream, const pl_top_k_args& args) {
  if (are_few(args)) return 0;
  return uint64_t(many_blocks(stream, args)) * uint64_t(args.values.shape[1]) * sizeof(uint64_t);
}

void run_top_k(Stream& stream, const pl_top_k_args& args) {
  const Rows x = rows_of(args.x), values = rows_of(args.values);
  auto* const indices = static_cast<int32_t*>(args.indices.data);
  const int64_t indices_row = args.indices.strides[0];
  if (are_few(args))
    launch(stream, {blocks_for(x.count, kThreads / 32), kThreads}, top_few_kernel, x, values,
           indices, indices_row);
  else
    launch(stream, {many_blocks(stream, args), kThreads}, top_many_kernel, x, values, indices,
           indices_row, static_cast<uint64_t*>(args.header.workspace));
}

void run_top_k_backward(Stream& stream, const pl_top_k_backward_args& args) {
  const Rows d_values = rows_of(args.d_values), dx = rows_of(args.dx);
  for_each_element(stream, dx.count * dx.length, Clear{dx});
  for_each_element(stream, d_values.count * d_values.length,
                   TopKBackward{d_values, dx, static_cast<const int32_t*>(args.indices.data),
                                args.indices.strides[0], stream.failure()});
}

}  // namespace polylora::cuda
