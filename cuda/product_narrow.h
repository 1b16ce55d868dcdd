// What the kernels of products with a narrow side share (product_narrow.cu says what they are).
#pragma once

#include "cuda/launch.h"
#include "cuda/product.h"
#include "cuda/ptx.h"

namespace polylora::cuda {

constexpr int kNarrowStages = 3;  // of shared memory, two of which are on their way

struct NarrowOperand {
  const float* data;
  int64_t stride, rows, columns;
  bool aligned;  // to 16 bytes, every row
};

struct NarrowProduct : Output {
  NarrowOperand x, w;
  bool masks;  // x of x w, w of x^T w
  Dropout dropout;
  // Of x^T w alone:
  bool w_is_wide;
  int64_t chunks, chunk_rows;
  float* partial;  // [chunks][m][n]; null: there is one chunk, which goes to y

  int64_t wide_columns() const { return w_is_wide ? n : m; }
  int64_t narrow_columns() const { return w_is_wide ? m : n; }
};

// kRows x kColumns of a matrix from (row, column) on; zero beyond its edges.
template <int kThreads, int kRows, int kColumns, int kPitch>
__device__ inline void copy_tile(float* tile, const NarrowOperand& from, int64_t row,
                                 int64_t column) {
  constexpr int kPieces = kColumns / 4;
#pragma unroll 4
  for (int i = int(threadIdx.x); i < kRows * kPieces; i += kThreads) {
    const int r = i / kPieces, c = i % kPieces * 4;
    const int64_t left = row + r < from.rows ? from.columns - column - c : 0;
    const int count = left <= 0 ? 0 : left < 4 ? int(left) : 4;
    const float* const source =
        count ? from.data + (row + r) * from.stride + column + c : from.data;
    float* const to = tile + r * kPitch + c;
    if (from.aligned) {
      ptx::cp_async_16(to, source, 4 * count);
    } else {
#pragma unroll
      for (int e = 0; e < 4; ++e)
        ptx::cp_async_4(to + e, e < count ? source + e : source, e < count ? 4 : 0);
    }
  }
}

// What has landed in a tile, dropped out; `column` is a multiple of 8.
template <int kThreads, int kRows, int kColumns, int kPitch>
__device__ inline void drop_tile(float* tile, const Dropout& dropout, int64_t row, int64_t rows,
                                 int64_t column) {
  constexpr int kGroups = kColumns / 8;
  for (int i = int(threadIdx.x); i < kRows * kGroups; i += kThreads) {
    const int r = i / kGroups, group = i % kGroups;
    if (row + r >= rows) continue;
    const Philox4 words = dropout.words(row + r, column / 8 + group);
    float* const values = tile + r * kPitch + group * 8;
#pragma unroll
    for (int j = 0; j < 8; ++j) values[j] *= dropout.factor(words, j);
  }
}

__device__ inline void load_row(float (&to)[4], const float* from) {
  const float4 value = load4(from);
  to[0] = value.x;
  to[1] = value.y;
  to[2] = value.z;
  to[3] = value.w;
}

__device__ inline float& sum_of(float* sums, int i) { return sums[i]; }
__device__ inline float& sum_of(float (*sums)[4], int i) { return sums[i / 4][i % 4]; }

// x w (product_shrink.cu) and x^T w (product_gradient.cu): y overwrites, with operands as tf32 if
// they may be rounded. The rows of the latter are cut into chunks, whose sums go to `partial`,
// which is the caller's, where there are several.
void run_shrink(Stream& stream, pl_layout layout, bool may_round, const NarrowProduct& product);
void run_gradient(Stream& stream, bool may_round, const NarrowProduct& product);
// Sets `chunks`, and the rows of each but the last: by the shape alone.
void cut_rows(NarrowProduct* product, int64_t rows);

}  // namespace polylora::cuda
