// Causal attention over packed sequences, in tiles, with the softmax computed as the keys pass by
// (Dao et al. 2022, "FlashAttention"; Dao 2023). Scores exist for one tile at a time.
//
// Forward: keys are transposed once, then each piece is one tile of queries of one head. Backward:
// the probabilities are recomputed from the saved log of the sum of exponentials, a tile of keys at
// a time. Where the workers have enough sequences and heads to share, a piece is a sequence's keys
// from first to last, and gives dQ, dK and dV in five products. Elsewhere one pass with a piece for
// each tile of queries gives dQ, one with a piece for each tile of keys gives dK and dV: seven
// products, and every exponential twice. Each sum is the same chain both ways, and so are the bits.
#ifndef PL_TARGET_FILE
#define PL_TARGET_FILE "cpu/attention.cc"

#include "cpu/attention.h"

#include <algorithm>
#include <functional>

#include "cpu/operations.h"
#include "cpu/workspace.h"

namespace polylora::cpu {
namespace {

// One tile of one head. Row r of a tensor is data + r * stride, counted from the sequence's first
// row.
struct AttentionPiece {
  const float *q, *k, *v, *d_o, *lse, *delta;
  int64_t q_stride, k_stride, v_stride, d_o_stride;
  const float *k_panels, *v_panels;  // the sequence's
  float *out, *out_lse, *dq, *dk, *dv;
  int64_t out_stride, dq_stride, dk_stride, dv_stride;
  int64_t length, tile, d;
  // For dK and dV: the heads that share this key-value head, and their distance.
  int64_t group, q_head, d_o_head, lse_head, delta_head, dq_head;
  float scale;
  float* scratch;
};

struct AttentionKernels {
  int64_t lanes, tile, panel;
  void (*transpose_panel)(const float* x, int64_t row_stride, int64_t keys, int64_t d,
                          float* panel);
  void (*attention)(const AttentionPiece& piece);
  void (*backward_queries)(const AttentionPiece& piece);
  void (*backward_keys)(const AttentionPiece& piece);
  float (*dot)(const float* a, const float* b, int64_t n);
};

}  // namespace
}  // namespace polylora::cpu

#endif
#include "cpu/for_each_target.h"

#ifdef PL_TARGET
#include "cpu/attention_tiles.h"

