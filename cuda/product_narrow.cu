// Products with a narrow side, in float32, as the factors of an adapter make them: rows of x times
// few columns (x a^T and dy b), and sums over all rows between few columns and many (the gradients
// of a and b). A rank of 16 does 8 operations for each byte of the wide operand, so reading that
// once, at the memory's rate, is all that there is to do well: every block takes the whole narrow
// side, and copies run ahead of what is multiplied.
//
// Bits: an element of x w is eight (or four, or two) chains over k and their sum in order, whatever
// the rows beside it; one of x^T w is a chain for each kChunk rows, and their sum in order.
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
  int64_t chunks;
  float* partial;  // [chunks][m][n]; null: there is one chunk, which goes to y
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

// ---- x w: a block has kRows rows and kColumns columns; its warps share out the columns, 16 each,
// and of each step of k every kSlices-th four.

template <pl_layout kLayout, int kColumns>
struct Shrink {
  static constexpr int kThreads = 256, kRows = 32, kStep = 64;
  static constexpr int kGroups = kColumns / 16, kSlices = kThreads / 32 / kGroups;
  // Rows of four banks more, so that eight of them are read at once.
  static constexpr int kXPitch = kStep + 4;
  static constexpr int kWRows = kLayout == PL_NT ? kColumns : kStep;
  static constexpr int kWColumns = kLayout == PL_NT ? kStep : kColumns;
  static constexpr int kWPitch = kWColumns + 4;
  static constexpr int kXFloats = kRows * kXPitch, kStageFloats = kXFloats + kWRows * kWPitch;
  static constexpr size_t kSharedBytes = kStages * kStageFloats * sizeof(float);
  static_assert((kSlices - 1) * kGroups * 512 <= kStages * kStageFloats, "the slices' sums fit");
};

template <pl_layout kLayout, int kColumns>
__global__ void __launch_bounds__(256, 2)
    shrink_kernel(const __grid_constant__ NarrowProduct product) {
  using Sizes = Shrink<kLayout, kColumns>;
  constexpr int kStep = Sizes::kStep, kThreads = Sizes::kThreads, kSlices = Sizes::kSlices;
  PL_DYNAMIC_SHARED(float, shared);
  const int64_t row = int64_t(blockIdx.x) * Sizes::kRows, column = int64_t(blockIdx.y) * kColumns;
  const int64_t steps = (product.x.columns + kStep - 1) / kStep;
  const auto stage_of = [&](int64_t step) { return shared + step % kStages * Sizes::kStageFloats; };
  const auto fetch = [&](int64_t step) {
    if (step < steps) {
      float* const x = stage_of(step);
      float* const w = x + Sizes::kXFloats;
      const int64_t k = step * kStep;
      copy_tile<kThreads, Sizes::kRows, kStep, Sizes::kXPitch>(x, product.x, row, k);
      copy_tile<kThreads, Sizes::kWRows, Sizes::kWColumns, Sizes::kWPitch>(
          w, product.w, kLayout == PL_NT ? column : k, kLayout == PL_NT ? k : column);
    }
    ptx::cp_async_commit();
  };
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  const int group = warp % Sizes::kGroups, slice = warp / Sizes::kGroups;
  const int lane_row = lane / 4, lane_column = lane % 4;
  float sums[4][4] = {};
  for (int step = 0; step < kStages - 1; ++step) fetch(step);
  for (int64_t step = 0; step < steps; ++step) {
    ptx::cp_async_wait<kStages - 2>();
    __syncthreads();  // the step is here, and nobody reads the stage that is filled next
    fetch(step + kStages - 1);
    float* const x = stage_of(step);
    const float* const w = x + Sizes::kXFloats;
    if (product.masks) {
      drop_tile<kThreads, Sizes::kRows, kStep, Sizes::kXPitch>(x, product.dropout, row, product.m,
                                                               step * kStep);
      __syncthreads();
    }
#pragma unroll 2
    for (int k = 4 * slice; k < kStep; k += 4 * kSlices) {
      float xs[4][4], ws[4][4];  // [row][k]; [column][k] or [k][column], as they lie
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        load_row(xs[i], x + (lane_row + 8 * i) * Sizes::kXPitch + k);
        load_row(ws[i], kLayout == PL_NT
                            ? w + (16 * group + lane_column + 4 * i) * Sizes::kWPitch + k
                            : w + (k + i) * Sizes::kWPitch + 16 * group + 4 * lane_column);
      }
#pragma unroll
      for (int e = 0; e < 4; ++e)
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
          for (int j = 0; j < 4; ++j)
            sums[i][j] = fmaf(xs[i][e], kLayout == PL_NT ? ws[j][e] : ws[e][j], sums[i][j]);
    }
  }
  __syncthreads();  // the stages are free
  const auto other = [&](int of) {
    return shared + (of - 1) * (Sizes::kGroups * 512) + group * 512;
  };
  if (slice > 0)
