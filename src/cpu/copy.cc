// Conversions: to bf16 and f16 to nearest, ties to even, NaN stays NaN; float to integer towards
// zero, held to the integer's range, NaN becomes 0; i32 to u8 held to the range.
#include "cpu/layout.h"
#include "cpu/operations.h"

#ifndef PL_TARGET_FILE
#define PL_TARGET_FILE "cpu/copy.cc"

namespace polylora::cpu {
namespace {

// Element (i, j) of a block lies at x + i * x_row + j * x_column and goes to y + i * y_row + j *
// y_column, bytes all.
struct CopyBlock {
  const unsigned char* x;
  unsigned char* y;
  int64_t rows, columns;
  int64_t x_row, x_column, y_row, y_column;
};

}  // namespace
}  // namespace polylora::cpu

#endif
#include "cpu/for_each_target.h"

#ifdef PL_TARGET
#include "cpu/transpose.h"

namespace polylora::cpu::PL_TARGET {
namespace {

struct Bf16 {
  uint16_t bits;
};
struct F16 {
  uint16_t bits;
};

PL_INLINE float float_of(uint32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, 4);
  return x;
}
PL_INLINE uint32_t bits_of(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  return bits;
}

PL_INLINE float widen(float x) { return x; }
PL_INLINE float widen(Bf16 x) { return float_of(uint32_t(x.bits) << 16); }
PL_INLINE float widen(F16 x) {
  const uint32_t sign = uint32_t(x.bits & 0x8000) << 16, magnitude = uint32_t(x.bits & 0x7fff)
                                                                     << 13;
  // A subnormal m * 2^-24 is 2^-14 (1 + m / 2^10) - 2^-14.
  const uint32_t subnormal = bits_of(float_of(magnitude + (113u << 23)) - float_of(113u << 23));
  const uint32_t normal = magnitude + (112u << 23), special = magnitude + (224u << 23);
  const uint32_t exponent = magnitude >> 23;
  return float_of(sign | (exponent == 0 ? subnormal : exponent == 31 ? special : normal));
}

PL_INLINE void narrow(float x, float* y) { *y = x; }
PL_INLINE void narrow(float x, Bf16* y) {
  const uint32_t bits = bits_of(x);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16, quiet = (bits >> 16) | 0x40;
  y->bits = uint16_t((bits & 0x7fffffff) > 0x7f800000 ? quiet : rounded);
}
PL_INLINE void narrow(float x, F16* y) {
  const uint32_t bits = bits_of(x), magnitude = bits & 0x7fffffff;
  // Adding 2^-1 leaves multiples of 2^-24, the subnormal unit, in the last place.
  const uint32_t subnormal = bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f);
  const uint32_t normal = (magnitude - (112u << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  const uint32_t special = magnitude > 0x7f800000 ? 0x7e00 | ((magnitude >> 13) & 0x3ff) : 0x7c00;
  const uint32_t half = magnitude < (113u << 23)    ? subnormal
                        : magnitude >= (143u << 23) ? special
                                                    : normal;
  y->bits = uint16_t(((bits >> 16) & 0x8000) | half);
}
PL_INLINE void narrow(float x, int32_t* y) {
  *y = x >= 2147483648.0f    ? 2147483647
       : x >= -2147483648.0f ? int32_t(x)
       : x != x              ? 0
                             : int32_t(-2147483647 - 1);
}
PL_INLINE void narrow(float x, uint8_t* y) { *y = x >= 255.0f ? 255 : x > 0.0f ? uint8_t(x) : 0; }

template <class X, class Y>
PL_INLINE void convert(const X* x, Y* y) {
  narrow(widen(*x), y);
}
PL_INLINE void convert(const int32_t* x, float* y) { *y = float(*x); }
PL_INLINE void convert(const uint8_t* x, float* y) { *y = float(*x); }
PL_INLINE void convert(const uint8_t* x, int32_t* y) { *y = *x; }
PL_INLINE void convert(const int32_t* x, uint8_t* y) {
  *y = *x >= 255 ? 255 : *x > 0 ? uint8_t(*x) : 0;
}
// Bits, not numbers: a signalling NaN stays as it is.
PL_INLINE void convert(const uint32_t* x, uint32_t* y) { *y = *x; }
PL_INLINE void convert(const uint16_t* x, uint16_t* y) { *y = *x; }
PL_INLINE void convert(const uint8_t* x, uint8_t* y) { *y = *x; }

template <class X, class Y>
constexpr bool kIsFourBytes = false;
template <>
constexpr bool kIsFourBytes<uint32_t, uint32_t> = true;

// Elements of four bytes whose x side lies densest along the rows of y.
void transpose_block(const CopyBlock& block) {
  const int64_t x_stride = block.x_column / 4, y_stride = block.y_row / 4;
  int64_t i = 0;
  for (; i + 4 <= block.rows; i += 4) {
    const float* const x = reinterpret_cast<const float*>(block.x) + i;
    float* const y = reinterpret_cast<float*>(block.y) + i * y_stride;
    int64_t j = 0;
    for (; j + kLanes <= block.columns; j += kLanes)
      transpose_quarters(x + j * x_stride, x_stride, y + j, y_stride);
    for (; j < block.columns; ++j)
      for (int64_t r = 0; r < 4; ++r) std::memcpy(y + r * y_stride + j, x + j * x_stride + r, 4);
  }
  for (; i < block.rows; ++i)
    for (int64_t j = 0; j < block.columns; ++j)
      std::memcpy(block.y + i * block.y_row + j * 4, block.x + i * 4 + j * block.x_column, 4);
}

template <class X, class Y>
void copy_block(const CopyBlock& block) {
  constexpr int64_t kTile = 16;
  if (block.x_column == int64_t(sizeof(X)) && block.y_column == int64_t(sizeof(Y))) {
    for (int64_t i = 0; i < block.rows; ++i) {
      const X* __restrict const x = reinterpret_cast<const X*>(block.x + i * block.x_row);
      Y* __restrict const y = reinterpret_cast<Y*>(block.y + i * block.y_row);
      for (int64_t j = 0; j < block.columns; ++j) convert(x + j, y + j);
    }
    return;
  }
  if (kIsFourBytes<X, Y> && block.x_row == 4 && block.y_column == 4) return transpose_block(block);
  // Other transpositions read columns: tiles keep the lines that both sides touch in the first
  // cache.
  for (int64_t i0 = 0; i0 < block.rows; i0 += kTile)
    for (int64_t j0 = 0; j0 < block.columns; j0 += kTile) {
      const int64_t i1 = i0 + kTile < block.rows ? i0 + kTile : block.rows;
      const int64_t j1 = j0 + kTile < block.columns ? j0 + kTile : block.columns;
      for (int64_t i = i0; i < i1; ++i)
        for (int64_t j = j0; j < j1; ++j)
          convert(reinterpret_cast<const X*>(block.x + i * block.x_row + j * block.x_column),
                  reinterpret_cast<Y*>(block.y + i * block.y_row + j * block.y_column));
    }
}

typedef void (*CopyFunction)(const CopyBlock&);

template <class X>
CopyFunction copy_to(int32_t y) {
  switch (y) {
    case PL_F32:
      return copy_block<X, float>;
    case PL_BF16:
      return copy_block<X, Bf16>;
    case PL_F16:
      return copy_block<X, F16>;
    case PL_I32:
      return copy_block<X, int32_t>;
    default:
      return copy_block<X, uint8_t>;
  }
}

// The caller has checked that the pair is one of these.
CopyFunction copy_function(int32_t x, int32_t y) {
  if (x == y) {
    if (x == PL_U8) return copy_block<uint8_t, uint8_t>;
    return x == PL_F32 || x == PL_I32 ? copy_block<uint32_t, uint32_t>
                                      : copy_block<uint16_t, uint16_t>;
  }
  switch (x) {
    case PL_F32:
      return copy_to<float>(y);
    case PL_BF16:
      return copy_to<Bf16>(y);
    case PL_F16:
      return copy_to<F16>(y);
    case PL_I32:
      return y == PL_F32 ? copy_block<int32_t, float> : copy_block<int32_t, uint8_t>;
    default:
      return y == PL_F32 ? copy_block<uint8_t, float> : copy_block<uint8_t, int32_t>;
  }
}

}  // namespace
}  // namespace polylora::cpu::PL_TARGET

