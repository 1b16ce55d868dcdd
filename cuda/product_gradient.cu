// x^T w with few columns in either operand, as product_narrow.cu says: the gradients of a and b.
#include "cuda/layout.h"
#include "cuda/product_narrow.h"

namespace polylora::cuda {
namespace {

// A block has kWide columns of the wide operand, kNarrow of the other, and a chunk of rows; a warp
// has 64 of the wide ones.

// Rows are cut where they are many and the columns make too few blocks for a large device, not so
// often that writing the chunks' sums would cost what it gains.
constexpr int64_t kLeastChunk = 512, kManyBlocks = 528;

template <int kNarrow>
struct GradientTiles {
  static constexpr int kThreads = 128, kWide = 256, kStep = 16;
  static constexpr int kWidePitch = kWide + 8, kNarrowPitch = kNarrow + 8;
  static constexpr int kWideFloats = kStep * kWidePitch;
  static constexpr int kStageFloats = kWideFloats + kStep * kNarrowPitch;
  static constexpr size_t kSharedBytes = kNarrowStages * kStageFloats * sizeof(float);
};

// A thread has eight columns of the wide operand, in two fours, and four of each 16 of the other.
template <int kNarrow>
struct FloatGradient {
  using Tiles = GradientTiles<kNarrow>;
  static constexpr int kGroups = kNarrow / 16, kEach = 4 * kGroups, kSums = 8 * kEach;

  const int my_wide, my_narrow;
  float sums[kSums] = {};

  __device__ FloatGradient(int warp, int lane)
      : my_wide(warp * 64 + lane % 8 * 4), my_narrow(lane / 8 * 4) {}

  __device__ int wide(int i) const { return my_wide + i / kEach / 4 * 32 + i / kEach % 4; }
  __device__ int narrow(int i) const { return i % kEach / 4 * 16 + my_narrow + i % 4; }

  __device__ void step(const float* wides, const float* narrows) {
#pragma unroll 2
    for (int t = 0; t < Tiles::kStep; ++t) {
      float left[2][4], right[kGroups][4];
#pragma unroll
      for (int i = 0; i < 2; ++i)
        load_row(left[i], wides + t * Tiles::kWidePitch + my_wide + 32 * i);
#pragma unroll
      for (int g = 0; g < kGroups; ++g)
        load_row(right[g], narrows + t * Tiles::kNarrowPitch + 16 * g + my_narrow);
#pragma unroll
      for (int i = 0; i < 8; ++i)
#pragma unroll
        for (int j = 0; j < kEach; ++j)
          sums[i * kEach + j] = fmaf(left[i / 4][i % 4], right[j / 4][j % 4], sums[i * kEach + j]);
    }
  }
};

template <int kNarrow>
struct Tf32Gradient {
  using Tiles = GradientTiles<kNarrow>;
  static constexpr int kColumns = kNarrow / 8, kSums = 16 * kColumns;

  const int first, g, t;
  float sums[kSums / 4][4] = {};  // [wide ones of 16][narrow ones of 8], as mma has them

  __device__ Tf32Gradient(int warp, int lane) : first(warp * 64), g(lane / 4), t(lane % 4) {}

  __device__ int wide(int i) const { return first + i / 4 / kColumns * 16 + g + i % 4 / 2 * 8; }
  __device__ int narrow(int i) const { return i / 4 % kColumns * 8 + 2 * t + i % 2; }

