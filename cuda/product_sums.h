// What becomes of a product's sums in registers, for mma.sync and wgmma alike: both leave a lane of
// 16 rows by 8 columns the elements e = 0 .. 3 at row lane / 4 + e / 2 * 8 and column
// lane % 4 * 2 + e % 2. `at(i, j, e)` is a reference to element e of the i-th sixteen rows and the
// j-th eight columns; kSixteens by kEights of them begin at (row, column) of y.
#pragma once

#include "cuda/product.h"
#include "cuda/reduce.h"

namespace polylora::cuda {

// Word i of the lane 4 q + j and word j of the lane 4 q + i change places.
__device__ inline void transpose_words(uint32_t (&words)[4]) {
  const int lane = int(threadIdx.x % 4);
#pragma unroll
  for (int bit = 1; bit < 4; bit *= 2)
#pragma unroll
    for (int low = 0; low < 4; ++low) {
      if (low & bit) continue;
      const int high = low | bit;
      const bool gives_low = lane & bit;
      const uint32_t taken = __shfl_xor_sync(kAllLanes, gives_low ? words[low] : words[high], bit);
      words[low] = gives_low ? taken : words[low];
      words[high] = gives_low ? words[high] : taken;
    }
}

// Multiplies by the dropout mask [m, n]. The four lanes of a row need a word each of what Philox
// gives for eight columns: each calls it for other eight columns, and they exchange the words.
// First what is kept, a bit an element, in a loop that is none for the registers of the sums.
template <int kSixteens, int kEights, class At>
__device__ inline void mask_sums(const Dropout& dropout, const Output& output, int64_t row,
                                 int64_t column, At at) {
  static_assert(kEights % 4 == 0 && kSixteens * kEights <= 32, "four lanes draw, a bit each");
  const int lane = int(threadIdx.x % 32);
  uint32_t kept[4] = {};  // by e, bit i * kEights + j
#pragma unroll 1
  for (int bit = 0; bit < kSixteens * kEights; bit += 4)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t r = row + bit / kEights * 16 + lane / 4 + half * 8;
      uint32_t words[4] = {};
      if (r < output.m) {
        const Philox4 drawn = dropout.words(r, column / 8 + bit % kEights + lane % 4);
        words[0] = drawn.x, words[1] = drawn.y, words[2] = drawn.z, words[3] = drawn.w;
      }
      transpose_words(words);
#pragma unroll
      for (int j = 0; j < 4; ++j)
#pragma unroll
        for (int side = 0; side < 2; ++side)
          kept[half * 2 + side] |= uint32_t(dropout.keeps(words[j], side)) << (bit + j);
    }
#pragma unroll
  for (int i = 0; i < kSixteens; ++i)
#pragma unroll
    for (int j = 0; j < kEights; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e)
        at(i, j, e) *= kept[e] >> (i * kEights + j) & 1 ? dropout.scale : 0.0f;
}

template <int kSixteens, int kEights, class At>
__device__ inline void store_sums(const Output& output, int64_t row, int64_t column, At at) {
  const int lane = int(threadIdx.x % 32);
  const bool is_aligned =
      reinterpret_cast<uintptr_t>(output.y) % 8 == 0 && output.y_stride % 2 == 0;
#pragma unroll
  for (int i = 0; i < kSixteens; ++i)
#pragma unroll
    for (int j = 0; j < kEights; ++j)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int64_t r = row + i * 16 + lane / 4 + half * 8, c = column + j * 8 + lane % 4 * 2;
        const float left = at(i, j, half * 2), right = at(i, j, half * 2 + 1);
        if (is_aligned && r < output.m && c + 1 < output.n) {
          *reinterpret_cast<float2*>(output.y + r * output.y_stride + c) = {
              output.finish(r, c, left), output.finish(r, c + 1, right)};
        } else {
          output.store(r, c, left);
          output.store(r, c + 1, right);
        }
      }
}

}  // namespace polylora::cuda
