// What every product is made of: matmul and the low-rank passes hand it over in one struct, which
// goes to the kernel by value.
#pragma once

#include "cuda/numbers.h"
#include "cuda/random.h"
#include "cuda/stream.h"
#include "kernels.h"

namespace polylora::cuda {

constexpr int kMostSegments = 48;  // of a product

struct Segment {
  const float* x;
  const void* w;  // float, or bf16 of a weight
  int64_t x_stride, w_stride, k;
  bool w_is_bf16;
  bool rounds;      // x is rounded to bf16 too
  bool mask_after;  // the sums are multiplied by the mask [M, N] after this segment
  bool mask_x;      // x [M, K] is dropped out
  bool mask_w;      // w [K, N] is
};

struct Dropout {
  const int32_t *step, *sample, *position;
  uint32_t module, threshold, key0, key1;
  float scale;

  // What columns 8 * group .. 8 * group + 7 of a row are multiplied by.
  __device__ Philox4 words(int64_t row, int64_t group) const {
    return philox(dropout_counter(uint32_t(group), module, uint32_t(position[row]),
                                  uint32_t(sample[row]), uint32_t(*step)),
                  key0, key1);
  }
  __device__ float factor(const Philox4& words, int column) const {
    const int i = column % 8 / 2;
    const uint32_t word = i == 0 ? words.x : i == 1 ? words.y : i == 2 ? words.z : words.w;
    return (column % 2 ? word >> 16 : word & 0xffff) < threshold ? 0.0f : scale;
  }
};

struct Product {
  pl_layout layout;
  int64_t m, n;
  Segment segments[kMostSegments];
  int segment_count;
  Dropout dropout;
  const float *scale, *bias, *residual;  // null if absent
  int64_t residual_stride;
  float* y;
  int64_t y_stride;
};
static_assert(sizeof(Product) <= 4000, "a launch takes 4 KB of parameters");

Dropout dropout_of(const pl_dropout& dropout);

// In float32, whatever the operands' storage.
void run_product(Stream& stream, const Product& product);

// NT with bf16 operands, rows 16-byte aligned and zero up to the next multiple of 8 columns.
struct SegmentBf16 {
  const bf16 *x, *w;
  int64_t x_stride, w_stride, k;
};
struct ProductBf16 {
  int64_t m, n;
  SegmentBf16 segments[kMostSegments];
  int segment_count;
  const float *scale, *bias, *residual;  // null if absent
  int64_t residual_stride;
  float* y;
  int64_t y_stride;
};
static_assert(sizeof(ProductBf16) <= 4000, "a launch takes 4 KB of parameters");

inline int64_t bf16_pitch(int64_t columns) { return (columns + 7) / 8 * 8; }
// Makes such rows of floats: [rows][bf16_pitch(columns)].
void round_rows(Stream& stream, const float* from, int64_t stride, int64_t rows, int64_t columns,
                bf16* to);
void run_product_bf16(Stream& stream, const ProductBf16& product);

}  // namespace polylora::cuda
