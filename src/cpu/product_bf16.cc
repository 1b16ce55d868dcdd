// Products of bf16 pairs by AVX512-BF16's dot product: each step adds two products to an
// accumulator in float32.
#include "cpu/product.h"

#if defined(__x86_64__)
#include <immintrin.h>

#ifdef __clang__
#pragma clang attribute push(                                                          \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")
#endif

namespace polylora::cpu {
namespace {

#define PL_INLINE static inline __attribute__((always_inline, unused))

constexpr int kPairTileRows = 12;

template <int kRows, int kVectors>
PL_INLINE void tile(Sum sum, int64_t k, const float* __restrict a, const float* __restrict b,
                    float* __restrict c) {
  __m512 acc[kRows][kVectors];
  if (sum == Sum::continued) {
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) acc[i][v] = _mm512_loadu_ps(c + i * kPanel + v * 16);
  } else {
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) acc[i][v] = _mm512_setzero_ps();
  }
  for (; k > 0; --k, ++a, b += kPanel) {
    __m512 bv[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) bv[v] = _mm512_loadu_ps(b + v * 16);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      const __m512 av = _mm512_set1_ps(a[i * kLead]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v)
        acc[i][v] = _mm512_dpbf16_ps(acc[i][v], (__m512bh)av, (__m512bh)bv[v]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) _mm512_storeu_ps(c + i * kPanel + v * 16, acc[i][v]);
}

template <int kVectors>
static void tile_of(int64_t rows, Sum sum, int64_t k, const float* a, const float* b, float* c) {
  switch (rows) {
    case 1:
      return tile<1, kVectors>(sum, k, a, b, c);
    case 2:
      return tile<2, kVectors>(sum, k, a, b, c);
    case 3:
      return tile<3, kVectors>(sum, k, a, b, c);
    case 4:
      return tile<4, kVectors>(sum, k, a, b, c);
    case 5:
      return tile<5, kVectors>(sum, k, a, b, c);
    case 6:
      return tile<6, kVectors>(sum, k, a, b, c);
    case 7:
      return tile<7, kVectors>(sum, k, a, b, c);
    case 8:
      return tile<8, kVectors>(sum, k, a, b, c);
    case 9:
      return tile<9, kVectors>(sum, k, a, b, c);
    case 10:
      return tile<10, kVectors>(sum, k, a, b, c);
    case 11:
      return tile<11, kVectors>(sum, k, a, b, c);
    case 12:
      return tile<12, kVectors>(sum, k, a, b, c);
  }
}

static void multiply_pairs(Sum sum, int64_t rows, int64_t columns, int64_t k, const float* a,
                           const float* b, float* c) {
  for (int64_t row = 0; row < rows; row += kPairTileRows) {
    const int64_t count = rows - row < kPairTileRows ? rows - row : kPairTileRows;
    if (columns <= 16)
      tile_of<1>(count, sum, k, a + row * kLead, b, c + row * kPanel);
    else
      tile_of<2>(count, sum, k, a + row * kLead, b, c + row * kPanel);
  }
}

static void pack_pairs(const float* x, int64_t stride, int64_t rows, int64_t columns, float* out) {
  for (int64_t row = 0; row < rows; ++row, x += stride, out += kLead) {
    for (int64_t i = 0; i < columns; i += 16) {
      const int64_t left = columns - i;
      // An odd count stores one zero more, the missing half of the last pair.
      const __m512 value = _mm512_maskz_loadu_ps(
          left >= 16 ? __mmask16(0xffff) : __mmask16((1u << left) - 1), x + i);
      const __m256i halves = (__m256i)_mm512_cvtneps_pbh(value);
      const int64_t words = left >= 16 ? 8 : (left + 1) / 2;
      _mm256_mask_storeu_epi32(out + i / 2, __mmask8((1u << words) - 1), halves);
    }
  }
}

static void transpose_pairs(const uint32_t* pairs, int64_t columns, float* out) {
  uint32_t* words = reinterpret_cast<uint32_t*>(out);
  for (int64_t c = 0; c < kPanel; ++c)
    for (int64_t k = 0; k < kPanel / 2; ++k) {
      const int shift = c % 2 ? 16 : 0;
      const uint32_t* in = pairs + c / 2 * kPanel + 2 * k;
      words[k * kPanel + c] =
          c < columns ? ((in[0] >> shift) & 0xffff) | (in[1] >> shift << 16) : 0;
    }
}

}  // namespace
}  // namespace polylora::cpu

#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace polylora::cpu {

const ProductKernels* product_kernels_bf16() {
  static const ProductKernels kernels = [] {
    ProductKernels all = product_kernels(InstructionSet::avx512);
    all.multiply_pairs = multiply_pairs;
    all.pack_pairs = pack_pairs;
    all.transpose_pairs = transpose_pairs;
    return all;
  }();
  return &kernels;
}

}  // namespace polylora::cpu
#else

namespace polylora::cpu {
const ProductKernels* product_kernels_bf16() { return nullptr; }
}  // namespace polylora::cpu
#endif
