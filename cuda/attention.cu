// o = softmax(scale q k^T, causal) v within each sequence of a packed batch, and the log of each
// row's sum of exponentials. Overwrites o and lse. attention_backward.cu is the way back.
//
// A block takes a tile of queries of one head, counted from the sequence's first row, and lets the
// keys and values up to the diagonal pass by; scores exist for one tile at a time (Dao 2023,
// "FlashAttention-2"). With bf16 operands q, k, v and the probabilities are rounded and multiplied
// by the tensor cores; sums, maxima and exponentials are float32. A row's bits depend on its
// sequence up to itself alone.
//
// Predicted, not measured: 8 sequences of 1,024, 28 heads of 128 over 4, bf16, on an H100 SXM. The
// products are 60 GFLOP, 67 with what the diagonal's tiles waste. For each 32 keys a block's warps
// read 96 KB of shared memory, 770 cycles, against some 800 of mma.sync at its best (600 TFLOP/s);
// at 60% of that 0.19 ms. Rounding k and v moves 50 MB, 0.02 ms; q and o, 235 MB, go beneath the
// products. Two blocks of 128 threads an SM, by registers; 64 KB each.
#include "cuda/attention.h"
#include "cuda/operations.h"

namespace polylora::cuda {
namespace {

template <class Element>
struct Attention {
  Sequences sequences;
  Heads q;
  Operand<Element> k, v;
  Heads o;
  float* lse;  // null if nobody wants it
  int64_t lse_head;
  int heads, group, d;  // group: query heads of one key-value head
  float scale;          // times log2 e
};

template <class Tiles>
constexpr int kAttentionShared =
    (Tiles::kRows + 4 * Tiles::kStreamed) * Tiles::kRowBytes + Tiles::kScratchBytes;

template <class Tiles>
__global__ void __launch_bounds__(Tiles::kThreads, 2)
    attention_kernel(const __grid_constant__ Attention<typename Tiles::Element> a) {
  constexpr int kRows = Tiles::kRows, kStreamed = Tiles::kStreamed;
  constexpr int kTileBytes = kStreamed * Tiles::kRowBytes;
  using Scores = typename Tiles::Scores;
  using Sums = typename Tiles::template Held<Tiles::kWidth>;
  PL_DYNAMIC_SHARED(char, shared);
  char* const queries = shared;
  char* const stages = queries + kRows * Tiles::kRowBytes;
  const Tiles tiles(stages + 4 * kTileBytes);

  if (blockIdx.x == 0) check_bounds<Tiles::kThreads>(a.sequences);
  // The longest pieces first: those of a sequence's end.
  const int64_t number = (gridDim.x - 1 - blockIdx.x) / a.heads;
  const int head = int(blockIdx.x % a.heads), key_head = head / a.group;
  const Piece piece = find_piece(a.sequences, number, kRows);
  if (piece.rows == 0) return;
  const int keys = piece.first + piece.rows;  // that any of the rows sees
  const auto load = [&](int key) {
    char* const stage = stages + key / kStreamed % 2 * 2 * kTileBytes;
    copy_streamed<Tiles>(stage, a.k, piece.begin + key, key_head, piece.length - key);
    copy_streamed<Tiles>(stage + kTileBytes, a.v, piece.begin + key, key_head, piece.length - key);
    ptx::cp_async_commit();
  };
  load(0);
  load_resident<Tiles>(queries, a.q, piece.begin + piece.first, head, piece.rows, a.d);

  const int warp_first = piece.first + Tiles::first_row();
  float most[Tiles::kRowSlots], total[Tiles::kRowSlots];
#pragma unroll
  for (int r = 0; r < Tiles::kRowSlots; ++r) {
    most[r] = -INFINITY;
    total[r] = 0;
  }
  Sums sums = {};
  for (int key = 0; key < keys; key += kStreamed) {
    ptx::cp_async_wait<0>();
    __syncthreads();  // these keys are there, and those before have been read
    if (key + kStreamed < keys) load(key + kStreamed);
    if (key >= warp_first + Tiles::kWarpRows) continue;  // beyond the warp's diagonal
    const char* const stage = stages + key / kStreamed % 2 * 2 * kTileBytes;
    Scores scores;
    tiles.multiply(scores, queries, stage);
    const bool is_diagonal = key + kStreamed - 1 > warp_first;
    bool has_moved = false;
    float factors[Tiles::kRowSlots];
#pragma unroll
    for (int r = 0; r < Tiles::kRowSlots; ++r) {
      const int seen = piece.first + Tiles::row(r) - key;  // the last one that the row sees
      float now = -INFINITY;
#pragma unroll
      for (int c = 0; c < Tiles::kColumnSlots; ++c) {
        scores(r, c) *= a.scale;
        if (is_diagonal && Tiles::column(c) > seen) scores(r, c) = -INFINITY;
        now = fmaxf(now, scores(r, c));
      }
      now = fmaxf(most[r], Tiles::row_max(now));
      factors[r] = ptx::exp2_approximate(most[r] - now);
      has_moved |= now != most[r];
      most[r] = now;
      float sum = 0;
#pragma unroll
      for (int c = 0; c < Tiles::kColumnSlots; ++c) {
        scores(r, c) = ptx::exp2_approximate(scores(r, c) - now);
        sum += scores(r, c);
      }
      total[r] = fmaf(total[r], factors[r], sum);
    }
    // Factors of 1 change nothing.
    if (__any_sync(kAllLanes, has_moved)) {
#pragma unroll
      for (int r = 0; r < Tiles::kRowSlots; ++r)
#pragma unroll
        for (int c = 0; c < Sums::kColumnSlots; ++c) sums(r, c) *= factors[r];
    }
    tiles.accumulate(sums, scores, stage + kTileBytes);
  }

#pragma unroll
  for (int r = 0; r < Tiles::kRowSlots; ++r) {
    const float sum = Tiles::row_sum(total[r]), over = 1.0f / sum;
    if (Tiles::row(r) >= piece.rows) continue;
    const int64_t t = piece.begin + piece.first + Tiles::row(r);
    float* const to = a.o.at(t, head);
#pragma unroll
    for (int c = 0; c < Sums::kColumnSlots; ++c)
      if (Tiles::column(c) < a.d) to[Tiles::column(c)] = sums(r, c) * over;
    if (a.lse && Tiles::is_first_of_row())
      a.lse[head * a.lse_head + t] = fmaf(kLn2, most[r], logf(sum));
  }
}

template <int kWidth>
using Bf16 = Bf16Tiles<kWidth, kWidth <= 128 ? 2 : 1, kWidth <= 64 ? 64 : 32>;
template <int kWidth>
using Float32 = FloatTiles<kWidth, kWidth <= 128 ? 32 : 16, kWidth <= 64 ? 32 : 16>;

template <class Tiles>
void run(Stream& stream, const Attention<typename Tiles::Element>& a) {
  static_assert(kAttentionShared<Tiles> <= kSharedLimit80, "every sm_80 takes it");
  launch(stream,
         {blocks_for(most_pieces(a.sequences, Tiles::kRows) * a.heads, 1), Tiles::kThreads,
          kAttentionShared<Tiles>},
         attention_kernel<Tiles>, a);
}

}  // namespace

uint64_t workspace_attention(const Stream&, const pl_attention_args& args) {
  return args.bf16_operands ? 2 * rounded_heads_bytes(args.k, width_of(args.k.shape[2])) : 0;
}

void run_attention(Stream& stream, const pl_attention_args& args) {
  const int d = int(args.q.shape[2]);
  const auto fill = [&](auto& a) {
    a.sequences = sequences_of(stream, PL_OPERATION_attention, args.cu_seqlens, args.q.shape[0]);
    a.q = heads_of(args.q);
    a.o = heads_of(args.o);
    a.lse = args.lse.dtype == PL_NONE ? nullptr : static_cast<float*>(args.lse.data);
    a.lse_head = args.lse.strides[0];
    a.heads = int(args.q.shape[1]);
    a.group = int(args.q.shape[1] / args.k.shape[1]);
    a.d = d;
    a.scale = args.scale * kLog2E;
  };
  with_width(d, [&](auto width) {
    constexpr int kWidth = decltype(width)::value;
    if (args.bf16_operands) {
      Attention<bf16> a = {};
      fill(a);
      auto* scratch = static_cast<char*>(args.header.workspace);
      a.k = round_heads(stream, args.k, kWidth, scratch);
      a.v = round_heads(stream, args.v, kWidth, scratch);
      run<Bf16<kWidth>>(stream, a);
    } else {
      Attention<float> a = {};
      fill(a);
      a.k = operand_of(heads_of(args.k), d);
      a.v = operand_of(heads_of(args.v), d);
      run<Float32<kWidth>>(stream, a);
    }
  });
}

}  // namespace polylora::cuda
