// Sums and maxima over a warp or a block, in an order that depends on nothing but the block's size:
// lanes pairwise by butterflies, then warps in order. All threads of the warp or block must call
// them, and all get the result.
#pragma once

#include <cstdint>

#include "cuda/launch.h"

namespace polylora::cuda {

constexpr unsigned kAllLanes = 0xffffffffu;

template <class T>
__device__ inline T warp_sum(T value) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) value += __shfl_xor_sync(kAllLanes, value, lanes);
  return value;
}

__device__ inline float larger(float a, float b) { return fmaxf(a, b); }  // not a NaN
__device__ inline uint64_t larger(uint64_t a, uint64_t b) { return a > b ? a : b; }

template <class T>
__device__ inline T warp_max(T value) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2)
    value = larger(value, T(__shfl_xor_sync(kAllLanes, value, lanes)));
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

template <int kThreads, class T>
__device__ inline T block_max(T value) {
  static_assert(kThreads % 32 == 0 && kThreads <= 1024, "whole warps");
  value = warp_max(value);
  if constexpr (kThreads == 32) return value;
  PL_SHARED(T, parts, kThreads / 32);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
  __syncthreads();
  T most = parts[0];
#pragma unroll
  for (int warp = 1; warp < kThreads / 32; ++warp) most = larger(most, parts[warp]);
  __syncthreads();
  return most;
}

// The same over the threads that share a row: a warp of several, or the whole block.
template <int kRowThreads, class T>
__device__ inline T row_sum(T value) {
  if constexpr (kRowThreads == 32)
    return warp_sum(value);
  else
    return block_sum<kRowThreads>(value);
}
template <int kRowThreads, class T>
__device__ inline T row_max(T value) {
  if constexpr (kRowThreads == 32)
    return warp_max(value);
  else
    return block_max<kRowThreads>(value);
}

// The sum over this lane and those before it.
template <class T>
__device__ inline T warp_inclusive_scan(T value) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int lanes = 1; lanes < 32; lanes *= 2) {
    const T below = __shfl_up_sync(kAllLanes, value, lanes);
    if (lane >= lanes) value += below;
  }
  return value;
}

}  // namespace polylora::cuda