namespace polylora::cpu::PL_TARGET {
namespace {

PL_INLINE int64_t padded(int64_t d) { return (d + kLanes - 1) / kLanes * kLanes; }

// Keys that a group of queries takes at a time, counted from the sequence's first.
constexpr int64_t kBlock = 2 * kTile;

void attention(const AttentionPiece& piece) {
  const int64_t d = piece.d, stride = padded(d);
  const int64_t first = piece.tile * kTile, rows = smaller(kTile, piece.length - first);
  float* const s = piece.scratch;
  float* const sums = s + kTileRows * kBlock;
  Floats totals[kTile];
  float largest_seen[kTile], factors[kLanes];
  int64_t seen[kTileRows];
  for (int64_t r = 0; r < rows; ++r) {
    largest_seen[r] = -__builtin_inff();
    totals[r] = zeros();
  }
  for (int64_t key = 0; key < first + rows; key += kBlock)
    for (int64_t r = 0; r < rows; r += kTileRows) {
      const int group = int(smaller(kTileRows, rows - r));
      const int64_t keys =
          smaller(kBlock, first + r + group - key);  // that any row of the group sees
      if (keys <= 0) continue;
      const int64_t covered =
          scores(group, piece.q + (first + r) * piece.q_stride, piece.q_stride,
                 piece.k_panels + key * d, keys, d, piece.scale * kLog2E, s, kBlock);
      for (int i = 0; i < group; ++i) seen[i] = first + r + i + 1 - key;
      softmax_rows(group, s, kBlock, covered, seen, largest_seen + r, totals + r, factors);
      accumulate(group,
                 {s, kBlock, 1, piece.v + key * piece.v_stride, piece.v_stride, keys, key == 0,
                  factors, sums + r * stride, stride},
                 d);
    }
  float total[kTile] = {}, over[kTile];
  for (int64_t r = 0; r < rows; ++r) total[r] = sum(totals[r]);
  for (int64_t r = 0; r < rows; r += kLanes) store(over + r, broadcast(1.0f) / load(total + r));
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t i = 0; i < d; i += kLanes)
      store_some(piece.out + (first + r) * piece.out_stride + i,
                 load(sums + r * stride + i) * broadcast(over[r]), d - i);
  if (piece.out_lse)
    for (int64_t r = 0; r < rows; r += kLanes)
      store_some(piece.out_lse + first + r,
                 broadcast(kLn2) * load(largest_seen + r) + log(load(total + r)), rows - r);
}

// From scores s, times log2 e, and products dp of d_o with the values: s becomes the probabilities,
// dp the gradients of the unscaled scores. Row r sees seen + r of the keys.
void score_gradients(int rows, float* s, float* dp, int64_t row_stride, int64_t keys, int64_t seen,
                     const float* lse, const float* delta, float scale) {
  const Floats scales = broadcast(scale);
  for (int r = 0; r < rows; ++r) {
    float* const scores = s + r * row_stride;
    float* const gradients = dp + r * row_stride;
    const Floats shift = broadcast(lse[r] * kLog2E), mean = broadcast(delta[r]);
    for (int64_t i = 0; i < keys; i += kLanes) {
      const Floats p = exp2_below_zero(load(scores + i) - shift);
      store(scores + i, p);
      store(gradients + i, p * scales * (load(gradients + i) - mean));
    }
    for (int64_t i = (seen + r) / kLanes * kLanes; i < keys; i += kLanes) {
      const Ints visible = lane_index() < broadcast(int32_t(seen + r - i));
      store(scores + i, select(visible, load(scores + i), zeros()));
      store(gradients + i, select(visible, load(gradients + i), zeros()));
    }
  }
}

void attention_backward_queries(const AttentionPiece& piece) {
  const int64_t d = piece.d, stride = padded(d);
  const int64_t first = piece.tile * kTile, rows = smaller(kTile, piece.length - first);
  float* const s = piece.scratch;
  float* const dp = s + kTileRows * kBlock;
  float* const sums = dp + kTileRows * kBlock;
  for (int64_t key = 0; key < first + rows; key += kBlock)
    for (int64_t r = 0; r < rows; r += kTileRows) {
      const int group = int(smaller(kTileRows, rows - r));
      const int64_t keys = smaller(kBlock, first + r + group - key);
      if (keys <= 0) continue;
      const int64_t covered =
          scores(group, piece.q + (first + r) * piece.q_stride, piece.q_stride,
                 piece.k_panels + key * d, keys, d, piece.scale * kLog2E, s, kBlock);
      scores(group, piece.d_o + (first + r) * piece.d_o_stride, piece.d_o_stride,
             piece.v_panels + key * d, keys, d, 1.0f, dp, kBlock);
      score_gradients(group, s, dp, kBlock, covered, first + r + 1 - key, piece.lse + first + r,
                      piece.delta + first + r, piece.scale);
      accumulate(group,
                 {dp, kBlock, 1, piece.k + key * piece.k_stride, piece.k_stride, keys, key == 0,
                  nullptr, sums + r * stride, stride},
                 d);
    }
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t i = 0; i < d; i += kLanes)
      store_some(piece.dq + (first + r) * piece.dq_stride + i, load(sums + r * stride + i), d - i);
}

