// The vectorised parts of products in float32 (cpu/product.h says what each does).
#include "cpu/product.h"
#include "philox.h"

#define PL_TARGET_FILE "cpu/product_kernels.cc"
#include "cpu/for_each_target.h"
#ifdef PL_TARGET
#include "cpu/philox_vector.h"

namespace polylora::cpu::PL_TARGET {
namespace {

#if defined(PL_TARGET_AVX512)
constexpr int kTileRows = 12;  // 24 accumulators of 32 registers
#else
constexpr int kTileRows = 6;  // 12 of 16
#endif
constexpr int kTileVectors = 2;

// kRows rows of c by kVectors vectors. a steps by kRowStep from row to row and by kStep with k.
template <int kRows, int kVectors, int64_t kRowStep, int64_t kStep>
PL_INLINE void tile(Sum sum, int64_t k, const float* __restrict a, const float* __restrict b,
                    float* __restrict c) {
  Floats acc[kRows][kVectors];
  if (sum == Sum::continued) {
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) acc[i][v] = load(c + i * kPanel + v * kLanes);
  } else {
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) acc[i][v] = zeros();
  }
  for (; k > 0; --k, a += kStep, b += kPanel) {
    Floats bv[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) bv[v] = load(b + v * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      const Floats av = broadcast(a[i * kRowStep]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) acc[i][v] = fma(av, bv[v], acc[i][v]);
    }
  }
  if (sum == Sum::added) {
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) acc[i][v] = load(c + i * kPanel + v * kLanes) + acc[i][v];
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) store(c + i * kPanel + v * kLanes, acc[i][v]);
}

template <int kVectors, int64_t kRowStep, int64_t kStep>
static void tile_of(int64_t rows, Sum sum, int64_t k, const float* a, const float* b, float* c) {
  switch (rows) {
    case 1:
      return tile<1, kVectors, kRowStep, kStep>(sum, k, a, b, c);
    case 2:
      return tile<2, kVectors, kRowStep, kStep>(sum, k, a, b, c);
    case 3:
      return tile<3, kVectors, kRowStep, kStep>(sum, k, a, b, c);
    case 4:
      return tile<4, kVectors, kRowStep, kStep>(sum, k, a, b, c);
    case 5:
      return tile<5, kVectors, kRowStep, kStep>(sum, k, a, b, c);
    case 6:
      return tile<6, kVectors, kRowStep, kStep>(sum, k, a, b, c);
#if defined(PL_TARGET_AVX512)
    case 7:
      return tile<7, kVectors, kRowStep, kStep>(sum, k, a, b, c);
    case 8:
      return tile<8, kVectors, kRowStep, kStep>(sum, k, a, b, c);
    case 9:
      return tile<9, kVectors, kRowStep, kStep>(sum, k, a, b, c);
    case 10:
      return tile<10, kVectors, kRowStep, kStep>(sum, k, a, b, c);
    case 11:
      return tile<11, kVectors, kRowStep, kStep>(sum, k, a, b, c);
    case 12:
      return tile<12, kVectors, kRowStep, kStep>(sum, k, a, b, c);
#endif
  }
}

template <int64_t kRowStep, int64_t kStep>
static void multiply_panel(Sum sum, int64_t rows, int64_t columns, int64_t k, const float* a,
                           const float* b, float* c) {
  for (int64_t v = 0; v < columns; v += kTileVectors * kLanes) {
    const bool narrow = columns - v <= kLanes;
    for (int64_t row = 0; row < rows; row += kTileRows) {
      const int64_t count = rows - row < kTileRows ? rows - row : kTileRows;
      if (narrow)
        tile_of<1, kRowStep, kStep>(count, sum, k, a + row * kRowStep, b + v, c + row * kPanel + v);
      else
        tile_of<kTileVectors, kRowStep, kStep>(count, sum, k, a + row * kRowStep, b + v,
                                               c + row * kPanel + v);
    }
  }
}

static void multiply(Sum sum, int64_t rows, int64_t columns, int64_t k, const float* a,
                     const float* b, float* c) {
  multiply_panel<kLead, 1>(sum, rows, columns, k, a, b, c);
}

static void multiply_transposed(Sum sum, int64_t rows, int64_t columns, int64_t k, const float* a,
                                const float* b, float* c) {
  multiply_panel<1, kLead>(sum, rows, columns, k, a, b, c);
}

static void pack(const float* x, int64_t stride, int64_t rows, int64_t columns, float* out) {
  for (int64_t row = 0; row < rows; ++row, x += stride, out += kLead) {
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
    int64_t i = 0;
    for (; i + kLanes <= columns; i += kLanes) store(out + i, round_to_bf16(load(x + i)));
    if (i < columns)
      store_partial(out + i, round_to_bf16(load_partial(x + i, int(columns - i))),
                    int(columns - i));
  }
}

static void panel_from_rows(const float* w, int64_t stride, int64_t k, int64_t columns,
                            float* out) {
  for (; k > 0; --k, w += stride, out += kPanel) {
    for (int64_t i = 0; i < kPanel; i += kLanes) {
      if (i + kLanes <= columns)
        store(out + i, load(w + i));
      else
        store(out + i, i < columns ? load_partial(w + i, int(columns - i)) : zeros());
    }
  }
}

static void panel_from_columns(const float* w, int64_t stride, int64_t k, int64_t columns,
                               float* out) {
  for (int64_t c = 0; c < kPanel; ++c)
    for (int64_t i = 0; i < k; ++i) out[i * kPanel + c] = c < columns ? w[c * stride + i] : 0.0f;
}

static void widen(const uint32_t* pairs, int64_t columns, float* out) {
  for (int64_t c = 0; c < columns; c += 2, pairs += kPanel, out += 2 * kPanel)
    for (int64_t i = 0; i < kPanel; i += kLanes) {
      const Ints both = load(reinterpret_cast<const int32_t*>(pairs) + i);
      store(out + i, as_floats(both << 16));
      if (c + 1 < columns)
        store(out + kPanel + i, as_floats(both & broadcast(int32_t(0xffff0000))));
    }
}

static void drop(const Dropout& dropout, int64_t row, int64_t column, int64_t columns, float* data,
                 int64_t panel_stride) {
  uint16_t draws[8 * kLanes];
  const Ints threshold = broadcast(int32_t(dropout.threshold));
  const Floats scale = broadcast(dropout.scale);
  for (int64_t first = 0; first < columns; first += 8 * kLanes) {
    dropout_draws(dropout, row, (column + first) / 8, draws);
    const int64_t stop = columns - first < 8 * kLanes ? columns - first : 8 * kLanes;
    for (int64_t j = 0; j < stop; j += kLanes) {
      Ints draw;
      for (int i = 0; i < kLanes; ++i) draw[i] = draws[j + i];
      const Floats factor = select(draw < threshold, zeros(), scale);
      float* at = data + (first + j) / kPanel * panel_stride + (first + j) % kPanel;
      if (stop - j >= kLanes)
        store(at, load(at) * factor);
      else
        store_partial(at, load_partial(at, int(stop - j)) * factor, int(stop - j));
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
    kTileRows, multiply,        multiply_transposed, nullptr, pack,    pack_rounded,
    nullptr,   panel_from_rows, panel_from_columns,  widen,   nullptr, drop,
    finish};

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
