// y[M,N] = scale * sum_i x_i[M,K_i] w_i[N,K_i]^T + bias + residual with bf16 operands and float32
// accumulation, for sm_80 and later: cp.async, ldmatrix, mma.sync. The rank segments of an adapter
// ride in the same accumulators as the base product.
//
// 128 x 128 of y a block, 32 of k a step, kStages steps in flight. An element's sum runs over k in
// order whatever M and N are.
#include "cuda/launch.h"
#include "cuda/layout.h"
#include "cuda/numbers.h"
#include "cuda/product.h"
#include "cuda/tile_bf16.h"

namespace polylora::cuda {
namespace {

constexpr int kThreads = 256, kTile = 128, kStep = 32, kStages = 4;
using Tile = TileBf16<kStep>;
constexpr int kChunks = Tile::kChunks;
constexpr int kTileBytes = kTile * Tile::kRowBytes;  // of one operand
constexpr int kSharedBytes = kStages * 2 * kTileBytes;
constexpr int kWarpRows = 64, kWarpColumns = 32;  // 2 x 4 warps

// Where the copying stands: a step of a segment.
struct Cursor {
  int segment;
  int64_t k;
  __device__ void advance(const ProductBf16& product) {
    k += kStep;
    while (segment < product.segment_count && k >= product.segments[segment].k) {
      ++segment;
      k = 0;
    }
  }
};

__device__ inline void copy_tile(char* tile, const bf16* from, int64_t stride, int64_t first,
                                 int64_t limit, int64_t k, int64_t k_limit) {
#pragma unroll
  for (int j = 0; j < kTile * kChunks / kThreads; ++j) {
    const int i = threadIdx.x + j * kThreads, row = i / kChunks, chunk = i % kChunks;
    const int64_t r = first + row, c = k + chunk * 8;
    // Columns up to the next multiple of 8 are zeros in memory.
    const bool is_inside = r < limit && c < k_limit;
    ptx::cp_async_16(tile + Tile::offset(row, chunk), is_inside ? from + r * stride + c : from,
                     is_inside ? 16 : 0);
  }
}

__global__ void __launch_bounds__(kThreads, 2)
    matmul_bf16_nt_kernel(const __grid_constant__ ProductBf16 product, unsigned column_tiles) {
  PL_DYNAMIC_SHARED(char, shared);
  const int64_t row = int64_t(blockIdx.x / column_tiles) * kTile;
  const int64_t column = int64_t(blockIdx.x % column_tiles) * kTile;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int warp_row = warp / 4 * kWarpRows, warp_column = warp % 4 * kWarpColumns;

  Cursor cursor = {0, -kStep};
  cursor.advance(product);  // past empty segments
  int64_t steps = 0;
  for (int s = 0; s < product.segment_count; ++s)
    steps += (product.segments[s].k + kStep - 1) / kStep;
  const auto load = [&](int64_t step) {
    if (step < steps) {
      const SegmentBf16& from = product.segments[cursor.segment];
      char* const stage = shared + int(step % kStages) * 2 * kTileBytes;
      copy_tile(stage, from.x, from.x_stride, row, product.m, cursor.k, from.k);
      copy_tile(stage + kTileBytes, from.w, from.w_stride, column, product.n, cursor.k, from.k);
      cursor.advance(product);
    }
    ptx::cp_async_commit();  // also when empty, so that the count below holds
  };
#pragma unroll
  for (int step = 0; step < kStages - 1; ++step) load(step);

  float sums[4][4][4] = {};
  for (int64_t step = 0; step < steps; ++step) {
    ptx::cp_async_wait<kStages - 2>();
    __syncthreads();  // the step's tiles are there, and the stage loaded next has been read
    load(step + kStages - 1);
    const char* const x = shared + int(step % kStages) * 2 * kTileBytes;
    const char* const w = x + kTileBytes;
#pragma unroll
    for (int half = 0; half < kStep / 16; ++half) {
      uint32_t a[4][4], b[2][4];
#pragma unroll
      for (int i = 0; i < 4; ++i) Tile::left(a[i], x, warp_row + i * 16, half * 2);
#pragma unroll
      for (int j = 0; j < 2; ++j) Tile::right(b[j], w, warp_column + j * 16, half * 2);
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 2; ++j)
          multiply_16x16x16(sums[i][2 * j], sums[i][2 * j + 1], a[i], b[j]);
    }
  }
  ptx::cp_async_wait<0>();

#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int64_t r = row + warp_row + i * 16 + lane / 4 + e / 2 * 8;
        const int64_t c = column + warp_column + j * 8 + lane % 4 * 2 + e % 2;
        if (r >= product.m || c >= product.n) continue;
        float value = sums[i][j][e];
        if (product.scale) value *= product.scale[c];
        if (product.bias) value += product.bias[c];
        if (product.residual) value += product.residual[r * product.residual_stride + c];
        product.y[r * product.y_stride + c] = value;
      }
}

// Rows of floats become bf16, with zeros up to the pitch.
struct Round {
  const float* from;
  int64_t stride, columns, pitch;
  bf16* to;
  __device__ void operator()(int64_t i) const {
    const int64_t row = i / pitch, column = i % pitch;
    to[i] = narrow<bf16>(column < columns ? from[row * stride + column] : 0.0f);
  }
};

}  // namespace

void round_rows(Stream& stream, const float* from, int64_t stride, int64_t rows, int64_t columns,
                bf16* to) {
  const int64_t pitch = bf16_pitch(columns);
  for_each_element(stream, rows * pitch, Round{from, stride, columns, pitch, to});
}

void run_product_bf16(Stream& stream, const ProductBf16& product) {
  const unsigned column_tiles = blocks_for(product.n, kTile);
  launch(
      stream,
      {blocks_for(blocks_for(product.m, kTile) * int64_t(column_tiles), 1), kThreads, kSharedBytes},
      matmul_bf16_nt_kernel, product, column_tiles);
}

}  // namespace polylora::cuda
