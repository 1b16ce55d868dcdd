// Products with a narrow side, as the factors of an adapter make them: rows of x times
// few columns (x a^T and dy b), and sums over all rows between few columns and many (the gradients
// of a and b). A rank of 16 does 8 operations for each byte of the wide operand, so reading that
// once, at the memory's rate, is all that there is to do well: every block takes the whole narrow
// side, and copies run ahead of what is multiplied.
//
// Where operands may be rounded to bf16 the tensor cores take them as tf32, which rounds less; else
// it is float32 throughout, whose rate binds from a rank of 32 on.
//
// Bits: an element of x w is a chain for each slice of k, two to eight, and their sum in order,
// whatever the rows beside it; one of x^T w is a chain for each chunk of the rows, and their sum in
// order.
#include "cuda/launch.h"
#include "cuda/layout.h"
#include "cuda/product.h"
#include "cuda/ptx.h"

namespace polylora::cuda {
namespace {

constexpr int kStages = 3;
constexpr int kMostNarrow = 256;      // of the narrow side
constexpr int kMostAgainstBf16 = 64;  // where the tensor cores could take it: wider is theirs

struct Matrix {
  const float* data;
  int64_t stride, rows, columns;
  bool aligned;  // to 16 bytes, every row
};

Matrix matrix_of(const void* data, int64_t stride, int64_t rows, int64_t columns) {
  return {static_cast<const float*>(data), stride, rows, columns,
          reinterpret_cast<uintptr_t>(data) % 16 == 0 && stride % 4 == 0};
}

struct NarrowProduct : Output {
  Matrix x, w;
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
__device__ inline void copy_tile(float* tile, const Matrix& from, int64_t row, int64_t column) {
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

// ---- x w: a block has kRows rows and kColumns columns; its warps share out every step of k.

template <pl_layout kLayout, int kColumns>
struct ShrinkTiles {
  static constexpr int kThreads = 256, kWarps = kThreads / 32, kRows = 32, kStep = 64;
  // Pitches by which what a warp reads at once lies in different banks.
  static constexpr int kXPitch = kStep + 4;
  static constexpr int kWRows = kLayout == PL_NT ? kColumns : kStep;
  static constexpr int kWColumns = kLayout == PL_NT ? kStep : kColumns;
  static constexpr int kWPitch = kLayout == PL_NT ? kStep + 4 : kColumns + 8;
  static constexpr int kXFloats = kRows * kXPitch, kStageFloats = kXFloats + kWRows * kWPitch;
  static constexpr size_t kSharedBytes = kStages * kStageFloats * sizeof(float);
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

__device__ inline float& sum_of(float* sums, int i) { return sums[i]; }
__device__ inline float& sum_of(float (*sums)[4], int i) { return sums[i / 4][i % 4]; }

template <template <pl_layout, int> class Multiply, pl_layout kLayout, int kColumns>
__global__ void __launch_bounds__(256, 2)
    shrink_kernel(const __grid_constant__ NarrowProduct product) {
  using Tiles = ShrinkTiles<kLayout, kColumns>;
  constexpr int kStep = Tiles::kStep, kThreads = Tiles::kThreads;
  PL_DYNAMIC_SHARED(float, shared);
  const int64_t row = int64_t(blockIdx.x) * Tiles::kRows, column = int64_t(blockIdx.y) * kColumns;
  const int64_t steps = (product.x.columns + kStep - 1) / kStep;
  const auto stage_of = [&](int64_t step) { return shared + step % kStages * Tiles::kStageFloats; };
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
  for (int step = 0; step < kStages - 1; ++step) fetch(step);
  for (int64_t step = 0; step < steps; ++step) {
    ptx::cp_async_wait<kStages - 2>();
    __syncthreads();  // the step is here, and nobody reads the stage that is filled next
    fetch(step + kStages - 1);
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
      (Sums::kSlices - 1) * Sums::kGroups * 32 * Sums::kSums <= kStages * Tiles::kStageFloats,
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

// ---- x^T w: a block has kWide columns of the wide operand, kNarrow of the other, and a chunk of
// rows; a warp has 64 of the wide ones.

// Rows are cut where they are many and the columns make too few blocks for a large device, not so
// often that writing the chunks' sums would cost what it gains.
constexpr int64_t kLeastChunk = 512, kManyBlocks = 528;

template <int kNarrow>
struct GradientTiles {
  static constexpr int kThreads = 128, kWide = 256, kStep = 16;
  static constexpr int kWidePitch = kWide + 8, kNarrowPitch = kNarrow + 8;
  static constexpr int kWideFloats = kStep * kWidePitch;
  static constexpr int kStageFloats = kWideFloats + kStep * kNarrowPitch;
  static constexpr size_t kSharedBytes = kStages * kStageFloats * sizeof(float);
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
  const Matrix& wide = w_is_wide ? product.w : product.x;
  const Matrix& narrow = w_is_wide ? product.x : product.w;
  const int64_t first = int64_t(blockIdx.x) * kWide, narrow_first = int64_t(blockIdx.y) * kNarrow;
  const int64_t begin = int64_t(blockIdx.z) * product.chunk_rows;
  const int64_t left = wide.rows - begin;
  const int64_t rows = left < product.chunk_rows ? left : product.chunk_rows;
  const int steps = int((rows + kStep - 1) / kStep);
  const auto stage_of = [&](int step) { return shared + step % kStages * Tiles::kStageFloats; };
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
  for (int step = 0; step < kStages - 1; ++step) fetch(step);
  for (int step = 0; step < steps; ++step) {
    ptx::cp_async_wait<kStages - 2>();
    __syncthreads();  // the step is here, and nobody reads the stage that is filled next
    fetch(step + kStages - 1);
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

// ---- Launching

// Narrow columns that a block of x^T w has.
int narrow_tile(const NarrowProduct& product) { return product.narrow_columns() <= 16 ? 16 : 32; }

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

// Into chunks of as many rows each, but for the last: by the shape alone.
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

NarrowProduct narrow_of(const Product& product) {
  const Segment& segment = product.segments[0];
  const bool is_tn = product.layout == PL_TN, is_nt = product.layout == PL_NT;
  NarrowProduct narrow = {};
  static_cast<Output&>(narrow) = product;
  narrow.x = matrix_of(segment.x, segment.x_stride, is_tn ? segment.k : product.m,
                       is_tn ? product.m : segment.k);
  narrow.w = matrix_of(segment.w, segment.w_stride, is_nt ? product.n : segment.k,
                       is_nt ? segment.k : product.n);
  narrow.masks = segment.mask_x || segment.mask_w;
  narrow.dropout = product.dropout;
  narrow.w_is_wide = product.n >= product.m;
  narrow.chunks = 1;
  narrow.chunk_rows = segment.k;
  if (is_tn) cut_rows(&narrow, segment.k);
  return narrow;
}

}  // namespace

bool is_narrow(const Product& product, bool is_bf16) {
  const Segment& segment = product.segments[0];
  if (product.segment_count != 1 || segment.is_weight || segment.mask_after) return false;
  if (product.layout != PL_TN) return !is_bf16 && !segment.mask_w && product.n <= kMostNarrow;
  const int64_t narrow = product.m < product.n ? product.m : product.n;
  return narrow <= (is_bf16 ? kMostAgainstBf16 : kMostNarrow);
}

uint64_t narrow_workspace(const Product& product) {
  const NarrowProduct narrow = narrow_of(product);
  if (narrow.chunks == 1) return 0;
  return uint64_t(narrow.chunks) * uint64_t(product.m) * uint64_t(product.n) * sizeof(float);
}

void run_narrow(Stream& stream, const Product& product, void* workspace) {
  NarrowProduct narrow = narrow_of(product);
  if (narrow.chunks > 1) narrow.partial = static_cast<float*>(workspace);
  const bool is_tn = product.layout == PL_TN;
  if (product.may_round)
    is_tn ? run_gradient<Tf32Gradient>(stream, narrow)
          : run_shrink<Tf32Shrink>(stream, product.layout, narrow);
  else
    is_tn ? run_gradient<FloatGradient>(stream, narrow)
          : run_shrink<FloatShrink>(stream, product.layout, narrow);
}

}  // namespace polylora::cuda
