// What the passes of attention share: how a packed batch is cut into pieces, and how rows of heads
// come into shared memory.
#pragma once

#include <type_traits>

#include "cuda/attention_tiles.h"
#include "cuda/launch.h"
#include "cuda/layout.h"
#include "kernels.h"

namespace polylora::cuda {

constexpr float kLog2E = 1.44269504f, kLn2 = 0.693147181f;

// A float tensor [T, H, D], its last stride 1.
struct Heads {
  float* data;
  int64_t row, head;  // strides
  bool aligned;       // every row begins at a multiple of 16 bytes

  __device__ float* at(int64_t t, int64_t h) const { return data + t * row + h * head; }
};

inline Heads heads_of(const pl_tensor& tensor) {
  return {static_cast<float*>(tensor.data), tensor.strides[0], tensor.strides[1],
          rows_are_aligned(tensor.data, tensor.strides[0]) && tensor.strides[1] % 4 == 0};
}

// Rows of heads as they are streamed: the float tensor itself, or its copy in bf16, [H, T, width].
template <class Element>
struct Operand {
  const Element* data;
  int64_t row, head;
  int columns;  // of a row; it counts as zero from there on
  bool aligned;
};

inline Operand<float> operand_of(const Heads& heads, int columns) {
  return {heads.data, heads.row, heads.head, columns, heads.aligned};
}

struct RoundHeads {
  Heads from;
  int64_t rows;
  int width, d;
  bf16* to;
  __device__ void operator()(int64_t i) const {
    const int chunks = width / 8, chunk = int(i % chunks);
    const int64_t h = i / chunks / rows, t = i / chunks % rows;
    reinterpret_cast<uint4*>(to)[i] = rounded_chunk(from.at(t, h), chunk, d, from.aligned);
  }
};

inline uint64_t rounded_heads_bytes(const pl_tensor& x, int width) {
  return (uint64_t(x.shape[0]) * uint64_t(x.shape[1]) * uint64_t(width) * 2 + 255) / 256 * 256;
}

// Fills and passes `scratch`.
inline Operand<bf16> round_heads(Stream& stream, const pl_tensor& x, int width, char*& scratch) {
  auto* const to = reinterpret_cast<bf16*>(scratch);
  scratch += rounded_heads_bytes(x, width);
  const int64_t rows = x.shape[0];
  for_each_element(stream, x.shape[1] * rows * (width / 8),
                   RoundHeads{heads_of(x), rows, width, int(x.shape[2]), to});
  return {to, width, rows * width, width, true};
}

// ---- Pieces

struct Sequences {
  const int32_t* bounds;  // count + 1
  int64_t count, rows;
  pl_operation operation;
  Failure* failure;
};

inline Sequences sequences_of(Stream& stream, pl_operation operation, const pl_tensor& cu_seqlens,
                              int64_t rows) {
  return {static_cast<const int32_t*>(cu_seqlens.data), cu_seqlens.shape[0] - 1, rows, operation,
          stream.failure()};
}

// Rows first .. first + rows - 1 of a sequence.
struct Piece {
  int64_t begin;  // the sequence's first row
  int length;     // the sequence's
  int first, rows;
};

// Tiles begin at each sequence's first row. How many there are only the device knows: sequence s
// gets the numbers from bounds[s] / tile + s on, which are enough, and some are left over.
inline int64_t most_pieces(const Sequences& sequences, int tile) {
  return sequences.rows / tile + (sequences.count > 0 ? sequences.count : 1);
}

// `rows` is 0 for a number that is left over, and for a sequence whose bounds make no sense.
__device__ inline Piece find_piece(const Sequences& sequences, int64_t number, int tile) {
  const int32_t* const bounds = sequences.bounds;
  int64_t s = 0;
  for (int64_t end = sequences.count; s + 1 < end;) {
    const int64_t middle = (s + end) / 2;
    if (bounds[middle] / tile + middle <= number)
      s = middle;
    else
      end = middle;
  }
  if (s >= sequences.count) return {};
  const int64_t begin = bounds[s], end = bounds[s + 1];
  if (begin < 0 || end < begin || end > sequences.rows) return {};
  const int64_t first = (number - begin / tile - s) * tile, left = end - begin - first;
  if (first < 0 || left <= 0) return {};
  return {begin, int(end - begin), int(first), int(left < tile ? left : tile)};
}

// One block reads all the bounds.
template <int kThreads>
__device__ inline void check_bounds(const Sequences& sequences) {
  for (int64_t s = threadIdx.x; s <= sequences.count; s += kThreads) {
    const int64_t value = sequences.bounds[s];
    const int64_t most = s == 0 ? 0 : sequences.rows;
    const int64_t least = s == sequences.count ? sequences.rows
                          : s == 0             ? 0
                                               : sequences.bounds[s - 1];
    if (value < least || value > most)
      report_range(sequences.failure, sequences.operation, "cu_seqlens", s, value, least, most);
  }
}

// ---- Shared memory

// kStreamed rows of head h from row t on, of which `rows` are there; the others become zero.
template <class Tiles>
__device__ inline void copy_streamed(char* tile, const Operand<typename Tiles::Element>& from,
                                     int64_t t, int64_t h, int rows) {
  using Element = typename Tiles::Element;
  constexpr int kEach = 16 / int(sizeof(Element)), kChunks = Tiles::kWidth / kEach;
  // What was rounded has rows of the tile's width.
  constexpr bool kRounded = sizeof(Element) == 2;
  const int64_t stride = kRounded ? Tiles::kWidth : from.row;
  const int columns = kRounded ? Tiles::kWidth : from.columns;
  const Element* const data = from.data + t * stride + h * from.head;
#pragma unroll 4
  for (int i = threadIdx.x; i < Tiles::kStreamed * kChunks; i += Tiles::kThreads) {
    const int row = i / kChunks, chunk = i % kChunks;
    const int left = row < rows ? columns - chunk * kEach : 0;
    const int bytes = (left <= 0 ? 0 : left < kEach ? left : kEach) * int(sizeof(Element));
    const Element* const source = bytes ? data + row * stride + chunk * kEach : from.data;
    char* const to = tile + Tiles::offset(row, chunk);
    if (kRounded || from.aligned) {
      ptx::cp_async_16(to, source, bytes);
    } else {
#pragma unroll
      for (int e = 0; e < 4; ++e)
        ptx::cp_async_4(to + 4 * e, 4 * e < bytes ? source + e : source, 4 * e < bytes ? 4 : 0);
    }
  }
}

// The block's own rows, rounded if they have to be: at(row) is where a row begins.
template <class Tiles, class At>
__device__ inline void load_resident(char* tile, int rows, int d, bool aligned, const At& at) {
  constexpr int kChunks = Tiles::kWidth / (16 / int(sizeof(typename Tiles::Element)));
#pragma unroll 2
  for (int i = threadIdx.x; i < Tiles::kRows * kChunks; i += Tiles::kThreads) {
    const int row = i / kChunks, chunk = i % kChunks;
    uint4 value = {0, 0, 0, 0};
    if (row < rows) value = Tiles::load_chunk(at(row), chunk, d, aligned);
    *reinterpret_cast<uint4*>(tile + Tiles::offset(row, chunk)) = value;
  }
}
template <class Tiles>
__device__ inline void load_resident(char* tile, const Heads& from, int64_t t, int64_t h, int rows,
                                     int d) {
  load_resident<Tiles>(tile, rows, d, from.aligned, [&](int row) { return from.at(t + row, h); });
}

// ---- Launching

// body(std::integral_constant<int, width>) for the width that takes heads of d.
template <class Body>
void with_width(int64_t d, const Body& body) {
  if (d <= 32)
    body(std::integral_constant<int, 32>{});
  else if (d <= 64)
    body(std::integral_constant<int, 64>{});
  else if (d <= 128)
    body(std::integral_constant<int, 128>{});
  else
    body(std::integral_constant<int, 256>{});
}

inline int width_of(int64_t d) {
  int width = 0;
  with_width(d, [&](auto kWidth) { width = kWidth; });
  return width;
}

}  // namespace polylora::cuda
