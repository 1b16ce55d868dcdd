// The vectorised parts of products in float32 (cpu/product.h says what each does).
#include "cpu/product.h"
#include "philox.h"

#define PL_TARGET_FILE "cpu/product_kernels.cc"
#include "cpu/for_each_target.h"
#ifdef PL_TARGET
#include "cpu/philox_vector.h"
#include "cpu/product_tile.h"
#include "cpu/transpose_square.h"

namespace polylora::cpu::PL_TARGET {
namespace {

static void multiply(Sum sum, int64_t rows, int64_t columns, int64_t k, const float* a,
                     int64_t a_step, const float* b, int64_t b_step, float* c) {
  multiply_panel<FloatStep, Walk::rows>(sum, rows, columns, k, a, a_step, b, b_step, c);
}

static void multiply_transposed(Sum sum, int64_t rows, int64_t columns, int64_t k, const float* a,
                                int64_t a_step, const float* b, int64_t b_step, float* c) {
  multiply_panel<FloatStep, Walk::columns>(sum, rows, columns, k, a, a_step, b, b_step, c);
}

static void multiply_widened(Sum sum, int64_t rows, int64_t columns, int64_t k, const float* a,
                             int64_t a_step, const float* b, float* c) {
  multiply_panel<WideningStep, Walk::rows>(sum, rows, columns, k / 2, a, a_step, b, kPanel, c);
}

// Rows are short and far apart, which the processor's own prefetching does not follow. Beyond the
// last row, prefetching does nothing.
PL_INLINE void prefetch_row(const float* x, int64_t columns) {
  for (int64_t i = 0; i < columns; i += 16) __builtin_prefetch(x + i, 0, 2);
}
constexpr int64_t kRowsAhead = 4;

static void pack(const float* x, int64_t stride, int64_t rows, int64_t columns, float* out,
                 int64_t out_stride) {
  for (int64_t row = 0; row < rows; ++row, x += stride, out += out_stride) {
    prefetch_row(x + kRowsAhead * stride, columns);
    int64_t i = 0;
    for (; i + kLanes <= columns; i += kLanes) store(out + i, load(x + i));
    if (i < columns)
      store_partial(out + i, load_partial(x + i, int(columns - i)), int(columns - i));
  }
}

// To nearest, ties to even, kept as floats; a NaN stays one.
PL_INLINE Floats round_to_bf16(Floats x) {
  const Ints bits = as_ints(x);
  const Ints rounded =
      (bits + broadcast(int32_t(0x7fff)) + ((bits >> 16) & broadcast(int32_t(1)))) &
      broadcast(int32_t(0xffff0000));
  const Ints quiet = (bits | broadcast(int32_t(0x00400000))) & broadcast(int32_t(0xffff0000));
  return as_floats(x == x ? rounded : quiet);
}

static void pack_rounded(const float* x, int64_t stride, int64_t rows, int64_t columns,
                         float* out) {
  for (int64_t row = 0; row < rows; ++row, x += stride, out += kLead) {
    prefetch_row(x + kRowsAhead * stride, columns);
    int64_t i = 0;
    for (; i + kLanes <= columns; i += kLanes) store(out + i, round_to_bf16(load(x + i)));
    if (i < columns)
      store_partial(out + i, round_to_bf16(load_partial(x + i, int(columns - i))),
                    int(columns - i));
  }
}

static void panels_from_rows(const float* w, int64_t stride, int64_t k, int64_t columns,
                             float* out) {
  for (; k > 0; --k, w += stride, out += kPanel) {
    prefetch_row(w + kRowsAhead * stride, columns);
    for (int64_t j = 0; j < columns; j += kPanel) {
      float* to = out + j / kPanel * kPanelStride;
#pragma GCC unroll 8
      for (int64_t i = 0; i < kPanel; i += kLanes) {
        const int64_t left = columns - j - i;
        if (left >= kLanes)
          store(to + i, load(w + j + i));
        else
          store(to + i, left > 0 ? load_partial(w + j + i, int(left)) : zeros());
      }
    }
  }
}

static void panel_from_columns(const float* w, int64_t stride, int64_t k, int64_t columns,
                               float* out) {
  for (int64_t i = 0; i < k; i += kLanes) {
    const int64_t count = k - i < kLanes ? k - i : kLanes;
    for (int64_t c = 0; c < kPanel; c += kLanes) {
      Floats square[kLanes];
      const float* from = w + c * stride + i;
      if (count == kLanes && c + kLanes <= columns) {
#pragma GCC unroll 16
        for (int j = 0; j < kLanes; ++j) square[j] = load(from + j * stride);
      } else {
#pragma GCC unroll 16
        for (int j = 0; j < kLanes; ++j)
          square[j] = c + j < columns ? load_partial(from + j * stride, int(count)) : zeros();
      }
      transpose(square);
      float* to = out + i * kPanel + c;
      if (count == kLanes) {
#pragma GCC unroll 16
        for (int j = 0; j < kLanes; ++j) store(to + j * kPanel, square[j]);
      } else {
#pragma GCC unroll 16
        for (int j = 0; j < kLanes; ++j)
          if (j < count) store(to + j * kPanel, square[j]);
      }
    }
  }
}

static void widen(const uint32_t* pairs, int64_t columns, float* out) {
  for (; columns > 0; columns -= 2, pairs += kPanel, out += 2 * kPanel)
#pragma GCC unroll 8
    for (int64_t i = 0; i < kPanel; i += kLanes) {
      const Ints both = load(reinterpret_cast<const int32_t*>(pairs) + i);
      store(out + i, as_floats(both << 16));
      store(out + kPanel + i, as_floats(both & broadcast(int32_t(0xffff0000))));
    }
}

// kLanes draws as numbers.
PL_INLINE Ints load_draws(const uint16_t* draws) {
#if defined(PL_TARGET_AVX512)
  return (Ints)_mm512_maskz_cvtepu16_epi32(
      0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(draws)));
#elif defined(PL_TARGET_AVX2)
  return (Ints)_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(draws)));
