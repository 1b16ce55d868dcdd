// Sums and maxima over a warp or a block, in an order that depends on nothing but the block's size:
// lanes pairwise by butterflies, then warps in order. All threads of the warp or block must call
// them, and all get the result.
#pragma once

#include "cuda/launch.h"

namespace polylora::cuda {

constexpr unsigned kAllLanes = 0xffffffffu;

template <class T>
__device__ inline T warp_sum(T value) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) value += __shfl_xor_sync(kAllLanes, value, lanes);
  return value;
}

__device__ inline float warp_max(float value) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2)
    value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, lanes));
  return value;
}

// Two barriers: it may be called again at once. kThreads is the block's size, whole warps.
template <int kThreads, class T>
__device__ inline T block_sum(T value) {
  static_assert(kThreads % 32 == 0 && kThreads <= 1024, "whole warps");
  value = warp_sum(value);
  if constexpr (kThreads == 32) return value;
  PL_SHARED(T, parts, kThreads / 32);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
  __syncthreads();
  T total = parts[0];
#pragma unroll
  for (int warp = 1; warp < kThreads / 32; ++warp) total += parts[warp];
  __syncthreads();
  return total;
}

template <int kThreads>
__device__ inline float block_max(float value) {
  static_assert(kThreads % 32 == 0 && kThreads <= 1024, "whole warps");
  value = warp_max(value);
  if constexpr (kThreads == 32) return value;
  PL_SHARED(float, parts, kThreads / 32);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
  __syncthreads();
  float most = parts[0];
#pragma unroll
  for (int warp = 1; warp < kThreads / 32; ++warp) most = fmaxf(most, parts[warp]);
  __syncthreads();
  return most;
}

}  // namespace polylora::cuda