// dK and dV of a tile of keys, and if the piece has dq, what they add to dQ: then d must be a
// multiple of kLanes, and the tiles before this one must be done.
void attention_backward_keys(const AttentionPiece& piece) {
  const int64_t d = piece.d, stride = padded(d);
  const int64_t key = piece.tile * kTile, keys = smaller(kTile, piece.length - key);
  const int64_t tiles = (piece.length + kTile - 1) / kTile;
  float* const s = piece.scratch;
  float* const dp = s + kTile * kTile;
  float* const dk = s + 2 * kTile * kTile;
  float* const dv = dk + kTile * stride;
  for (int64_t head = 0; head < piece.group; ++head) {
    const float* const q = piece.q + head * piece.q_head;
    const float* const d_o = piece.d_o + head * piece.d_o_head;
    for (int64_t tile = piece.tile; tile < tiles; ++tile) {
      const bool diagonal = tile == piece.tile, begins = diagonal && head == 0;
      const int64_t first = tile * kTile, rows = smaller(kTile, piece.length - first);
      for (int64_t r = 0; r < rows; r += kTileRows) {
        const int group = int(smaller(kTileRows, rows - r));
        const int64_t seen = diagonal ? r + group : keys;
        const int64_t covered =
            scores(group, q + (first + r) * piece.q_stride, piece.q_stride,
                   piece.k_panels + key * d, seen, d, piece.scale * kLog2E, s + r * kTile, kTile);
        scores(group, d_o + (first + r) * piece.d_o_stride, piece.d_o_stride,
               piece.v_panels + key * d, seen, d, 1.0f, dp + r * kTile, kTile);
        score_gradients(group, s + r * kTile, dp + r * kTile, kTile, covered, first + r + 1 - key,
                        piece.lse + head * piece.lse_head + first + r,
                        piece.delta + head * piece.delta_head + first + r, piece.scale);
        if (piece.dq)
          accumulate(
              group,
              {dp + r * kTile, kTile, 1, piece.k + key * piece.k_stride, piece.k_stride, seen,
               piece.tile == 0, nullptr,
               piece.dq + head * piece.dq_head + (first + r) * piece.dq_stride, piece.dq_stride},
              d);
      }
      // On the diagonal, key r is seen from query r on; a group of keys takes the queries from its
      // first one. Those rows' scores reach over the whole group of keys, as queries and keys are
      // grouped alike.
      for (int64_t r = 0; r < keys; r += kTileRows) {
        const int64_t from = diagonal ? r : 0;
        accumulate(int(smaller(kTileRows, keys - r)),
                   {s + from * kTile + r, 1, kTile, d_o + (first + from) * piece.d_o_stride,
                    piece.d_o_stride, rows - from, begins, nullptr, dv + r * stride, stride},
                   d);
      }
      for (int64_t r = 0; r < keys; r += kTileRows) {
        const int64_t from = diagonal ? r : 0;
        accumulate(int(smaller(kTileRows, keys - r)),
                   {dp + from * kTile + r, 1, kTile, q + (first + from) * piece.q_stride,
                    piece.q_stride, rows - from, begins, nullptr, dk + r * stride, stride},
                   d);
      }
    }
  }
  for (int64_t r = 0; r < keys; ++r)
    for (int64_t i = 0; i < d; i += kLanes) {
      store_some(piece.dk + (key + r) * piece.dk_stride + i, load(dk + r * stride + i), d - i);
      store_some(piece.dv + (key + r) * piece.dv_stride + i, load(dv + r * stride + i), d - i);
    }
}

float dot(const float* a, const float* b, int64_t n) {
  Floats sums = zeros();
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) sums = fma(load(a + i), load(b + i), sums);
  if (i < n) sums = fma(load_partial(a + i, int(n - i)), load_partial(b + i, int(n - i)), sums);
  return sum(sums);
}

const AttentionKernels& attention_kernels() {
  static const AttentionKernels kernels = {kLanes,
                                           kTile,
                                           kPanel,
                                           transpose_panel,
                                           attention,
                                           attention_backward_queries,
                                           attention_backward_keys,
                                           dot};
  return kernels;
}

}  // namespace
}  // namespace polylora::cpu::PL_TARGET

#else

namespace polylora::cpu {

namespace {

// A tensor [T, H, D].
struct Heads {
  float* data;
  int64_t row, head;  // strides
  explicit Heads(const pl_tensor& tensor)
      : data(static_cast<float*>(tensor.data)), row(tensor.strides[0]), head(tensor.strides[1]) {}
  float* at(int64_t t, int64_t h) const { return data + t * row + h * head; }
};

// [heads, panels, D, panel]: the keys or values of all sequences, transposed.
class TransposedHeads {
 public:
  TransposedHeads(const pl_tensor& x, const AttentionTiles& tiles, const AttentionKernels& kernels,
                  float* memory)
      : x_(x),
        heads_(x.shape[1]),
        d_(x.shape[2]),
        tiles_(tiles),
        kernels_(kernels),
        memory_(memory) {}

  const float* at(const AttentionTile& tile, int64_t head) const {
    return memory_ + (head * tiles_.panels + tile.panel) * d_ * kernels_.panel;
  }

