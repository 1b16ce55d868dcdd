// Sums over rows for every column of one or several planes, in a fixed order: blocks of kSumRows
// rows from row 0, in each of them eight rows side by side and then the eight in order, at last the
// blocks in order.
//
// Term is a struct with `float operator()(float sum, int64_t plane, int64_t row, int64_t column)`
// that adds its element to the sum (so that it may be a fused multiply-add), Store one with
// `void operator()(int64_t plane, int64_t column, float total)`.
#pragma once

#include "cuda/launch.h"

namespace polylora::cuda {

constexpr int64_t kSumRows = 128;
constexpr int kSumColumns = 32, kSumLanes = 8;  // of a block of threads

struct ColumnSums {
  int64_t planes, rows, columns;
  float* partials;  // [planes][blocks][columns]

  __host__ __device__ int64_t blocks() const { return (rows + kSumRows - 1) / kSumRows; }
  __host__ __device__ int64_t column_blocks() const {
    return (columns + kSumColumns - 1) / kSumColumns;
  }
  uint64_t workspace_bytes() const {
    return uint64_t(planes) * uint64_t(blocks()) * uint64_t(columns) * sizeof(float);
  }
};

template <class Term>
__global__ void __launch_bounds__(kSumColumns* kSumLanes)
    column_partials_kernel(const __grid_constant__ Term term, ColumnSums sums) {
  PL_SHARED(float, lanes, kSumColumns* kSumLanes);
  const int64_t at = blockIdx.x / sums.column_blocks();  // a block of rows of a plane
  const int64_t plane = at / sums.blocks(), begin = at % sums.blocks() * kSumRows;
  const int64_t column =
      blockIdx.x % sums.column_blocks() * kSumColumns + threadIdx.x % kSumColumns;
  const int64_t end = begin + kSumRows < sums.rows ? begin + kSumRows : sums.rows;
  float sum = 0;
  if (column < sums.columns)
    for (int64_t row = begin + threadIdx.x / kSumColumns; row < end; row += kSumLanes)
      sum = term(sum, plane, row, column);
  lanes[threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.x < kSumColumns && column < sums.columns) {
    float total = 0;
    for (int i = 0; i < kSumLanes; ++i) total += lanes[i * kSumColumns + threadIdx.x];
    sums.partials[at * sums.columns + column] = total;
  }
}

template <class Store>
__global__ void __launch_bounds__(128)
    column_totals_kernel(ColumnSums sums, const __grid_constant__ Store store) {
  const int64_t at = int64_t(blockIdx.x) * 128 + threadIdx.x;
  if (at >= sums.planes * sums.columns) return;
  const int64_t plane = at / sums.columns, column = at % sums.columns;
  const float* partial = sums.partials + plane * sums.blocks() * sums.columns + column;
  float total = 0;
  for (int64_t block = 0; block < sums.blocks(); ++block, partial += sums.columns)
    total += *partial;
  store(plane, column, total);
}

// Without rows the totals are 0.
template <class Term, class Store>
void sum_columns(Stream& stream, const ColumnSums& sums, const Term& term, const Store& store) {
  launch(
      stream,
      {blocks_for(sums.planes * sums.blocks() * sums.column_blocks(), 1), kSumColumns * kSumLanes},
      column_partials_kernel<Term>, term, sums);
  launch(stream, {blocks_for(sums.planes * sums.columns, 128), 128}, column_totals_kernel<Store>,
         sums, store);
}

}  // namespace polylora::cuda
