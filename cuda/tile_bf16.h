// A tile of rows of bf16 in shared memory, kColumns of them, in chunks of 16 bytes as cp.async
// writes them, and the fragments that mma.sync takes from it. A chunk's place is exchanged by its
// row's number, so that the eight rows that an ldmatrix reads at once lie in different banks.
#pragma once

#include "cuda/numbers.h"
#include "cuda/ptx.h"

namespace polylora::cuda {

template <int kColumns>
struct TileBf16 {
  static_assert(kColumns % 16 == 0 && (kColumns & (kColumns - 1)) == 0, "16, 32, 64, ...");
  static constexpr int kChunks = kColumns / 8, kRowBytes = kColumns * 2;

  static __device__ int offset(int row, int chunk) {
    // With fewer than eight chunks several rows lie side by side in the banks' 128 bytes.
    constexpr unsigned kExchanged = kChunks < 8 ? kChunks : 8;
    return row * kRowBytes + ((chunk ^ (unsigned(row) / (8 / kExchanged) % kExchanged)) << 4);
  }

  // Of rows first .. first + 15 and columns 8 chunk .. 8 chunk + 15, as the left operand.
  static __device__ void left(uint32_t (&a)[4], const char* tile, int first, int chunk) {
    const int lane = threadIdx.x % 32;
    ptx::ldmatrix_x4(a, tile + offset(first + lane % 16, chunk + lane / 16));
  }
  // The left operand again, where rows are the inner index: of rows first .. first + 15 and columns
  // 8 chunk .. 8 chunk + 15, transposed.
  static __device__ void left_transposed(uint32_t (&a)[4], const char* tile, int first, int chunk) {
    const int lane = threadIdx.x % 32;
    ptx::ldmatrix_x4_transposed(
        a, tile + offset(first + lane % 8 + lane / 16 * 8, chunk + lane / 8 % 2));
  }
  // Rows are the output's columns, as the right operands of two products: b[0] and b[1] for columns
  // `first` and the seven beside it, b[2] and b[3] for the next eight.
  static __device__ void right(uint32_t (&b)[4], const char* tile, int first, int chunk) {
    const int lane = threadIdx.x % 32;
    ptx::ldmatrix_x4(b, tile + offset(first + lane % 8 + lane / 16 * 8, chunk + lane / 8 % 2));
  }
  // As it stands, as two right operands: rows are the inner index; b[0] and b[1] for the columns of
  // `chunk`, b[2] and b[3] for those of the next.
  static __device__ void right_as_stored(uint32_t (&b)[4], const char* tile, int first, int chunk) {
    const int lane = threadIdx.x % 32;
    ptx::ldmatrix_x4_transposed(b, tile + offset(first + lane % 16, chunk + lane / 16));
  }
};

// d[16, 16] += a[16, 16] b[16, 16], b as right() and right_as_stored() leave it.
__device__ inline void multiply_16x16x16(float (&first)[4], float (&second)[4],
                                         const uint32_t (&a)[4], const uint32_t (&b)[4]) {
  const uint32_t low[2] = {b[0], b[1]}, high[2] = {b[2], b[3]};
  ptx::mma_m16n8k16_bf16(first, a, low);
  ptx::mma_m16n8k16_bf16(second, a, high);
}

}  // namespace polylora::cuda