#pragma unroll
    for (int i = 0; i < 16; ++i) other(slice)[i * 32 + lane] = sums[i / 4][i % 4];
  __syncthreads();
  if (slice > 0) return;
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    float sum = sums[i / 4][i % 4];
    for (int of = 1; of < kSlices; ++of) sum += other(of)[i * 32 + lane];
    const int j = i % 4;
    product.store(
        row + lane_row + 8 * (i / 4),
        column + 16 * group + (kLayout == PL_NT ? lane_column + 4 * j : 4 * lane_column + j), sum);
  }
}

// ---- x^T w: a block has kWide columns of the wide operand, kNarrow of the other, and kChunk rows.

template <int kNarrow>
struct Gradient {
  static constexpr int kThreads = 128, kWide = 256, kStep = 16, kChunk = 512;
  static constexpr int kGroups = kNarrow / 16;
  static constexpr int kWideFloats = kStep * kWide, kStageFloats = kWideFloats + kStep * kNarrow;
  static constexpr size_t kSharedBytes = kStages * kStageFloats * sizeof(float);
};
constexpr int64_t kChunk = Gradient<16>::kChunk;

template <int kNarrow>
__global__ void __launch_bounds__(128, 3)
    gradient_kernel(const __grid_constant__ NarrowProduct product) {
  using Sizes = Gradient<kNarrow>;
  constexpr int kStep = Sizes::kStep, kThreads = Sizes::kThreads, kWide = Sizes::kWide;
  PL_DYNAMIC_SHARED(float, shared);
  const bool w_is_wide = product.w_is_wide;
  const Matrix& wide = w_is_wide ? product.w : product.x;
  const Matrix& narrow = w_is_wide ? product.x : product.w;
  const int64_t first = int64_t(blockIdx.x) * kWide, narrow_first = int64_t(blockIdx.y) * kNarrow;
  const int64_t begin = int64_t(blockIdx.z) * kChunk;
  const int64_t rows = wide.rows - begin < kChunk ? wide.rows - begin : kChunk;
  const int steps = int((rows + kStep - 1) / kStep);
  const auto stage_of = [&](int step) { return shared + step % kStages * Sizes::kStageFloats; };
  const auto fetch = [&](int step) {
    if (step < steps) {
      float* const to = stage_of(step);
      const int64_t row = begin + step * kStep;
      copy_tile<kThreads, kStep, kWide, kWide>(to, wide, row, first);
      copy_tile<kThreads, kStep, kNarrow, kNarrow>(to + Sizes::kWideFloats, narrow, row,
                                                   narrow_first);
    }
    ptx::cp_async_commit();
  };
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  // Of a thread: eight columns of the wide operand, in two fours, and four of each 16.
  const int my_wide = warp * 64 + lane % 8 * 4, my_narrow = lane / 8 * 4;
  float sums[8][4 * Sizes::kGroups] = {};
  for (int step = 0; step < kStages - 1; ++step) fetch(step);
  for (int step = 0; step < steps; ++step) {
    ptx::cp_async_wait<kStages - 2>();
    __syncthreads();  // the step is here, and nobody reads the stage that is filled next
    fetch(step + kStages - 1);
    float* const wides = stage_of(step);
    float* const narrows = wides + Sizes::kWideFloats;
    if (product.masks) {
      const int64_t row = begin + step * kStep;
      if (w_is_wide)
        drop_tile<kThreads, kStep, kWide, kWide>(wides, product.dropout, row, wide.rows, first);
      else
        drop_tile<kThreads, kStep, kNarrow, kNarrow>(narrows, product.dropout, row, narrow.rows,
                                                     narrow_first);
      __syncthreads();
    }
#pragma unroll 2
    for (int t = 0; t < kStep; ++t) {
      float left[2][4], right[Sizes::kGroups][4];
#pragma unroll
      for (int i = 0; i < 2; ++i) load_row(left[i], wides + t * kWide + my_wide + 32 * i);
#pragma unroll
      for (int g = 0; g < Sizes::kGroups; ++g)
        load_row(right[g], narrows + t * kNarrow + 16 * g + my_narrow);
#pragma unroll
      for (int i = 0; i < 8; ++i)
#pragma unroll
        for (int j = 0; j < 4 * Sizes::kGroups; ++j)
          sums[i][j] = fmaf(left[i / 4][i % 4], right[j / 4][j % 4], sums[i][j]);
    }
  }
#pragma unroll
  for (int i = 0; i < 8; ++i)
#pragma unroll
    for (int j = 0; j < 4 * Sizes::kGroups; ++j) {
      const int64_t of_wide = first + my_wide + i / 4 * 32 + i % 4;
      const int64_t of_narrow = narrow_first + j / 4 * 16 + my_narrow + j % 4;
      const int64_t row = w_is_wide ? of_narrow : of_wide;
      const int64_t column = w_is_wide ? of_wide : of_narrow;
      if (!product.partial)
        product.store(row, column, sums[i][j]);
      else if (row < product.m && column < product.n)
        product.partial[(int64_t(blockIdx.z) * product.m + row) * product.n + column] = sums[i][j];
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

template <pl_layout kLayout, int kColumns>
void launch_shrink(Stream& stream, const NarrowProduct& product) {
  using Sizes = Shrink<kLayout, kColumns>;
  const LaunchShape shape = {
      dim3(blocks_for(product.m, Sizes::kRows), blocks_for(product.n, kColumns)), Sizes::kThreads,
      Sizes::kSharedBytes};
  launch(stream, shape, shrink_kernel<kLayout, kColumns>, product);
}

template <pl_layout kLayout>
void launch_shrink(Stream& stream, const NarrowProduct& product) {
  if (product.n <= 16) return launch_shrink<kLayout, 16>(stream, product);
  if (product.n <= 32) return launch_shrink<kLayout, 32>(stream, product);
  launch_shrink<kLayout, 64>(stream, product);
}

template <int kNarrow>
void launch_gradient(Stream& stream, const NarrowProduct& product) {
  using Sizes = Gradient<kNarrow>;
  const int64_t wide = product.w_is_wide ? product.n : product.m;
  const int64_t narrow = product.w_is_wide ? product.m : product.n;
  const LaunchShape shape = {
      dim3(blocks_for(wide, Sizes::kWide), blocks_for(narrow, kNarrow), unsigned(product.chunks)),
      Sizes::kThreads, Sizes::kSharedBytes};
  launch(stream, shape, gradient_kernel<kNarrow>, product);
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
  narrow.chunks = is_tn && segment.k > kChunk ? (segment.k + kChunk - 1) / kChunk : 1;
  return narrow;
}

}  // namespace

bool is_narrow(const Product& product, bool is_bf16) {
  const Segment& segment = product.segments[0];
  if (product.segment_count != 1 || segment.is_weight || segment.mask_after) return false;
  if (product.layout != PL_TN) return !is_bf16 && !segment.mask_w && product.n <= kMostNarrow;
  const int64_t narrow = product.m < product.n ? product.m : product.n;
  return narrow <= (is_bf16 ? kMostAgainstBf16 : kMostNarrow) && segment.k <= 65535 * kChunk;
}

uint64_t narrow_workspace(const Product& product) {
  const NarrowProduct narrow = narrow_of(product);
  if (narrow.chunks == 1) return 0;
  return uint64_t(narrow.chunks) * uint64_t(product.m) * uint64_t(product.n) * sizeof(float);
}

void run_narrow(Stream& stream, const Product& product, void* workspace) {
  NarrowProduct narrow = narrow_of(product);
  if (product.layout == PL_NT) return launch_shrink<PL_NT>(stream, narrow);
  if (product.layout == PL_NN) return launch_shrink<PL_NN>(stream, narrow);
  if (narrow.chunks > 1) narrow.partial = static_cast<float*>(workspace);
  if ((narrow.w_is_wide ? product.m : product.n) <= 16)
    launch_gradient<16>(stream, narrow);
  else
    launch_gradient<32>(stream, narrow);
  if (narrow.partial) for_each_element(stream, product.m * product.n, SumChunks{narrow});
}

}  // namespace polylora::cuda
