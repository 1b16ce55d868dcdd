// dq, dk and dv of attention (attention.cu), from the saved log of each row's sum of exponentials:
// with p the probabilities and delta = sum over d of o d_o,
//
//   dv = p^T d_o     ds = p (d_o v^T - delta)     dq = scale ds k     dk = scale ds^T q
//
// Overwrites all three. One pass gives dq, a block for a tile of queries, the keys passing by; one
// gives dk and dv, a block for a tile of keys, the queries from the diagonal on passing by, those
// of one head after the other where several share the keys. Both make p anew. No atomics: each sum
// runs in the order of the rows. With bf16 operands q, k, v, d_o, p and ds are rounded.
//
// Predicted, not measured: 8 sequences of 1,024, 28 heads of 128 over 4, bf16, on an H100 SXM:
// three and four products of 33 GFLOP with what the diagonal's tiles waste. A warp has 16 rows
// here, since dk and dv take 128 registers, so that shared memory is what limits: for each 32 rows
// that pass by 128 and 160 KB a block, 1,020 and 1,280 cycles, against 600 and 810 of mma.sync at
// its best (600 TFLOP/s). At 290 TFLOP/s 0.8 ms, and 0.2 ms for rounding (400 MB) and delta (235
// MB). Two blocks of 128 threads an SM, by registers; 64 KB each. A warpgroup's wgmma would read
// its right operands once for 64 rows: the next step.
#include "cuda/attention.h"
#include "cuda/operations.h"

