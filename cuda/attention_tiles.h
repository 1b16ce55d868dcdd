// The products that attention is made of, on tiles of the rows of one head in shared memory, and
// who holds what: once for bf16 operands on the tensor cores, once in float32. The kernels are
// written on these two types alike.
//
// A block holds kRows rows of one side (queries, or keys in the pass for their gradients) all the
// time, and kStreamed rows of the other side at a time pass by. A thread holds of their products
// kRowSlots rows at kColumnSlots columns each, its scores, and of what it sums kRowSlots rows at
// several columns of the head. row() and column() say which. Threads that hold the same row lie in
// the same warp; row_sum() and row_max() run over them.
//
// kWidth is the head's size, rounded up; rows are zero beyond the head. A sum runs over the head or
// over the rows in order, whatever else the tile holds.
#pragma once

#include "cuda/reduce.h"
#include "cuda/rows.h"
#include "cuda/tile_bf16.h"

namespace polylora::cuda {

// Butterflies over the lanes that differ in the given bits alone.
template <int kLanes>
__device__ inline float lanes_sum(float value) {
#pragma unroll
  for (int lanes = kLanes / 2; lanes > 0; lanes /= 2)
    value += __shfl_xor_sync(kAllLanes, value, lanes);
  return value;
}
template <int kLanes>
__device__ inline float lanes_max(float value) {
#pragma unroll
  for (int lanes = kLanes / 2; lanes > 0; lanes /= 2)
    value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, lanes));
  return value;
}

// Elements 8 chunk .. 8 chunk + 7 of a row of `length` floats, as bf16.
__device__ inline uint4 rounded_chunk(const float* row, int chunk, int length, bool aligned) {
  const float4 low = load_four(row, chunk * 8, length, aligned);
  const float4 high = load_four(row, chunk * 8 + 4, length, aligned);
  return packed_bf16(low, high);
}

// kBlocks of 16 rows a warp, four warps.
template <int kWidth_, int kBlocks, int kStreamed_>
struct Bf16Tiles {
  using Element = bf16;
  using Tile = TileBf16<kWidth_>;
  static constexpr int kWidth = kWidth_, kStreamed = kStreamed_, kThreads = 128;
  static constexpr int kWarpRows = 16 * kBlocks, kRows = 4 * kWarpRows;
  static constexpr int kRowSlots = 2 * kBlocks, kColumnSlots = kStreamed / 4;
  static constexpr int kRowBytes = Tile::kRowBytes, kScratchBytes = 0;
  static_assert(kStreamed % 16 == 0, "two products of eight columns at a time");

  template <int kColumns>  // kBlocks x kColumns / 8 accumulators of mma.sync
  struct Held {
    float values[kBlocks][kColumns / 8][4];
    __device__ float& operator()(int r, int c) { return values[r / 2][c / 2][r % 2 * 2 + c % 2]; }
    static constexpr int kColumnSlots = kColumns / 4;
  };
  using Scores = Held<kStreamed>;

  explicit __device__ Bf16Tiles(char*) {}
  static __device__ int first_row() { return int(threadIdx.x / 32) * kWarpRows; }
  static __device__ int row(int slot) {
    return first_row() + slot / 2 * 16 + int(threadIdx.x % 32 / 4) + slot % 2 * 8;
  }
  static __device__ int column(int slot) {
    return slot / 2 * 8 + int(threadIdx.x % 4) * 2 + slot % 2;
  }
  static __device__ bool is_first_of_row() { return threadIdx.x % 4 == 0; }
  static __device__ float row_sum(float value) { return lanes_sum<4>(value); }
  static __device__ float row_max(float value) { return lanes_max<4>(value); }

  static __device__ int offset(int row, int chunk) { return Tile::offset(row, chunk); }
  // Of a row of `length` floats.
  static __device__ uint4 load_chunk(const float* row, int chunk, int length, bool aligned) {
    return rounded_chunk(row, chunk, length, aligned);
  }

  // scores = rows streamed^T
  __device__ void multiply(Scores& scores, const char* rows, const char* streamed) const {
    scores = {};
#pragma unroll 2  // a register for each of more addresses is too many
    for (int k = 0; k < kWidth / 16; ++k) {
      uint32_t a[kBlocks][4];
#pragma unroll
      for (int i = 0; i < kBlocks; ++i) Tile::left(a[i], rows, first_row() + i * 16, 2 * k);
#pragma unroll
      for (int j = 0; j < kStreamed / 16; ++j) {
        uint32_t b[4];
        Tile::right(b, streamed, j * 16, 2 * k);
#pragma unroll
        for (int i = 0; i < kBlocks; ++i)
          multiply_16x16x16(scores.values[i][2 * j], scores.values[i][2 * j + 1], a[i], b);
      }
    }
  }

  // sums += scores streamed, at the columns of the head from `first` on; the scores are rounded.
  template <int kColumns>
  __device__ void accumulate(Held<kColumns>& sums, Scores& scores, const char* streamed,
                             int first = 0) const {
#pragma unroll
    for (int k = 0; k < kStreamed / 16; ++k) {
      uint32_t a[kBlocks][4];
#pragma unroll
      for (int i = 0; i < kBlocks; ++i)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const float(&pair)[4] = scores.values[i][2 * k + e / 2];
          a[i][e] = ptx::pack_bf16(pair[e % 2 * 2], pair[e % 2 * 2 + 1]);
        }
#pragma unroll
      for (int j = 0; j < kColumns / 16; ++j) {
        uint32_t b[4];
        Tile::right_as_stored(b, streamed, k * 16, first / 8 + 2 * j);
#pragma unroll
        for (int i = 0; i < kBlocks; ++i)
          multiply_16x16x16(sums.values[i][2 * j], sums.values[i][2 * j + 1], a[i], b);
      }
    }
  }
};

