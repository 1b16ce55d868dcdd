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
  bool is_weight;  // w is one, whose storage may not show in the bits
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

  // For columns 8 * group .. 8 * group + 7 of a row: 16 bits each, in order.
  __device__ Philox4 words(int64_t row, int64_t group) const {
    return philox(dropout_counter(uint32_t(group), module, uint32_t(position[row]),
                                  uint32_t(sample[row]), uint32_t(*step)),
                  key0, key1);
  }
  __device__ float factor(const Philox4& words, int column) const {
    const int i = column % 8 / 2;
    return factor(i == 0 ? words.x : i == 1 ? words.y : i == 2 ? words.z : words.w, column);
  }
  // Of the one word that has the column's bits.
  __device__ float factor(uint32_t word, int column) const {
    return keeps(word, column) ? scale : 0.0f;
  }
  __device__ bool keeps(uint32_t word, int column) const {
    return (column % 2 ? word >> 16 : word & 0xffff) >= threshold;
  }
};

// Where the sums go: y = scale * sum + bias + residual.
struct Output {
  int64_t m, n;
  const float *scale, *bias, *residual;  // null if absent
  int64_t residual_stride;
  float* y;
  int64_t y_stride;

  // Only for an element of y.
  __device__ float finish(int64_t row, int64_t column, float sum) const {
    if (scale) sum *= scale[column];
    if (bias) sum += bias[column];
    if (residual) sum += residual[row * residual_stride + column];
    return sum;
  }
  __device__ void store(int64_t row, int64_t column, float sum) const {
    if (row < m && column < n) y[row * y_stride + column] = finish(row, column, sum);
  }
};

struct Product : Output {
  pl_layout layout;
  Segment segments[kMostSegments];
  int segment_count;
  bool may_round;  // operands, to bf16
  Dropout dropout;
};
static_assert(sizeof(Product) <= 4000, "a launch takes 4 KB of parameters");

Dropout dropout_of(const pl_dropout& dropout);

// In float32, whatever the operands' storage, unless it is narrow and may round. `workspace` has
// product_workspace() bytes.
void run_product(Stream& stream, const Product& product, void* workspace);
uint64_t product_workspace(const Product& product);

// What product_narrow.cu takes: one segment of tensors, and few columns in y, or of x^T w in either
// operand. @param is_bf16 whether the tensor cores could take it instead. That depends on columns
// alone, never on the rows of x.
bool is_narrow(const Product& product, bool is_bf16);
uint64_t narrow_workspace(const Product& product);
void run_narrow(Stream& stream, const Product& product, void* workspace);

// With bf16 operands in any layout; rows lie bf16_pitch() of their columns apart, or a multiple of
// 8 more, and are zero up to the next multiple of 8 columns.
struct SegmentBf16 {
  const bf16 *x, *w;
  int64_t x_stride, w_stride, k;
  bool mask_after;
};
struct ProductBf16 : Output {
  pl_layout layout;
  SegmentBf16 segments[kMostSegments];
  int segment_count;
  Dropout dropout;
};
static_assert(sizeof(ProductBf16) <= 4000, "a launch takes 4 KB of parameters");

inline int64_t bf16_pitch(int64_t columns) { return (columns + 7) / 8 * 8; }
// Makes such rows of floats, [rows][bf16_pitch(columns)], dropped out if a mask is given.
void round_rows(Stream& stream, const float* from, int64_t stride, int64_t rows, int64_t columns,
                const Dropout* dropout, bf16* to);

// On the tensor cores of the device's own tier. Which one that is depends on the device, the layout
// and the segments, never on m: rows have the same bits in any company.
void run_product_bf16(Stream& stream, const ProductBf16& product);
// By wgmma (product_bf16_sm90.cu); false if it cannot take the product.
bool run_product_bf16_sm90(Stream& stream, const ProductBf16& product);

}  // namespace polylora::cuda
