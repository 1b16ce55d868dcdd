// x w with few columns, as product_narrow.cu says: the shrink x a^T, and dy b.
#include "cuda/product_narrow.h"

namespace polylora::cuda {
namespace {

// A block has kRows rows and kColumns columns; its warps share out every step of k.

template <pl_layout kLayout, int kColumns>
struct ShrinkTiles {
  static constexpr int kThreads = 256, kWarps = kThreads / 32, kRows = 32, kStep = 64;
  // Pitches by which what a warp reads at once lies in different banks.
  static constexpr int kXPitch = kStep + 4;
  static constexpr int kWRows = kLayout == PL_NT ? kColumns : kStep;
  static constexpr int kWColumns = kLayout == PL_NT ? kStep : kColumns;
  static constexpr int kWPitch = kLayout == PL_NT ? kStep + 4 : kColumns + 8;
  static constexpr int kXFloats = kRows * kXPitch, kStageFloats = kXFloats + kWRows * kWPitch;
  static constexpr size_t kSharedBytes = kNarrowStages * kStageFloats * sizeof(float);
};

// A warp has 16 of the columns and of each step every kSlices-th four of k; a thread four rows and
// columns.
template <pl_layout kLayout, int kColumns>
struct FloatShrink {
  using Tiles = ShrinkTiles<kLayout, kColumns>;
  static constexpr int kGroups = kColumns / 16, kSlices = Tiles::kWarps / kGroups, kSums = 16;

  const int group, slice, lane_row, lane_column;
  float sums[kSums] = {};

  __device__ FloatShrink(int warp, int lane)
      : group(warp % kGroups), slice(warp / kGroups), lane_row(lane / 4), lane_column(lane % 4) {}

  __device__ int row(int i) const { return lane_row + 8 * (i / 4); }
  __device__ int column(int i) const {
    return 16 * group + (kLayout == PL_NT ? lane_column + 4 * (i % 4) : 4 * lane_column + i % 4);
  }

  __device__ void step(const float* x, const float* w) {
#pragma unroll 2
    for (int k = 4 * slice; k < Tiles::kStep; k += 4 * kSlices) {
      float xs[4][4], ws[4][4];  // [row][k]; [column][k] or [k][column], as they lie
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        load_row(xs[i], x + (lane_row + 8 * i) * Tiles::kXPitch + k);
        load_row(ws[i], kLayout == PL_NT
                            ? w + (16 * group + lane_column + 4 * i) * Tiles::kWPitch + k
                            : w + (k + i) * Tiles::kWPitch + 16 * group + 4 * lane_column);
      }
#pragma unroll
      for (int e = 0; e < 4; ++e)
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
          for (int j = 0; j < 4; ++j)
            sums[4 * i + j] =
                fmaf(xs[i][e], kLayout == PL_NT ? ws[j][e] : ws[e][j], sums[4 * i + j]);
    }
  }
};

// A warp has all of the tile and of each step eight of k.
template <pl_layout kLayout, int kColumns>
struct Tf32Shrink {
  using Tiles = ShrinkTiles<kLayout, kColumns>;
  static constexpr int kGroups = 1, kSlices = Tiles::kWarps, kSums = kColumns;
  static_assert(kSlices * 8 == Tiles::kStep, "each of k once");

  const int group = 0, slice, g, t;
  float sums[kSums / 4][4] = {};  // [columns of 8 * 2 + rows of 16], as mma has them

  __device__ Tf32Shrink(int warp, int lane) : slice(warp), g(lane / 4), t(lane % 4) {}

  __device__ int row(int i) const { return i / 4 % 2 * 16 + g + i % 4 / 2 * 8; }
  __device__ int column(int i) const { return i / 8 * 8 + 2 * t + i % 2; }

