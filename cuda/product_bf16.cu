// y = scale * (sum of the segments' products) + bias + residual with bf16 operands and float32
// accumulation, for sm_80 and later: cp.async, ldmatrix, mma.sync. The rank segments of an adapter
// ride in the same accumulators as the base product.
//
// 128 x 128 of y a block, 32 of k a step, kStages steps in flight. An element's sum runs over k in
// order, segment after segment, whatever M and N are.
#include "cuda/launch.h"
#include "cuda/layout.h"
#include "cuda/product.h"
#include "cuda/product_sums.h"
#include "cuda/rows.h"
#include "cuda/tile_bf16.h"

namespace polylora::cuda {
namespace {

constexpr int kThreads = 256, kTile = 128, kStep = 32, kStages = 4;
constexpr int kTileBytes = kTile * kStep * 2;  // of one operand
constexpr int kSharedBytes = kStages * 2 * kTileBytes;
constexpr int kWarpRows = 64, kWarpColumns = 32;  // 2 x 4 warps

// A step's tile of one operand as it lies in memory: kTile rows of kStep of k, or (k outermost)
// kStep rows of kTile.
template <bool kOuter>
struct Operand {
  using Tile = TileBf16<kOuter ? kTile : kStep>;

  // Rows or columns of y from `first` on, of `limit`.
  static __device__ void copy(char* tile, const bf16* from, int64_t stride, int64_t first,
                              int64_t limit, int64_t k, int64_t k_limit) {
    const int64_t row = kOuter ? k : first, rows = kOuter ? k_limit : limit;
    const int64_t column = kOuter ? first : k, columns = kOuter ? limit : k_limit;
#pragma unroll
    for (int j = 0; j < kTileBytes / 16 / kThreads; ++j) {
      const int i = threadIdx.x + j * kThreads, at = i / Tile::kChunks, chunk = i % Tile::kChunks;
      const int64_t r = row + at, c = column + chunk * 8;
      // Columns up to the next multiple of 8 are zeros in memory.
      const bool is_inside = r < rows && c < columns;
      ptx::cp_async_16(tile + Tile::offset(at, chunk), is_inside ? from + r * stride + c : from,
                       is_inside ? 16 : 0);
    }
  }
  // 16 rows or 16 columns of y from `first` on, of the step's k half * 16 .. half * 16 + 15.
  static __device__ void left(uint32_t (&a)[4], const char* tile, int first, int half) {
    if constexpr (kOuter)
      Tile::left_transposed(a, tile, half * 16, first / 8);
    else
      Tile::left(a, tile, first, half * 2);
  }
  static __device__ void right(uint32_t (&b)[4], const char* tile, int first, int half) {
    if constexpr (kOuter)
      Tile::right_as_stored(b, tile, half * 16, first / 8);
    else
      Tile::right(b, tile, first, half * 2);
  }
};

// A step of a segment. A row of 2^31 steps would be 128 GB.
struct Cursor {
  int segment, step;
  __device__ int64_t k() const { return int64_t(step) * kStep; }
  __device__ void advance(const ProductBf16& product) {
    ++step;
    while (segment < product.segment_count && k() >= product.segments[segment].k) {
      ++segment;
      step = 0;
    }
  }
};

template <pl_layout kLayout>
__global__ void __launch_bounds__(kThreads, 2)
    matmul_bf16_kernel(const __grid_constant__ ProductBf16 product, unsigned column_tiles) {
  using Left = Operand<kLayout == PL_TN>;
  using Right = Operand<kLayout != PL_NT>;
  PL_DYNAMIC_SHARED(char, shared);
  const int64_t row = int64_t(blockIdx.x / column_tiles) * kTile;
  const int64_t column = int64_t(blockIdx.x % column_tiles) * kTile;
  const int warp = threadIdx.x / 32;
  const int warp_row = warp / 4 * kWarpRows, warp_column = warp % 4 * kWarpColumns;

  Cursor copied = {0, -1};
  copied.advance(product);  // past empty segments
  Cursor multiplied = copied;
  int steps = 0;
  for (int s = 0; s < product.segment_count; ++s)
    steps += int((product.segments[s].k + kStep - 1) / kStep);
  const auto load = [&](int step) {
    if (step < steps) {
      const SegmentBf16& from = product.segments[copied.segment];
      char* const stage = shared + step % kStages * 2 * kTileBytes;
      Left::copy(stage, from.x, from.x_stride, row, product.m, copied.k(), from.k);
      Right::copy(stage + kTileBytes, from.w, from.w_stride, column, product.n, copied.k(), from.k);
      copied.advance(product);
    }
    ptx::cp_async_commit();  // also when empty, so that the count below holds
  };
#pragma unroll
  for (int step = 0; step < kStages - 1; ++step) load(step);

  float sums[4][4][4] = {};
  const auto at = [&](int i, int j, int e) -> float& { return sums[i][j][e]; };
  for (int step = 0; step < steps; ++step) {
    ptx::cp_async_wait<kStages - 2>();
    __syncthreads();  // the step's tiles are there, and the stage loaded next has been read
    load(step + kStages - 1);
    const char* const x = shared + step % kStages * 2 * kTileBytes;
    const char* const w = x + kTileBytes;
#pragma unroll
    for (int half = 0; half < kStep / 16; ++half) {
      uint32_t a[4][4], b[2][4];
#pragma unroll
      for (int i = 0; i < 4; ++i) Left::left(a[i], x, warp_row + i * 16, half);
#pragma unroll
      for (int j = 0; j < 2; ++j) Right::right(b[j], w, warp_column + j * 16, half);
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 2; ++j)
          multiply_16x16x16(sums[i][2 * j], sums[i][2 * j + 1], a[i], b[j]);
    }
    if constexpr (kLayout == PL_NN) {  // the only one with masks
      int segment = multiplied.segment;
      multiplied.advance(product);
      for (; segment < multiplied.segment; ++segment) {
        if (product.segments[segment].mask_after)
          mask_sums<4, 4>(product.dropout, product, row + warp_row, column + warp_column, at);
      }
    }
  }
  ptx::cp_async_wait<0>();

