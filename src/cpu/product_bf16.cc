// Products of bf16 pairs by AVX512-BF16's dot product: each step adds two products to an
// accumulator in float32.
#include "cpu/product.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define PL_TARGET avx512_bf16
#define PL_TARGET_AVX512 1
#ifdef __clang__
#pragma clang attribute push(                                                          \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")
#endif
#include "cpu/vector.h"
// The order matters: the next two use what the first defines.
#include "cpu/product_tile.h"
#include "cpu/transpose_square.h"

namespace polylora::cpu::PL_TARGET {
namespace {

struct PairStep {
  static constexpr int kWords = 1;
  PL_INLINE Floats a(const float* a) { return broadcast_word(a); }
  PL_INLINE Floats b(const float* b, int) { return load(b); }
  PL_INLINE Floats add(Floats a, Floats b, Floats sum) {
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
  }
  // As bits: a pair is no number.
  PL_INLINE Floats broadcast_word(const float* a) {
    return as_floats(broadcast(*reinterpret_cast<const IntInMemory*>(a)));
  }
  typedef int32_t IntInMemory __attribute__((may_alias));
};

static void multiply_pairs(Sum sum, int64_t rows, int64_t columns, int64_t k, const float* a,
                           const float* b, float* c) {
  multiply_panel<PairStep, Walk::rows>(sum, rows, columns, k, a, kLead, b, kPanel, c);
}

static void pack_pairs(const float* x, int64_t stride, int64_t rows, int64_t columns, float* out) {
  for (int64_t row = 0; row < rows; ++row, x += stride, out += kLead) {
    // Rows are short and far apart, which the processor's own prefetching does not follow.
    for (int64_t i = 0; i < columns; i += 16) __builtin_prefetch(x + 4 * stride + i, 0, 2);
    int64_t i = 0;
    for (; i + 32 <= columns; i += 32)
      store(out + i / 2, (Floats)_mm512_cvtne2ps_pbh(load(x + i + 16), load(x + i)));
    if (i < columns) {
      // An odd count stores one zero more, the missing half of the last pair.
      const int left = int(columns - i), first = left < 16 ? left : 16;
      const Floats low = load_partial(x + i, first);
      const Floats high = left > 16 ? load_partial(x + i + 16, left - 16) : zeros();
      store_partial(out + i / 2, (Floats)_mm512_cvtne2ps_pbh(high, low), (left + 1) / 2);
    }
  }
}

static void transpose_pairs(const uint32_t* pairs, int64_t columns, float* out) {
  // From two vectors of words (first column, second column) of rows 0 .. 31: the first columns, the
  // second columns.
  Ints firsts, seconds;
  for (int i = 0; i < 16; ++i) {
    firsts[i] = 4 * i | (4 * i + 2) << 16;
    seconds[i] = (4 * i + 1) | (4 * i + 3) << 16;
  }
  for (int64_t c = 0; c < kPanel; c += 16) {
    Floats square[16];
#pragma GCC unroll 8
    for (int64_t i = 0; i < 16; i += 2) {
      if (c + i < columns) {
        const int32_t* in = reinterpret_cast<const int32_t*>(pairs) + (c + i) / 2 * kPanel;
        const __m512i low = (__m512i)load(in), high = (__m512i)load(in + 16);
        square[i] = (Floats)_mm512_permutex2var_epi16(low, (__m512i)firsts, high);
        square[i + 1] = (Floats)_mm512_permutex2var_epi16(low, (__m512i)seconds, high);
      } else {
        square[i] = square[i + 1] = zeros();
      }
    }
    transpose(square);
#pragma GCC unroll 16
    for (int64_t k = 0; k < 16; ++k) store(out + k * kPanel + c, square[k]);
  }
}

}  // namespace
}  // namespace polylora::cpu::PL_TARGET

#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#undef PL_TARGET
#undef PL_TARGET_AVX512

namespace polylora::cpu {

const ProductKernels* product_kernels_bf16() {
  static const ProductKernels kernels = [] {
    ProductKernels all = product_kernels(InstructionSet::avx512);
    all.multiply_pairs = avx512_bf16::multiply_pairs;
    all.pack_pairs = avx512_bf16::pack_pairs;
    all.transpose_pairs = avx512_bf16::transpose_pairs;
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