  __device__ void step(const float* wides, const float* narrows) {
#pragma unroll
    for (int k = 0; k < Tiles::kStep; k += 8) {
      uint32_t b[kColumns][2];
#pragma unroll
      for (int i = 0; i < 2 * kColumns; ++i)
        b[i / 2][i % 2] =
            ptx::tf32_of(narrows[(k + t + i % 2 * 4) * Tiles::kNarrowPitch + i / 2 * 8 + g]);
#pragma unroll
      for (int m = 0; m < 4; ++m) {
        uint32_t a[4];
#pragma unroll
        for (int r = 0; r < 4; ++r)
          a[r] = ptx::tf32_of(
              wides[(k + t + r / 2 * 4) * Tiles::kWidePitch + first + 16 * m + g + r % 2 * 8]);
#pragma unroll
        for (int n = 0; n < kColumns; ++n) ptx::mma_m16n8k8_tf32(sums[m * kColumns + n], a, b[n]);
      }
    }
  }
};

template <template <int> class Multiply, int kNarrow>
__global__ void __launch_bounds__(128, 3)
    gradient_kernel(const __grid_constant__ NarrowProduct product) {
  using Tiles = GradientTiles<kNarrow>;
  constexpr int kStep = Tiles::kStep, kThreads = Tiles::kThreads, kWide = Tiles::kWide;
  PL_DYNAMIC_SHARED(float, shared);
  const bool w_is_wide = product.w_is_wide;
  const NarrowOperand& wide = w_is_wide ? product.w : product.x;
  const NarrowOperand& narrow = w_is_wide ? product.x : product.w;
  const int64_t first = int64_t(blockIdx.x) * kWide, narrow_first = int64_t(blockIdx.y) * kNarrow;
  const int64_t begin = int64_t(blockIdx.z) * product.chunk_rows;
  const int64_t left = wide.rows - begin;
  const int64_t rows = left < product.chunk_rows ? left : product.chunk_rows;
  const int steps = int((rows + kStep - 1) / kStep);
  const auto stage_of = [&](int step) {
    return shared + step % kNarrowStages * Tiles::kStageFloats;
  };
  const auto fetch = [&](int step) {
    if (step < steps) {
      float* const to = stage_of(step);
      const int64_t row = begin + step * kStep;
      copy_tile<kThreads, kStep, kWide, Tiles::kWidePitch>(to, wide, row, first);
      copy_tile<kThreads, kStep, kNarrow, Tiles::kNarrowPitch>(to + Tiles::kWideFloats, narrow, row,
                                                               narrow_first);
    }
    ptx::cp_async_commit();
  };
  Multiply<kNarrow> multiply(int(threadIdx.x) / 32, int(threadIdx.x) % 32);
  for (int step = 0; step < kNarrowStages - 1; ++step) fetch(step);
  for (int step = 0; step < steps; ++step) {
    ptx::cp_async_wait<kNarrowStages - 2>();
    __syncthreads();  // the step is here, and nobody reads the stage that is filled next
    fetch(step + kNarrowStages - 1);
    float* const wides = stage_of(step);
    float* const narrows = wides + Tiles::kWideFloats;
    if (product.masks) {
      const int64_t row = begin + step * kStep;
      if (w_is_wide)
        drop_tile<kThreads, kStep, kWide, Tiles::kWidePitch>(wides, product.dropout, row, wide.rows,
                                                             first);
      else
        drop_tile<kThreads, kStep, kNarrow, Tiles::kNarrowPitch>(narrows, product.dropout, row,
                                                                 narrow.rows, narrow_first);
      __syncthreads();
    }
    multiply.step(wides, narrows);
  }
#pragma unroll
  for (int i = 0; i < Multiply<kNarrow>::kSums; ++i) {
    const int64_t of_wide = first + multiply.wide(i), of_narrow = narrow_first + multiply.narrow(i);
    const int64_t row = w_is_wide ? of_narrow : of_wide;
    const int64_t column = w_is_wide ? of_wide : of_narrow;
    const float sum = sum_of(multiply.sums, i);
    if (!product.partial)
      product.store(row, column, sum);
    else if (row < product.m && column < product.n)
      product.partial[(int64_t(blockIdx.z) * product.m + row) * product.n + column] = sum;
  }
}

// y of the chunks' sums, in order.
struct SumChunks {
  NarrowProduct product;
  __device__ void operator()(int64_t i) const {
    const int64_t count = product.m * product.n;
    float sum = product.partial[i];
    for (int64_t chunk = 1; chunk < product.chunks; ++chunk)
      sum += product.partial[chunk * count + i];
    product.store(i / product.n, i % product.n, sum);
  }
};

// Narrow columns that a block of x^T w has.
int narrow_tile(const NarrowProduct& product) { return product.narrow_columns() <= 16 ? 16 : 32; }

template <template <int> class Multiply, int kNarrow>
void launch_gradient(Stream& stream, const NarrowProduct& product) {
  using Tiles = GradientTiles<kNarrow>;
  const LaunchShape shape = {
      dim3(blocks_for(product.wide_columns(), Tiles::kWide),
           blocks_for(product.narrow_columns(), kNarrow), unsigned(product.chunks)),
      Tiles::kThreads, Tiles::kSharedBytes};
  launch(stream, shape, gradient_kernel<Multiply, kNarrow>, product);
}

template <template <int> class Multiply>
void run_gradient(Stream& stream, const NarrowProduct& product) {
  if (narrow_tile(product) == 16)
    launch_gradient<Multiply, 16>(stream, product);
  else
    launch_gradient<Multiply, 32>(stream, product);
  if (product.partial) for_each_element(stream, product.m * product.n, SumChunks{product});
}

}  // namespace

void run_gradient(Stream& stream, bool may_round, const NarrowProduct& product) {
  if (may_round) return run_gradient<Tf32Gradient>(stream, product);
  run_gradient<FloatGradient>(stream, product);
}

void cut_rows(NarrowProduct* product, int64_t rows) {
  const int64_t tiles = int64_t(blocks_for(product->wide_columns(), GradientTiles<16>::kWide)) *
                        blocks_for(product->narrow_columns(), narrow_tile(*product));
  const int64_t most = rows / kLeastChunk, wanted = kManyBlocks / (tiles > 0 ? tiles : 1);
  const int64_t chunks = most < wanted ? most : wanted;
  if (chunks <= 1) return;
  constexpr int64_t kStep = GradientTiles<16>::kStep;
  product->chunk_rows = (rows + chunks * kStep - 1) / (chunks * kStep) * kStep;
  product->chunks = (rows + product->chunk_rows - 1) / product->chunk_rows;
}

}  // namespace polylora::cuda