namespace polylora::cuda {
namespace {

template <class Element>
struct Backward {
  Sequences sequences;
  Heads q, k, v, d_o;
  Operand<Element> q_streamed, k_streamed, v_streamed, d_o_streamed;
  const float *lse, *delta;  // delta [heads, T]
  int64_t lse_head;
  Heads dq, dk, dv;
  int heads, group, d;
  float scale;
};

// One warp a row.
constexpr int kDeltaThreads = 128;
template <bool kAligned>
__global__ void __launch_bounds__(kDeltaThreads)
    attention_delta_kernel(Rows o, Rows d_o, int64_t rows, float* delta) {
  const int64_t row = int64_t(blockIdx.x) * (kDeltaThreads / 32) + threadIdx.x / 32;
  if (row >= o.count) return;  // whole warps
  const float* const a = o.at(row);
  const float* const b = d_o.at(row);
  float sum = 0;
  for (int64_t i = threadIdx.x % 32 * 4; i < o.length; i += 128) {
    const float4 x = load_four<kAligned>(a, i, o.length), y = load_four<kAligned>(b, i, o.length);
    sum = fmaf(x.x, y.x, sum);
    sum = fmaf(x.y, y.y, sum);
    sum = fmaf(x.z, y.z, sum);
    sum = fmaf(x.w, y.w, sum);
  }
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) delta[row % o.inner * rows + row / o.inner] = sum;
}

template <class Tiles>
constexpr int kQueriesShared =
    (2 * Tiles::kRows + 4 * Tiles::kStreamed) * Tiles::kRowBytes + Tiles::kScratchBytes;

template <class Tiles>
__global__ void __launch_bounds__(Tiles::kThreads, 2)
    attention_backward_queries_kernel(const __grid_constant__ Backward<typename Tiles::Element> a) {
  constexpr int kRows = Tiles::kRows, kStreamed = Tiles::kStreamed;
  constexpr int kTileBytes = kStreamed * Tiles::kRowBytes;
  using Scores = typename Tiles::Scores;
  using Sums = typename Tiles::template Held<Tiles::kWidth>;
  PL_DYNAMIC_SHARED(char, shared);
  char* const queries = shared;
  char* const gradients = queries + kRows * Tiles::kRowBytes;
  char* const stages = gradients + kRows * Tiles::kRowBytes;
  const Tiles tiles(stages + 4 * kTileBytes);

  if (blockIdx.x == 0) check_bounds<Tiles::kThreads>(a.sequences);
  const int64_t number = (gridDim.x - 1 - blockIdx.x) / a.heads;
  const int head = int(blockIdx.x % a.heads), key_head = head / a.group;
  const Piece piece = find_piece(a.sequences, number, kRows);
  if (piece.rows == 0) return;
  const int keys = piece.first + piece.rows;
  const auto load = [&](int key) {
    char* const stage = stages + key / kStreamed % 2 * 2 * kTileBytes;
    const int left = piece.length - key;
    copy_streamed<Tiles>(stage, a.k_streamed, piece.begin + key, key_head, left);
    copy_streamed<Tiles>(stage + kTileBytes, a.v_streamed, piece.begin + key, key_head, left);
    ptx::cp_async_commit();
  };
  load(0);
  const int64_t begin = piece.begin + piece.first;
  load_resident<Tiles>(queries, a.q, begin, head, piece.rows, a.d);
  load_resident<Tiles>(gradients, a.d_o, begin, head, piece.rows, a.d);
  float lse[Tiles::kRowSlots], delta[Tiles::kRowSlots];
#pragma unroll
  for (int r = 0; r < Tiles::kRowSlots; ++r) {
    const bool is_inside = Tiles::row(r) < piece.rows;
    const int64_t t = begin + Tiles::row(r);
    lse[r] = is_inside ? a.lse[head * a.lse_head + t] * kLog2E : 0.0f;
    delta[r] = is_inside ? a.delta[head * a.sequences.rows + t] : 0.0f;
  }

  const int warp_first = piece.first + Tiles::first_row();
  const float scale = a.scale * kLog2E;
  Sums sums = {};
  for (int key = 0; key < keys; key += kStreamed) {
    ptx::cp_async_wait<0>();
    __syncthreads();  // these keys are there, and those before have been read
    if (key + kStreamed < keys) load(key + kStreamed);
    if (key >= warp_first + Tiles::kWarpRows) continue;  // beyond the warp's diagonal
    const char* const stage = stages + key / kStreamed % 2 * 2 * kTileBytes;
    Scores p, dp;
    tiles.multiply(p, queries, stage);
    tiles.multiply(dp, gradients, stage + kTileBytes);
    const bool is_diagonal = key + kStreamed - 1 > warp_first;
#pragma unroll
    for (int r = 0; r < Tiles::kRowSlots; ++r) {
      const int seen = piece.first + Tiles::row(r) - key;
#pragma unroll
      for (int c = 0; c < Tiles::kColumnSlots; ++c) {
        const float probability = ptx::exp2_approximate(fmaf(p(r, c), scale, -lse[r]));
        p(r, c) =
            is_diagonal && Tiles::column(c) > seen ? 0.0f : probability * (dp(r, c) - delta[r]);
      }
    }
    tiles.accumulate(sums, p, stage);
  }
#pragma unroll
  for (int r = 0; r < Tiles::kRowSlots; ++r) {
    if (Tiles::row(r) >= piece.rows) continue;
    float* const to = a.dq.at(begin + Tiles::row(r), head);
#pragma unroll
    for (int c = 0; c < Sums::kColumnSlots; ++c)
      if (Tiles::column(c) < a.d) to[Tiles::column(c)] = sums(r, c) * a.scale;
  }
}

// The head's columns that a block sums: half of the largest heads, whose sums would not fit.
template <class Tiles>
constexpr int kSummed =
    sizeof(typename Tiles::Element) == 2 && Tiles::kWidth > 128 ? 128 : Tiles::kWidth;

template <class Tiles>
constexpr int kKeysShared = (2 * Tiles::kRows + 4 * Tiles::kStreamed) * Tiles::kRowBytes +
                            4 * Tiles::kStreamed * 4 + Tiles::kScratchBytes;

template <class Tiles>
__global__ void __launch_bounds__(Tiles::kThreads, 2)
    attention_backward_keys_kernel(const __grid_constant__ Backward<typename Tiles::Element> a) {
  constexpr int kRows = Tiles::kRows, kStreamed = Tiles::kStreamed;
  constexpr int kTileBytes = kStreamed * Tiles::kRowBytes, kParts = Tiles::kWidth / kSummed<Tiles>;
  using Scores = typename Tiles::Scores;
  using Sums = typename Tiles::template Held<kSummed<Tiles>>;
  PL_DYNAMIC_SHARED(char, shared);
  char* const keys = shared;
  char* const values = keys + kRows * Tiles::kRowBytes;
  char* const stages = values + kRows * Tiles::kRowBytes;
  // Of both stages: kStreamed of lse and of delta.
  auto* const statistics = reinterpret_cast<float*>(stages + 4 * kTileBytes);
  const Tiles tiles(stages + 4 * kTileBytes + 4 * kStreamed * 4);

  // The longest pieces first: those of a sequence's beginning.
  const int64_t number = blockIdx.x / kParts / (a.heads / a.group);
  const int key_head = int(blockIdx.x / kParts % (a.heads / a.group));
  const int first_column = int(blockIdx.x % kParts) * kSummed<Tiles>;
  const Piece piece = find_piece(a.sequences, number, kRows);
  if (piece.rows == 0) return;
  // Step i takes queries first + i % tiles * kStreamed of the group's head i / tiles.
  const int query_tiles = (piece.length - piece.first + kStreamed - 1) / kStreamed;
  const int steps = query_tiles * a.group;
  const auto load = [&](int step) {
    const int head = key_head * a.group + step / query_tiles;
    const int query = piece.first + step % query_tiles * kStreamed;
    const int64_t t = piece.begin + query;
    char* const stage = stages + step % 2 * 2 * kTileBytes;
    copy_streamed<Tiles>(stage, a.q_streamed, t, head, piece.length - query);
    copy_streamed<Tiles>(stage + kTileBytes, a.d_o_streamed, t, head, piece.length - query);
    if (threadIdx.x < 2 * kStreamed) {
      const int row = threadIdx.x % kStreamed;
      const float* const from =
          threadIdx.x < kStreamed ? a.lse + head * a.lse_head : a.delta + head * a.sequences.rows;
      const bool is_inside = query + row < piece.length;
      ptx::cp_async_4(statistics + step % 2 * 2 * kStreamed + threadIdx.x,
                      is_inside ? from + t + row : from, is_inside ? 4 : 0);
    }
    ptx::cp_async_commit();
  };
  load(0);
  const int64_t begin = piece.begin + piece.first;
  load_resident<Tiles>(keys, a.k, begin, key_head, piece.rows, a.d);
  load_resident<Tiles>(values, a.v, begin, key_head, piece.rows, a.d);

  const int warp_first = piece.first + Tiles::first_row();
  const float scale = a.scale * kLog2E;
  Sums dk = {}, dv = {};
  for (int step = 0; step < steps; ++step) {
    ptx::cp_async_wait<0>();
    __syncthreads();  // these queries are there, and those before have been read
    if (step + 1 < steps) load(step + 1);
    const int query = piece.first + step % query_tiles * kStreamed;
    if (query + kStreamed - 1 < warp_first) continue;  // before the warp's diagonal
    const char* const stage = stages + step % 2 * 2 * kTileBytes;
    const float* const lse = statistics + step % 2 * 2 * kStreamed;
    const float* const delta = lse + kStreamed;
    Scores p, dp;
    tiles.multiply(p, keys, stage);
    const bool is_diagonal = query < warp_first + Tiles::kWarpRows - 1;
#pragma unroll
    for (int c = 0; c < Tiles::kColumnSlots; ++c) {
      const float shift = lse[Tiles::column(c)] * kLog2E;
      // The last key that the query sees.
      const int seen = query + Tiles::column(c) - piece.first;
#pragma unroll
      for (int r = 0; r < Tiles::kRowSlots; ++r) {
        p(r, c) = ptx::exp2_approximate(fmaf(p(r, c), scale, -shift));
        if (is_diagonal && Tiles::row(r) > seen) p(r, c) = 0;
      }
    }
    tiles.accumulate(dv, p, stage + kTileBytes, first_column);
    tiles.multiply(dp, values, stage + kTileBytes);
#pragma unroll
    for (int c = 0; c < Tiles::kColumnSlots; ++c) {
      const float mean = delta[Tiles::column(c)];
#pragma unroll
      for (int r = 0; r < Tiles::kRowSlots; ++r) p(r, c) *= dp(r, c) - mean;
    }
    tiles.accumulate(dk, p, stage, first_column);
  }
#pragma unroll
  for (int r = 0; r < Tiles::kRowSlots; ++r) {
    if (Tiles::row(r) >= piece.rows) continue;
    float* const to_dk = a.dk.at(begin + Tiles::row(r), key_head);
    float* const to_dv = a.dv.at(begin + Tiles::row(r), key_head);
#pragma unroll
    for (int c = 0; c < Sums::kColumnSlots; ++c) {
      const int column = first_column + Tiles::column(c);
      if (column >= a.d) continue;
      to_dk[column] = dk(r, c) * a.scale;
      to_dv[column] = dv(r, c);
    }
  }
}

template <int kWidth>
using Bf16Queries = Bf16Tiles<kWidth, kWidth <= 64 ? 2 : 1,
                              kWidth <= 32    ? 64
                              : kWidth <= 128 ? 32
                                              : 16>;
template <int kWidth>
using Bf16Keys = Bf16Tiles<kWidth, kWidth <= 64 ? 2 : 1, kWidth <= 128 ? 32 : 16>;
template <int kWidth>
using Float32 = FloatTiles<kWidth, kWidth <= 128 ? 32 : 16, kWidth <= 64 ? 32 : 16>;

template <class Queries, class Keys>
void run(Stream& stream, const Backward<typename Queries::Element>& a) {
  static_assert(kQueriesShared<Queries> <= kSharedLimit80 && kKeysShared<Keys> <= kSharedLimit80,
                "every sm_80 takes it");
  launch(stream,
         {blocks_for(most_pieces(a.sequences, Queries::kRows) * a.heads, 1), Queries::kThreads,
          kQueriesShared<Queries>},
         attention_backward_queries_kernel<Queries>, a);
  constexpr int kParts = Keys::kWidth / kSummed<Keys>;
  launch(stream,
         {blocks_for(most_pieces(a.sequences, Keys::kRows) * (a.heads / a.group) * kParts, 1),
          Keys::kThreads, kKeysShared<Keys>},
         attention_backward_keys_kernel<Keys>, a);
}

uint64_t delta_bytes(const pl_tensor& q) {
  return (uint64_t(q.shape[0]) * uint64_t(q.shape[1]) * 4 + 255) / 256 * 256;
}

}  // namespace

