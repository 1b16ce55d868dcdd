// The engine of all products: y = finish(sum of segments), by blocks that are packed into a
// worker's scratch.
//
// Every element of y is one chain of fused multiply-adds over k, upward, segment after segment;
// cutting k into blocks only stores and reloads the accumulator. So in NT and NN the bits of a row
// depend on nothing but the row, however rows, columns and workers are cut. In TN the rows of the
// operands are summed in blocks of kBlock from row 0, each from zero, and the sums of the blocks
// are added in order.
#pragma once

#include <cstdint>

#include "cpu/pool.h"
#include "cpu/weight.h"
#include "kernels.h"

namespace polylora::cpu {

// A step of k is one float, or a pair of bf16, in the packed operands: a "word" of four bytes.
constexpr int64_t kBlock = 256;                         // words of k in a packed block
constexpr int64_t kLead = 272;                          // words between the rows of a packed x
constexpr int64_t kPanelStride = kBlock * kPanel + 64;  // words between packed panels
constexpr int64_t kMostRows = 512;                      // rows of y in a task
constexpr int64_t kMostColumns = 384;                   // columns of y in a task
static_assert(kLead % 1024 != 0 && kPanelStride % 1024 != 0,
              "rows a page apart would share few lines of the cache");

// Rows whose distance is a multiple of a page compete for the same lines of the caches.
inline bool shares_cache_lines(int64_t stride) { return (stride + 1) % 1024 <= 2; }

// Dropout of consecutive rows, read from device memory.
struct Dropout {
  const int32_t* sample;
  const int32_t* position;
  uint32_t step, module, threshold;
  uint32_t keys[10][2];  // of Philox's rounds
  float scale;           // of what is kept
};
Dropout read_dropout(const pl_dropout& dropout);

enum class Sum : int {
  first,      // c = a b, from zero
  continued,  // the chain of c goes on
  added       // c += a b, the chain starting from zero
};

// The vectorised parts, one set of functions an instruction set. Panels are [k][kPanel] words.
struct ProductKernels {
  int lanes;
  int tile_rows;  // rows of y that are computed together

  // c[rows][kPanel] (`columns` of it) from a[rows][k] with a_step between its rows, and b[k] with
  // b_step from one vector of columns to the next; b is read in whole vectors.
  void (*multiply)(Sum sum, int64_t rows, int64_t columns, int64_t k, const float* a,
                   int64_t a_step, const float* b, int64_t b_step, float* c);
  // The same from a[k][rows].
  void (*multiply_transposed)(Sum sum, int64_t rows, int64_t columns, int64_t k, const float* a,
                              int64_t a_step, const float* b, int64_t b_step, float* c);
  // From a panel that holds pairs of bf16; k is even.
  void (*multiply_widened)(Sum sum, int64_t rows, int64_t columns, int64_t k, const float* a,
                           int64_t a_step, const float* b, float* c);
  // From a[rows][kLead] and a panel, both of pairs of bf16 that k counts; null where the processor
  // cannot.
  void (*multiply_pairs)(Sum sum, int64_t rows, int64_t columns, int64_t k, const float* a,
                         const float* b, float* c);

  // out[rows][kLead] (or out_stride) from x, as it is, rounded to bf16, or as pairs of bf16 (an odd
  // last column paired with 0).
  void (*pack)(const float* x, int64_t stride, int64_t rows, int64_t columns, float* out,
               int64_t out_stride);
  void (*pack_rounded)(const float* x, int64_t stride, int64_t rows, int64_t columns, float* out);
  void (*pack_pairs)(const float* x, int64_t stride, int64_t rows, int64_t columns, float* out);

  // Panels, kPanelStride apart, from w[k][columns]; the columns missing in the last become 0.
  void (*panels_from_rows)(const float* w, int64_t stride, int64_t k, int64_t columns, float* out);
  // A panel from w[columns][k].
  void (*panel_from_columns)(const float* w, int64_t stride, int64_t k, int64_t columns,
                             float* out);
  // `columns` columns, the first one even, of a bf16 panel as floats; an odd count is rounded up.
  void (*widen)(const uint32_t* pairs, int64_t columns, float* out);
  // Pairs [rows / 2][kPanel][2] from `columns` (even first) of a bf16 panel [columns /
  // 2][kPanel][2].
  void (*transpose_pairs)(const uint32_t* pairs, int64_t columns, float* out);

  // Multiplies columns [column, column + columns) of one row by their mask; column is a multiple of
  // 8, and column j of them lies at data[j / kPanel * panel_stride + j % kPanel].
  void (*drop)(const Dropout& dropout, int64_t row, int64_t column, int64_t columns, float* data,
               int64_t panel_stride);

  // y = scale * c + bias + residual for `columns` columns of a panel; scale, bias and residual may
  // be null.
  void (*finish)(const float* c, int64_t rows, int64_t columns, const float* scale,
                 const float* bias, const float* residual, int64_t residual_stride, float* y,
                 int64_t stride);
};

const ProductKernels& product_kernels(InstructionSet set);
const ProductKernels* product_kernels_bf16();  // null where this build has none

struct Segment {
  const float* x;
  int64_t x_stride;
  const float* w;  // or
  int64_t w_stride;
  const pl_weight* weight;
  int64_t k;
  bool mask_after, mask_w, mask_x;
};

struct Product {
  pl_layout layout;
  int64_t rows, columns;  // of y
  const Segment* segments;
  int64_t segment_count;
  const Dropout* dropout;  // where a segment masks
  const float* scale;      // optional, [columns], as the next
  const float* bias;
  const float* residual;  // optional
  int64_t residual_stride;
  float* y;
  int64_t y_stride;
};

void run_product(Pool& pool, const Product& product);

}  // namespace polylora::cpu