#else

namespace polylora::cpu {

namespace {

int64_t size_of(int32_t dtype) {
  return dtype == PL_F32 || dtype == PL_I32 ? 4 : dtype == PL_U8 ? 1 : 2;
}

}  // namespace

void run_copy(Pool& pool, const pl_copy_args& args) {
  const Layout<2> layout({&args.y, &args.x});
  if (layout.count == 0) return;
  const int64_t y_size = size_of(args.y.dtype), x_size = size_of(args.x.dtype);
  const auto copy = PL_SELECT(pool, copy_function)(args.x.dtype, args.y.dtype);
  const auto* const x = static_cast<const unsigned char*>(args.x.data);
  auto* const y = static_cast<unsigned char*>(args.y.data);

  // Columns are y's innermost dimension; rows the dimension in which x is densest, if that is
  // another.
  const int column = layout.rank - 1;
  int row = -1;
  for (int d = 0; d < column; ++d)
    if (row < 0 || layout.strides[1][d] <= layout.strides[1][row]) row = d;
  const int64_t rows = row < 0 ? 1 : layout.shape[row], columns = layout.shape[column];
  int64_t planes = 1;
  for (int d = 0; d < column; ++d)
    if (d != row) planes *= layout.shape[d];

  constexpr int64_t kColumns = 16384;
  const int64_t row_step = columns >= kColumns ? 1 : kColumns / columns;
  const int64_t row_blocks = (rows + row_step - 1) / row_step,
                column_blocks = (columns + kColumns - 1) / kColumns;
  pool.parallel(planes * row_blocks * column_blocks, [&](int64_t piece, Worker&) {
    const int64_t j = piece % column_blocks * kColumns,
                  i = piece / column_blocks % row_blocks * row_step;
    int64_t plane = piece / column_blocks / row_blocks, x_at = 0, y_at = 0;
    for (int d = column - 1; d >= 0; --d) {
      if (d == row) continue;
      x_at += plane % layout.shape[d] * layout.strides[1][d];
      y_at += plane % layout.shape[d] * layout.strides[0][d];
      plane /= layout.shape[d];
    }
    CopyBlock block;
    block.rows = rows - i < row_step ? rows - i : row_step;
    block.columns = columns - j < kColumns ? columns - j : kColumns;
    block.x_row = row < 0 ? 0 : layout.strides[1][row] * x_size;
    block.y_row = row < 0 ? 0 : layout.strides[0][row] * y_size;
    block.x_column = layout.strides[1][column] * x_size;
    block.y_column = layout.strides[0][column] * y_size;
    block.x = x + x_at * x_size + i * block.x_row + j * block.x_column;
    block.y = y + y_at * y_size + i * block.y_row + j * block.y_column;
    copy(block);
  });
}

}  // namespace polylora::cpu

#endif