uint64_t workspace_attention_backward(const Stream&, const pl_attention_backward_args& args) {
  uint64_t bytes = delta_bytes(args.q);
  if (args.bf16_operands) {
    const int width = width_of(args.q.shape[2]);
    bytes += 2 * (rounded_heads_bytes(args.q, width) + rounded_heads_bytes(args.k, width));
  }
  return bytes;
}

void run_attention_backward(Stream& stream, const pl_attention_backward_args& args) {
  const int d = int(args.q.shape[2]);
  auto* scratch = static_cast<char*>(args.header.workspace);
  auto* const delta = reinterpret_cast<float*>(scratch);
  scratch += delta_bytes(args.q);
  const Rows o = rows_of(args.o), d_o = rows_of(args.d_o);
  const auto kernel = are_aligned(o) && are_aligned(d_o) ? attention_delta_kernel<true>
                                                         : attention_delta_kernel<false>;
  launch(stream, {blocks_for(o.count, kDeltaThreads / 32), kDeltaThreads}, kernel, o, d_o,
         args.q.shape[0], delta);
  const auto fill = [&](auto& a) {
    a.sequences =
        sequences_of(stream, PL_OPERATION_attention_backward, args.cu_seqlens, args.q.shape[0]);
    a.q = heads_of(args.q);
    a.k = heads_of(args.k);
    a.v = heads_of(args.v);
    a.d_o = heads_of(args.d_o);
    a.lse = static_cast<const float*>(args.lse.data);
    a.lse_head = args.lse.strides[0];
    a.delta = delta;
    a.dq = heads_of(args.dq);
    a.dk = heads_of(args.dk);
    a.dv = heads_of(args.dv);
    a.heads = int(args.q.shape[1]);
    a.group = int(args.q.shape[1] / args.k.shape[1]);
    a.d = d;
    a.scale = args.scale;
  };
  with_width(d, [&](auto width) {
    constexpr int kWidth = decltype(width)::value;
    if (args.bf16_operands) {
      Backward<bf16> a = {};
      fill(a);
      a.q_streamed = round_heads(stream, args.q, kWidth, scratch);
      a.k_streamed = round_heads(stream, args.k, kWidth, scratch);
      a.v_streamed = round_heads(stream, args.v, kWidth, scratch);
      a.d_o_streamed = round_heads(stream, args.d_o, kWidth, scratch);
      run<Bf16Queries<kWidth>, Bf16Keys<kWidth>>(stream, a);
    } else {
      Backward<float> a = {};
      fill(a);
      a.q_streamed = operand_of(a.q, d);
      a.k_streamed = operand_of(a.k, d);
      a.v_streamed = operand_of(a.v, d);
      a.d_o_streamed = operand_of(a.d_o, d);
      run<Float32<kWidth>, Float32<kWidth>>(stream, a);
    }
  });
}

}  // namespace polylora::cuda