// Sixteen lanes for four rows.
template <int kWidth_, int kRows_, int kStreamed_>
struct FloatTiles {
  using Element = float;
  static constexpr int kWidth = kWidth_, kRows = kRows_, kStreamed = kStreamed_;
  static constexpr int kThreads = kRows * 4, kWarpRows = 8;
  static constexpr int kRowSlots = 4, kColumnSlots = kStreamed / 16;
  static constexpr int kRowBytes = (kWidth + 4) * 4;  // the next row begins in other banks
  static constexpr int kScratchPitch = kStreamed + 4;
  static constexpr int kScratchBytes = kRows * kScratchPitch * 4;
  static_assert(kRows % 8 == 0 && kStreamed % 16 == 0 && kWidth % 16 == 0, "whole warps");

  template <int kColumns>
  struct Held {
    float values[kRowSlots][kColumns / 16];
    __device__ float& operator()(int r, int c) { return values[r][c]; }
    static constexpr int kColumnSlots = kColumns / 16;
  };
  using Scores = Held<kStreamed>;

  explicit __device__ FloatTiles(char* scratch) : scratch_(reinterpret_cast<float*>(scratch)) {}
  static __device__ int first_row() { return int(threadIdx.x / 32) * kWarpRows; }
  static __device__ int row(int slot) { return int(threadIdx.x / 16) * 4 + slot; }
  static __device__ int column(int slot) { return int(threadIdx.x % 16) + slot * 16; }
  static __device__ bool is_first_of_row() { return threadIdx.x % 16 == 0; }
  static __device__ float row_sum(float value) { return lanes_sum<16>(value); }
  static __device__ float row_max(float value) { return lanes_max<16>(value); }

  static __device__ int offset(int row, int chunk) { return row * kRowBytes + chunk * 16; }
  static __device__ uint4 load_chunk(const float* row, int chunk, int length, bool aligned) {
    const float4 four = load_four(row, chunk * 4, length, aligned);
    return {bits_of(four.x), bits_of(four.y), bits_of(four.z), bits_of(four.w)};
  }

  __device__ void multiply(Scores& scores, const char* rows, const char* streamed) const {
    scores = {};
#pragma unroll 2
    for (int d = 0; d < kWidth; d += 4) {
      float4 x[kRowSlots], y[kColumnSlots];
#pragma unroll
      for (int r = 0; r < kRowSlots; ++r) x[r] = four_at(rows, row(r), d);
#pragma unroll
      for (int c = 0; c < kColumnSlots; ++c) y[c] = four_at(streamed, column(c), d);
#pragma unroll
      for (int r = 0; r < kRowSlots; ++r)
#pragma unroll
        for (int c = 0; c < kColumnSlots; ++c) {
          float& sum = scores.values[r][c];
          sum = fmaf(x[r].x, y[c].x, sum);
          sum = fmaf(x[r].y, y[c].y, sum);
          sum = fmaf(x[r].z, y[c].z, sum);
          sum = fmaf(x[r].w, y[c].w, sum);
        }
    }
  }

  template <int kColumns>
  __device__ void accumulate(Held<kColumns>& sums, Scores& scores, const char* streamed,
                             int first = 0) const {
    share(scores);
#pragma unroll 1  // the largest heads' sums take most registers
    for (int k = 0; k < kStreamed; k += 4) {
      float p[kRowSlots][4];
#pragma unroll
      for (int r = 0; r < kRowSlots; ++r) {
        const float4 four = load4(scratch_ + row(r) * kScratchPitch + k);
        p[r][0] = four.x, p[r][1] = four.y, p[r][2] = four.z, p[r][3] = four.w;
      }
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int c = 0; c < kColumns / 16; ++c) {
          const float x = at(streamed, k + i, first + column(c));
#pragma unroll
          for (int r = 0; r < kRowSlots; ++r)
            sums.values[r][c] = fmaf(p[r][i], x, sums.values[r][c]);
        }
    }
  }

  // The same, but row r takes the first seen[r] of the streamed rows and does not touch the others,
  // which may hold anything.
  template <int kColumns>
  __device__ void accumulate_seen(Held<kColumns>& sums, Scores& scores, const char* streamed,
                                  const int (&seen)[kRowSlots]) const {
    share(scores);
#pragma unroll 1
    for (int k = 0; k < kStreamed; ++k)
#pragma unroll
      for (int c = 0; c < kColumns / 16; ++c) {
        const float x = at(streamed, k, column(c));
#pragma unroll
        for (int r = 0; r < kRowSlots; ++r)
          if (k < seen[r])
            sums.values[r][c] = fmaf(scratch_[row(r) * kScratchPitch + k], x, sums.values[r][c]);
      }
  }

 private:
  float* scratch_;

  static __device__ float4 four_at(const char* tile, int row, int column) {
    return load4(reinterpret_cast<const float*>(tile + row * kRowBytes) + column);
  }
  static __device__ float at(const char* tile, int row, int column) {
    return reinterpret_cast<const float*>(tile + row * kRowBytes)[column];
  }
  // Every lane of a row gets all of its scores, through shared memory; a warp's own rows alone.
  __device__ void share(Scores& scores) const {
    __syncwarp();
#pragma unroll
    for (int r = 0; r < kRowSlots; ++r)
#pragma unroll
      for (int c = 0; c < kColumnSlots; ++c)
        scratch_[row(r) * kScratchPitch + column(c)] = scores.values[r][c];
    __syncwarp();
  }
};

}  // namespace polylora::cuda
