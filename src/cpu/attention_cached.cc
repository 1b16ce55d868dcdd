// A piece of work is a few rows of one sequence and the query heads of one key-value head. It takes
// keys in blocks from position 0 on, transposes each block once and lets all its rows and heads use
// it. What a row computes, and in which order, does not depend on the rows beside it: they only
// share the reads.
#ifndef PL_TARGET_FILE
#define PL_TARGET_FILE "cpu/attention_cached.cc"

#include "cpu/attention.h"
#include "cpu/operations.h"

namespace polylora::cpu {
namespace {

constexpr int64_t kCachedRows = 16, kCachedHeads = 32;  // of a piece, at most

struct CachedPiece {
  const float *q, *k, *v;
  float* o;
  int64_t q_row, q_head, k_position, v_position, o_row, o_head;
  int64_t rows, heads, d;
  const int32_t* positions;  // of the rows
  float scale;
  float* scratch;
};

}  // namespace
}  // namespace polylora::cpu

#endif
#include "cpu/for_each_target.h"

#ifdef PL_TARGET
#include "cpu/attention_tiles.h"

namespace polylora::cpu::PL_TARGET {
namespace {

void attention_cached(const CachedPiece& piece) {
  const int64_t d = piece.d, stride = (d + kLanes - 1) / kLanes * kLanes;
  // Lines are the pairs of a row and a head; those that are taken together share the head or the
  // row, whichever makes larger groups.
  const bool by_row = piece.rows >= piece.heads;
  const int64_t inner = by_row ? piece.rows : piece.heads,
                outer = by_row ? piece.heads : piece.rows;
  const int64_t q_inner = by_row ? piece.q_row : piece.q_head,
                q_outer = by_row ? piece.q_head : piece.q_row;
  const int64_t o_inner = by_row ? piece.o_row : piece.o_head,
                o_outer = by_row ? piece.o_head : piece.o_row;

  float* const panels = piece.scratch;
  float* const s = panels + kTile * d;
  float* const sums = s + kTileRows * kTile;
  Floats totals[kCachedRows * kCachedHeads];
  float largest_seen[kCachedRows * kCachedHeads], factors[kLanes];
  int64_t seen[kTileRows], keys_of_all = 0;
  for (int64_t line = 0; line < inner * outer; ++line) {
    largest_seen[line] = -__builtin_inff();
    totals[line] = zeros();
  }
  for (int64_t t = 0; t < piece.rows; ++t)
    if (piece.positions[t] >= keys_of_all) keys_of_all = int64_t(piece.positions[t]) + 1;

  for (int64_t key = 0; key < keys_of_all; key += kTile) {
    const int64_t in_block = smaller(kTile, keys_of_all - key);
    const float* const v = piece.v + key * piece.v_position;
    for (int64_t first = 0; first < in_block; first += kPanel)
      transpose_panel(piece.k + (key + first) * piece.k_position, piece.k_position,
                      smaller(kPanel, in_block - first), d, panels + first * d);
    for (int64_t i = 0; i < outer; ++i)
      for (int64_t j = 0; j < inner; j += kTileRows) {
        const int group = int(smaller(kTileRows, inner - j));
        int64_t least = in_block,
                most = 0;  // keys of this block that all, or any, of the group see
        for (int r = 0; r < group; ++r) {
          seen[r] = int64_t(piece.positions[by_row ? j + r : i]) + 1 - key;
          if (seen[r] < least) least = seen[r] < 0 ? 0 : seen[r];
          if (seen[r] > most) most = smaller(seen[r], in_block);
        }
        if (most == 0) continue;
        const int64_t line = i * inner + j;
        const int64_t covered = scores(group, piece.q + i * q_outer + j * q_inner, q_inner, panels,
                                       most, d, piece.scale * kLog2E, s, kTile);
        softmax_rows(group, s, kTile, covered, seen, largest_seen + line, totals + line, factors);
        accumulate(group,
                   {s, kTile, 1, v, piece.v_position, least, key == 0, factors,
                    sums + line * stride, stride},
                   d);
        // A row must not touch what it does not see: 0 times a NaN of a later position would be
        // NaN.
        for (int r = 0; r < group; ++r)
          if (seen[r] > least)
            accumulate(1,
                       {s + r * kTile + least, kTile, 1, v + least * piece.v_position,
                        piece.v_position, smaller(seen[r], in_block) - least, false, nullptr,
                        sums + (line + r) * stride, stride},
                       d);
      }
  }
  for (int64_t i = 0; i < outer; ++i)
    for (int64_t j = 0; j < inner; ++j) {
      const int64_t line = i * inner + j;
      const Floats over = broadcast(1.0f / sum(totals[line]));
      for (int64_t c = 0; c < d; c += kLanes)
        store_some(piece.o + i * o_outer + j * o_inner + c, load(sums + line * stride + c) * over,
                   d - c);
    }
}

}  // namespace
}  // namespace polylora::cpu::PL_TARGET