  void fill(Pool& pool) const {
    pool.parallel(int64_t(tiles_.list.size()) * heads_, [&](int64_t index, Worker&) {
      const AttentionTile& tile = tiles_.list[size_t(index / heads_)];
      const int64_t head = index % heads_, first = tile.tile * kernels_.tile;
      float* const panels = const_cast<float*>(at(tile, head));
      for (int64_t key = first; key < std::min(first + kernels_.tile, tile.length);
           key += kernels_.panel)
        kernels_.transpose_panel(x_.at(tile.begin + key, head), x_.row,
                                 std::min(kernels_.panel, tile.length - key), d_,
                                 panels + key * d_);
    });
  }

 private:
  Heads x_;
  int64_t heads_, d_;
  const AttentionTiles& tiles_;
  const AttentionKernels& kernels_;
  float* memory_;
};

}  // namespace

uint64_t attention_workspace(const pl_attention_args& args) {
  return transposed_heads_size(args.k, args.cu_seqlens) * sizeof(float);
}

void run_attention(Pool& pool, const pl_attention_args& args) {
  const AttentionKernels& kernels = PL_SELECT(pool, attention_kernels)();
  const int64_t total = args.q.shape[0], heads = args.q.shape[1], d = args.q.shape[2];
  const int64_t group = heads / args.k.shape[1];
  const AttentionTiles tiles =
      attention_tiles("attention", args.cu_seqlens, total, kernels.tile, kernels.panel);
  const TransposedHeads k_panels(args.k, tiles, kernels,
                                 static_cast<float*>(args.header.workspace));
  k_panels.fill(pool);
  const Heads q(args.q), k(args.k), v(args.v), o(args.o);
  float* const lse = args.lse.dtype == PL_NONE ? nullptr : static_cast<float*>(args.lse.data);
  pool.parallel(int64_t(tiles.list.size()) * heads, [&](int64_t index, Worker& worker) {
    const AttentionTile& tile = tiles.list[size_t(index / heads)];
    const int64_t head = index % heads, key_head = head / group;
    AttentionPiece piece = {};
    piece.q = q.at(tile.begin, head);
    piece.q_stride = q.row;
    piece.v = v.at(tile.begin, key_head);
    piece.v_stride = v.row;
    piece.k_panels = k_panels.at(tile, key_head);
    piece.out = o.at(tile.begin, head);
    piece.out_stride = o.row;
    piece.out_lse = lse ? lse + head * args.lse.strides[0] + tile.begin : nullptr;
    piece.length = tile.length;
    piece.tile = tile.tile;
    piece.d = d;
    piece.scale = args.scale;
    piece.scratch = worker.scratch_floats();
    kernels.attention(piece);
  });
}

namespace {

// The last tile of each sequence, those of the longest first, as the list has them.
std::vector<AttentionTile> last_tiles(const AttentionTiles& tiles, int64_t rows) {
  std::vector<AttentionTile> last;
  for (const AttentionTile& tile : tiles.list)
    if ((tile.tile + 1) * rows >= tile.length) last.push_back(tile);
  return last;
}

// Whether the backward pass in pieces of whole sequences, five sevenths of the work, ends before
// the one in pieces of tiles, which keeps all workers busy.
bool shares_well(const std::vector<AttentionTile>& sequences, int64_t key_heads, int threads) {
  std::vector<int64_t> busy(size_t(threads), 0);  // of each worker, as a heap: the least first
  int64_t all = 0, most = 0;
  for (const AttentionTile& last : sequences)
    for (int64_t head = 0; head < key_heads; ++head) {
      const int64_t pairs = (last.tile + 1) * (last.tile + 2) / 2;  // of tiles
      std::pop_heap(busy.begin(), busy.end(), std::greater<>());
      busy.back() += pairs;
      most = std::max(most, busy.back());
      std::push_heap(busy.begin(), busy.end(), std::greater<>());
      all += pairs;
    }
  return most * threads * 5 <= all * 7;
}

}  // namespace

uint64_t attention_backward_workspace(const pl_attention_backward_args& args) {
  return (2 * transposed_heads_size(args.k, args.cu_seqlens) +
          uint64_t(args.q.shape[0]) * uint64_t(args.q.shape[1])) *
         sizeof(float);
}

void run_attention_backward(Pool& pool, const pl_attention_backward_args& args) {
  const AttentionKernels& kernels = PL_SELECT(pool, attention_kernels)();
  const int64_t total = args.q.shape[0], heads = args.q.shape[1], d = args.q.shape[2];
  const int64_t key_heads = args.k.shape[1], group = heads / key_heads;
  const AttentionTiles tiles =
      attention_tiles("attention_backward", args.cu_seqlens, total, kernels.tile, kernels.panel);
  const Heads q(args.q), k(args.k), v(args.v), o(args.o), d_o(args.d_o), dq(args.dq), dk(args.dk),
      dv(args.dv);
  const float* const lse = static_cast<const float*>(args.lse.data);
  const int64_t lse_head = args.lse.strides[0];

  float* const memory = static_cast<float*>(args.header.workspace);
  float* const delta =
      memory;  // [heads, T]: sum over D of o * d_o, the mean of the probabilities' gradients
  float* const panels = memory + total * heads;
  const TransposedHeads k_panels(args.k, tiles, kernels, panels);
  const TransposedHeads v_panels(args.v, tiles, kernels,
                                 panels + transposed_heads_size(args.k, args.cu_seqlens));
  k_panels.fill(pool);
  v_panels.fill(pool);
  pool.parallel_ranges(total, 64, [&](int64_t begin, int64_t end, Worker&) {
    for (int64_t head = 0; head < heads; ++head)
      for (int64_t t = begin; t < end; ++t)
        delta[head * total + t] = kernels.dot(o.at(t, head), d_o.at(t, head), d);
  });

  const auto piece_of = [&](const AttentionTile& tile, int64_t head, Worker& worker) {
    AttentionPiece piece = {};
    const int64_t key_head = head / group;
    piece.q = q.at(tile.begin, head);
    piece.q_stride = q.row;
    piece.k = k.at(tile.begin, key_head);
    piece.k_stride = k.row;
    piece.d_o = d_o.at(tile.begin, head);
    piece.d_o_stride = d_o.row;
    piece.k_panels = k_panels.at(tile, key_head);
    piece.v_panels = v_panels.at(tile, key_head);
    piece.lse = lse + head * lse_head + tile.begin;
    piece.delta = delta + head * total + tile.begin;
    piece.length = tile.length;
    piece.tile = tile.tile;
    piece.d = d;
    piece.scale = args.scale;
    piece.scratch = worker.scratch_floats();
    return piece;
  };
  const auto keys_piece_of = [&](const AttentionTile& tile, int64_t key_head, Worker& worker) {
    AttentionPiece piece = piece_of(tile, key_head * group, worker);
    piece.dk = dk.at(tile.begin, key_head);
    piece.dk_stride = dk.row;
    piece.dv = dv.at(tile.begin, key_head);
    piece.dv_stride = dv.row;
    piece.group = group;
    piece.q_head = q.head;
    piece.d_o_head = d_o.head;
    piece.lse_head = lse_head;
    piece.delta_head = total;
    return piece;
  };
  const std::vector<AttentionTile> sequences = last_tiles(tiles, kernels.tile);
  if (d % kernels.lanes == 0 && shares_well(sequences, key_heads, pool.threads())) {
    pool.parallel(int64_t(sequences.size()) * key_heads, [&](int64_t index, Worker& worker) {
      const AttentionTile& last = sequences[size_t(index / key_heads)];
      const int64_t key_head = index % key_heads;
      AttentionPiece piece = keys_piece_of(last, key_head, worker);
      piece.dq = dq.at(last.begin, key_head * group);
      piece.dq_stride = dq.row;
      piece.dq_head = dq.head;
      for (piece.tile = 0; piece.tile <= last.tile; ++piece.tile) kernels.backward_keys(piece);
    });
    return;
  }
  pool.parallel(int64_t(tiles.list.size()) * heads, [&](int64_t index, Worker& worker) {
    const AttentionTile& tile = tiles.list[size_t(index / heads)];
    const int64_t head = index % heads;
    AttentionPiece piece = piece_of(tile, head, worker);
    piece.dq = dq.at(tile.begin, head);
    piece.dq_stride = dq.row;
    kernels.backward_queries(piece);
  });
  // Backwards through the list: the first tile of keys is seen by the most queries.
  const int64_t count = int64_t(tiles.list.size());
  pool.parallel(count * key_heads, [&](int64_t index, Worker& worker) {
    const AttentionTile& tile = tiles.list[size_t(count - 1 - index / key_heads)];
    kernels.backward_keys(keys_piece_of(tile, index % key_heads, worker));
  });
}

}  // namespace polylora::cpu

#endif
