// Floats as integers in their order, for whoever looks for the largest. As everywhere, NaN counts
// as -infinity, both zeros are alike, and among equals the lowest index comes first.
#pragma once

#include "cuda/numbers.h"

namespace polylora::cuda {

// Larger for a larger number, never 0.
__device__ inline uint32_t order_of(float x) {
  if (x != x) x = -INFINITY;
  const uint32_t bits = bits_of(x == 0 ? 0.0f : x);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// Of element `index` of a row: no two keys are equal, and none is 0.
__device__ inline uint64_t key_of(float x, int64_t index) {
  return uint64_t(order_of(x)) << 32 | uint32_t(~uint32_t(index));
}
__device__ inline int32_t index_of(uint64_t key) { return int32_t(~uint32_t(key)); }
__device__ inline uint32_t order_of_key(uint64_t key) { return uint32_t(key >> 32); }

// Bitonic sort by all threads of a block, largest first, of any number of keys: every exchange puts
// the larger key first, so that what is missing to a power of two may be thought of as small keys
// behind the last. Begins and ends with a barrier.
template <int kThreads>
__device__ inline void sort_descending(uint64_t* keys, int64_t count) {
  __syncthreads();
  for (int64_t size = 2; size < 2 * count; size *= 2)
    for (int64_t stride = size / 2; stride > 0; stride /= 2) {
      // The first step of a merge mirrors the second half, which makes it run the other way.
      const bool mirrors = stride == size / 2;
      const int64_t pairs = ((count + size - 1) & -size) / 2;  // size is a power of two
      for (int64_t pair = threadIdx.x; pair < pairs; pair += kThreads) {
        const int64_t low = 2 * pair - (pair & (stride - 1));
        const int64_t high = mirrors ? low + size - 1 - 2 * (pair & (stride - 1)) : low + stride;
        if (high >= count) continue;
        const uint64_t a = keys[low], b = keys[high];
        if (a < b) {
          keys[low] = b;
          keys[high] = a;
        }
      }
      __syncthreads();
    }
}

}  // namespace polylora::cuda