#else

namespace polylora::cpu {

static_assert((kCachedRows * kCachedHeads * kLargestHeadSize +
               2 * kLargestAttentionTile * kLargestHeadSize) *
                      int64_t(sizeof(float)) <=
                  int64_t(kScratchBytes),
              "a piece's sums, a block of keys and its scores fit");

void run_attention_cached(Pool& pool, const pl_attention_cached_args& args) {
  const pl_tensor &q = args.q, &k = args.k_cache, &v = args.v_cache, &o = args.o;
  require_indices("attention_cached", "row_sequence", args.row_sequence, k.shape[0]);
  require_indices("attention_cached", "row_position", args.row_position, k.shape[1]);
  const int32_t* const sequence = ints_of(args.row_sequence);
  const int32_t* const position = ints_of(args.row_position);
  const int64_t total = q.shape[0], key_heads = k.shape[2], group = q.shape[1] / key_heads;
  const int64_t chunks = (group + kCachedHeads - 1) / kCachedHeads;

  std::vector<int64_t> starts;  // of runs of rows of one sequence
  for (int64_t t = 0; t < total; ++t)
    if (t == 0 || sequence[t] != sequence[t - 1] || t - starts.back() == kCachedRows)
      starts.push_back(t);
  starts.push_back(total);

  const auto attention_cached = PL_SELECT(pool, attention_cached);
  pool.parallel(int64_t(starts.size() - 1) * key_heads * chunks, [&](int64_t index,
                                                                     Worker& worker) {
    const size_t run = size_t(index / chunks / key_heads);
    const int64_t t = starts[run], key_head = index / chunks % key_heads,
                  first = index % chunks * kCachedHeads;
    const int64_t head = key_head * group + first;
    CachedPiece piece;
    piece.q = static_cast<const float*>(q.data) + t * q.strides[0] + head * q.strides[1];
    piece.q_row = q.strides[0];
    piece.q_head = q.strides[1];
    piece.k =
        static_cast<const float*>(k.data) + sequence[t] * k.strides[0] + key_head * k.strides[2];
    piece.k_position = k.strides[1];
    piece.v =
        static_cast<const float*>(v.data) + sequence[t] * v.strides[0] + key_head * v.strides[2];
    piece.v_position = v.strides[1];
    piece.o = static_cast<float*>(o.data) + t * o.strides[0] + head * o.strides[1];
    piece.o_row = o.strides[0];
    piece.o_head = o.strides[1];
    piece.rows = starts[run + 1] - t;
    piece.heads = std::min(kCachedHeads, group - first);
    piece.d = q.shape[2];
    piece.positions = position + t;
    piece.scale = args.scale;
    piece.scratch = worker.scratch_floats();
    attention_cached(piece);
  });
}

}  // namespace polylora::cpu

#endif