  store_sums<4, 4>(product, row + warp_row, column + warp_column, at);
}

// Eight columns of a row of floats become bf16, with zeros beyond the last.
struct Round {
  const float* from;
  int64_t stride, columns, chunks;
  bool is_aligned, drops;
  Dropout dropout;
  bf16* to;
  __device__ void operator()(int64_t i) const {
    const int64_t row = i / chunks, chunk = i % chunks;
    const float* const at = from + row * stride;
    float4 low = load_four(at, chunk * 8, columns, is_aligned);
    float4 high = load_four(at, chunk * 8 + 4, columns, is_aligned);
    if (drops) {
      const Philox4 words = dropout.words(row, chunk);
      low.x *= dropout.factor(words.x, 0), low.y *= dropout.factor(words.x, 1);
      low.z *= dropout.factor(words.y, 0), low.w *= dropout.factor(words.y, 1);
      high.x *= dropout.factor(words.z, 0), high.y *= dropout.factor(words.z, 1);
      high.z *= dropout.factor(words.w, 0), high.w *= dropout.factor(words.w, 1);
    }
    *reinterpret_cast<uint4*>(to + i * 8) = packed_bf16(low, high);
  }
};

}  // namespace

void round_rows(Stream& stream, const float* from, int64_t stride, int64_t rows, int64_t columns,
                const Dropout* dropout, bf16* to) {
  const int64_t chunks = bf16_pitch(columns) / 8;
  for_each_element(stream, rows * chunks,
                   Round{from, stride, columns, chunks, rows_are_aligned(from, stride),
                         dropout != nullptr, dropout ? *dropout : Dropout{}, to});
}

void run_product_bf16(Stream& stream, const ProductBf16& product) {
  if (run_product_bf16_sm90(stream, product)) return;
  const auto kernel = product.layout == PL_NT   ? matmul_bf16_kernel<PL_NT>
                      : product.layout == PL_NN ? matmul_bf16_kernel<PL_NN>
                                                : matmul_bf16_kernel<PL_TN>;
  const unsigned column_tiles = blocks_for(product.n, kTile);
  launch(
      stream,
      {blocks_for(blocks_for(product.m, kTile) * int64_t(column_tiles), 1), kThreads, kSharedBytes},
      kernel, product, column_tiles);
}

}  // namespace polylora::cuda
