// A piece of work is one row and a few query heads of one key-value head; it takes keys in blocks
// from position 0 on, so a row's bits depend on its own keys alone.
#ifndef PL_TARGET_FILE
#define PL_TARGET_FILE "cpu/attention_cached.cc"

#include "cpu/attention.h"
#include "cpu/operations.h"

namespace polylora::cpu {
namespace {

struct CachedPiece {
  const float *q, *k, *v;
  int64_t q_head, k_position, v_position, o_head;
  float* o;
  int heads;
  int64_t keys, d;
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

constexpr int64_t kBlock = 64;

void attention_cached(const CachedPiece& piece) {
  const int64_t d = piece.d, stride = (d + kLanes - 1) / kLanes * kLanes;
  float* const sums = piece.scratch;
  float* const s = sums + kTileRows * stride;
  float largest_seen[kTileRows], total[kTileRows], factors[kTileRows];
  for (int h = 0; h < piece.heads; ++h) {
    largest_seen[h] = -__builtin_inff();
    total[h] = 0;
  }
  for (int64_t first = 0; first < piece.keys; first += kBlock) {
    const int64_t keys = smaller(kBlock, piece.keys - first);
    for (int h = 0; h < piece.heads; ++h) {
      const float* const q = piece.q + h * piece.q_head;
      float* const row = s + h * kBlock;
      for (int64_t key = 0; key < keys; ++key) {
        const float* const k = piece.k + (first + key) * piece.k_position;
        Floats products = zeros();
        int64_t i = 0;
        for (; i + kLanes <= d; i += kLanes) products = fma(load(q + i), load(k + i), products);
        if (i < d)
          products =
              fma(load_partial(q + i, int(d - i)), load_partial(k + i, int(d - i)), products);
        row[key] = sum(products) * (piece.scale * 1.44269504f);  // log2 e
      }
      for (int64_t key = keys; key < kBlock; ++key) row[key] = -__builtin_inff();
      Floats most = broadcast(largest_seen[h]);
      for (int64_t i = 0; i < kBlock; i += kLanes) most = maximum(load(row + i), most);
      const float now = largest(most);
      const Floats shift = broadcast(now);
      Floats block_total = zeros();
      for (int64_t i = 0; i < kBlock; i += kLanes) {
        const Floats p = exp2_below_zero(load(row + i) - shift);
        store(row + i, p);
        block_total = block_total + p;
      }
      factors[h] = exp2_below_zero(broadcast(largest_seen[h]) - shift)[0];
      total[h] = total[h] * factors[h] + sum(block_total);
      largest_seen[h] = now;
    }
    accumulate(piece.heads,
               {s, kBlock, 1, piece.v + first * piece.v_position, piece.v_position, keys,
                first == 0, factors, sums, stride},
               d);
  }
  for (int h = 0; h < piece.heads; ++h) {
    const Floats over = broadcast(1.0f / total[h]);
    for (int64_t i = 0; i < d; i += kLanes)
      store_some(piece.o + h * piece.o_head + i, load(sums + h * stride + i) * over, d - i);
  }
}

}  // namespace
}  // namespace polylora::cpu::PL_TARGET

#else

namespace polylora::cpu {

void run_attention_cached(Pool& pool, const pl_attention_cached_args& args) {
  const pl_tensor &q = args.q, &k = args.k_cache, &v = args.v_cache, &o = args.o;
  require_indices("attention_cached", "row_sequence", args.row_sequence, k.shape[0]);
  require_indices("attention_cached", "row_position", args.row_position, k.shape[1]);
  const int32_t* const sequence = ints_of(args.row_sequence);
  const int32_t* const position = ints_of(args.row_position);
  const int64_t key_heads = k.shape[2], group = q.shape[1] / key_heads;
  // Heads taken together share the reads of keys and values; each has sums of its own.
  const int64_t heads = PL_SELECT(pool, kTileRows), chunks = (group + heads - 1) / heads;
  const auto attention_cached = PL_SELECT(pool, attention_cached);
  pool.parallel(q.shape[0] * key_heads * chunks, [&](int64_t index, Worker& worker) {
    const int64_t t = index / chunks / key_heads, key_head = index / chunks % key_heads;
    const int64_t first = index % chunks * heads, head = key_head * group + first;
    CachedPiece piece;
    piece.q = static_cast<const float*>(q.data) + t * q.strides[0] + head * q.strides[1];
    piece.q_head = q.strides[1];
    piece.k =
        static_cast<const float*>(k.data) + sequence[t] * k.strides[0] + key_head * k.strides[2];
    piece.k_position = k.strides[1];
    piece.v =
        static_cast<const float*>(v.data) + sequence[t] * v.strides[0] + key_head * v.strides[2];
    piece.v_position = v.strides[1];
    piece.o = static_cast<float*>(o.data) + t * o.strides[0] + head * o.strides[1];
    piece.o_head = o.strides[1];
    piece.heads = int(std::min(heads, group - first));
    piece.keys = int64_t(position[t]) + 1;
    piece.d = q.shape[2];
    piece.scale = args.scale;
    piece.scratch = worker.scratch_floats();
    attention_cached(piece);
  });
}

}  // namespace polylora::cpu

#endif