#else
  return Ints{draws[0], draws[1], draws[2], draws[3]};
#endif
}

static void drop(const Dropout& dropout, int64_t row, int64_t column, int64_t columns, float* data,
                 int64_t panel_stride) {
  uint16_t draws[2 * kDraws];
  const Ints threshold = broadcast(int32_t(dropout.threshold));
  const Floats scale = broadcast(dropout.scale);
  for (int64_t first = 0; first < columns; first += 2 * kDraws) {
    const int64_t stop = columns - first < 2 * kDraws ? columns - first : 2 * kDraws;
    if (stop > kDraws)
      dropout_draws<2>(dropout, row, (column + first) / 8, draws);
    else
      dropout_draws<1>(dropout, row, (column + first) / 8, draws);
    for (int64_t panel = 0; panel < stop; panel += kPanel) {
      float* at = data + (first + panel) / kPanel * panel_stride;
#pragma GCC unroll 8
      for (int64_t i = 0; i < kPanel; i += kLanes) {
        const Floats factor = select(load_draws(draws + panel + i) < threshold, zeros(), scale);
        const int64_t left = stop - panel - i;
        if (left >= kLanes)
          store(at + i, load(at + i) * factor);
        else if (left > 0)
          store_partial(at + i, load_partial(at + i, int(left)) * factor, int(left));
      }
    }
  }
}

static void finish(const float* c, int64_t rows, int64_t columns, const float* scale,
                   const float* bias, const float* residual, int64_t residual_stride, float* y,
                   int64_t stride) {
  for (int64_t row = 0; row < rows; ++row, c += kPanel, y += stride) {
    for (int64_t i = 0; i < columns; i += kLanes) {
      const int n = columns - i < kLanes ? int(columns - i) : kLanes;
      Floats value = load(c + i);
      if (n == kLanes) {
        if (scale) value = load(scale + i) * value;
        if (bias) value = value + load(bias + i);
        if (residual) value = value + load(residual + i);
        store(y + i, value);
      } else {
        if (scale) value = load_partial(scale + i, n) * value;
        if (bias) value = value + load_partial(bias + i, n);
        if (residual) value = value + load_partial(residual + i, n);
        store_partial(y + i, value, n);
      }
    }
    if (residual) residual += residual_stride;
  }
}

constexpr ProductKernels kProductKernels = {
    kLanes,  kTileRows,    multiply, multiply_transposed, multiply_widened,   nullptr,
    pack,    pack_rounded, nullptr,  panels_from_rows,    panel_from_columns, widen,
    nullptr, drop,         finish};

}  // namespace
}  // namespace polylora::cpu::PL_TARGET
#else

namespace polylora::cpu {

const ProductKernels& product_kernels(InstructionSet set) {
#if defined(__x86_64__)
  if (set == InstructionSet::avx512_bf16) return *product_kernels_bf16();
  if (set == InstructionSet::avx512) return avx512::kProductKernels;
  if (set == InstructionSet::avx2) return avx2::kProductKernels;
#else
  (void)set;
#endif
  return portable::kProductKernels;
}

}  // namespace polylora::cpu
#endif