  __device__ void step(const float* x, const float* w) {
    const int k = 8 * slice + t;
    uint32_t a[2][4];
#pragma unroll
    for (int r = 0; r < 8; ++r)
      a[r / 4][r % 4] =
          ptx::tf32_of(x[(r / 4 * 16 + g + r % 2 * 8) * Tiles::kXPitch + k + r % 4 / 2 * 4]);
#pragma unroll
    for (int n = 0; n < kColumns / 8; ++n) {
      uint32_t b[2];
#pragma unroll
      for (int r = 0; r < 2; ++r)
        b[r] = ptx::tf32_of(kLayout == PL_NT ? w[(8 * n + g) * Tiles::kWPitch + k + 4 * r]
                                             : w[(k + 4 * r) * Tiles::kWPitch + 8 * n + g]);
      ptx::mma_m16n8k8_tf32(sums[2 * n], a[0], b);
      ptx::mma_m16n8k8_tf32(sums[2 * n + 1], a[1], b);
    }
  }
};

template <template <pl_layout, int> class Multiply, pl_layout kLayout, int kColumns>
__global__ void __launch_bounds__(256, 2)
    shrink_kernel(const __grid_constant__ NarrowProduct product) {
  using Tiles = ShrinkTiles<kLayout, kColumns>;
  constexpr int kStep = Tiles::kStep, kThreads = Tiles::kThreads;
  PL_DYNAMIC_SHARED(float, shared);
  const int64_t row = int64_t(blockIdx.x) * Tiles::kRows, column = int64_t(blockIdx.y) * kColumns;
  const int64_t steps = (product.x.columns + kStep - 1) / kStep;
  const auto stage_of = [&](int64_t step) {
    return shared + step % kNarrowStages * Tiles::kStageFloats;
  };
  const auto fetch = [&](int64_t step) {
    if (step < steps) {
      float* const x = stage_of(step);
      const int64_t k = step * kStep;
      copy_tile<kThreads, Tiles::kRows, kStep, Tiles::kXPitch>(x, product.x, row, k);
      copy_tile<kThreads, Tiles::kWRows, Tiles::kWColumns, Tiles::kWPitch>(
          x + Tiles::kXFloats, product.w, kLayout == PL_NT ? column : k,
          kLayout == PL_NT ? k : column);
    }
    ptx::cp_async_commit();
  };
  Multiply<kLayout, kColumns> multiply(int(threadIdx.x) / 32, int(threadIdx.x) % 32);
  for (int step = 0; step < kNarrowStages - 1; ++step) fetch(step);
  for (int64_t step = 0; step < steps; ++step) {
    ptx::cp_async_wait<kNarrowStages - 2>();
    __syncthreads();  // the step is here, and nobody reads the stage that is filled next
    fetch(step + kNarrowStages - 1);
    float* const x = stage_of(step);
    if (product.masks) {
      drop_tile<kThreads, Tiles::kRows, kStep, Tiles::kXPitch>(x, product.dropout, row, product.m,
                                                               step * kStep);
      __syncthreads();
    }
    multiply.step(x, x + Tiles::kXFloats);
  }

  // The slices of k, in order.
  using Sums = Multiply<kLayout, kColumns>;
  static_assert(
      (Sums::kSlices - 1) * Sums::kGroups * 32 * Sums::kSums <= kNarrowStages * Tiles::kStageFloats,
      "the sums fit into the stages");
  __syncthreads();  // the stages are free
  const auto left_by = [&](int slice) {
    return shared + ((slice - 1) * Sums::kGroups + multiply.group) * (32 * Sums::kSums) +
           threadIdx.x % 32;
  };
  if (multiply.slice > 0)
#pragma unroll
    for (int i = 0; i < Sums::kSums; ++i)
      left_by(multiply.slice)[32 * i] = sum_of(multiply.sums, i);
  __syncthreads();
  if (multiply.slice > 0) return;
#pragma unroll
  for (int i = 0; i < Sums::kSums; ++i) {
    float sum = sum_of(multiply.sums, i);
    for (int slice = 1; slice < Sums::kSlices; ++slice) sum += left_by(slice)[32 * i];
    product.store(row + multiply.row(i), column + multiply.column(i), sum);
  }
}

template <template <pl_layout, int> class Multiply, pl_layout kLayout, int kColumns>
void launch_shrink(Stream& stream, const NarrowProduct& product) {
  using Tiles = ShrinkTiles<kLayout, kColumns>;
  const LaunchShape shape = {
      dim3(blocks_for(product.m, Tiles::kRows), blocks_for(product.n, kColumns)), Tiles::kThreads,
      Tiles::kSharedBytes};
  launch(stream, shape, shrink_kernel<Multiply, kLayout, kColumns>, product);
}

template <template <pl_layout, int> class Multiply, pl_layout kLayout>
void run_shrink(Stream& stream, const NarrowProduct& product) {
  if (product.n <= 16) return launch_shrink<Multiply, kLayout, 16>(stream, product);
  if (product.n <= 32) return launch_shrink<Multiply, kLayout, 32>(stream, product);
  launch_shrink<Multiply, kLayout, 64>(stream, product);
}

template <template <pl_layout, int> class Multiply>
void run_shrink(Stream& stream, pl_layout layout, const NarrowProduct& product) {
  if (layout == PL_NT) return run_shrink<Multiply, PL_NT>(stream, product);
  run_shrink<Multiply, PL_NN>(stream, product);
}

}  // namespace

void run_shrink(Stream& stream, pl_layout layout, bool may_round, const NarrowProduct& product) {
  if (may_round) return run_shrink<Tf32Shrink>(stream, layout, product);
  run_shrink<FloatShrink>(stream, layout, product);
}

}  // namespace polylora::cuda
