// Row t attends to positions 0 .. row_position[t] of its sequence in the cache. Overwrites o. The
// cache is float32 and so are the products: what counts is reading it once for all the query heads
// of a key-value head, and for all the rows of a sequence that stand side by side.
//
// Keys go in chunks of kChunk, counted from position 0; each has its own maximum and sums, and they
// are merged in order. Where there are few rows every chunk gets a block and a second kernel merges
// them; else one block takes all of them in turn. Both do the same arithmetic, so that a row's bits
// depend neither on which it was nor on the rows beside it; and a row does not touch what it does
// not see, which may be anything.
//
// Predicted, not measured: 8 sequences at position 4,096, 28 heads of 128 over 4, on an H100 SXM:
// 268 MB of cache, 0.08 ms at 3.35 TB/s. Multiplying all 32 rows of a tile, of which 7 are used,
// takes some 84 cycles a position, by shared memory: 0.05 ms, beneath the reading where the three
// blocks that an SM holds (70 KB each, 34 KB in flight) take turns. So 0.1 ms.
#include "cuda/attention.h"
#include "cuda/operations.h"

namespace polylora::cuda {
namespace {

constexpr int kChunk = 256;  // positions
constexpr int kMergeThreads = 128;

// lines are the pairs of a row and a head.
struct Cached {
  Heads q, o;
  Operand<float> k, v;  // of sequence 0; a row is a position
  int64_t k_sequence, v_sequence;
  const int32_t *row_sequence, *row_position;
  int64_t rows, sequences, length;
  int heads, group, d;
  int rows_each, heads_each;  // of a block, at most
  int head_parts;             // of the query heads of one key-value head
  int chunks;                 // of a block; 0: all in turn
  float scale;                // times log2 e
  float* partials;            // [rows, heads, chunks, 2 + d]: the maximum, the sum, the sums
  Failure* failure;
};

__device__ inline float* partial_at(const Cached& a, int64_t t, int64_t head, int64_t chunk) {
  return a.partials + ((t * a.heads + head) * a.chunks + chunk) * (2 + a.d);
}

// What two maxima's sums are multiplied by when they are merged.
struct Merge {
  float now, before, added;
};
__device__ inline Merge merge_of(float most, float chunk_most) {
  const float now = fmaxf(most, chunk_most), shift = now == -INFINITY ? 0.0f : now;
  return {now, ptx::exp2_approximate(most - shift), ptx::exp2_approximate(chunk_most - shift)};
}

template <class Tiles>
constexpr int kCachedShared =
    (Tiles::kRows + 4 * Tiles::kStreamed) * Tiles::kRowBytes + Tiles::kScratchBytes;

template <class Tiles>
__global__ void __launch_bounds__(Tiles::kThreads, 2)
    attention_cached_kernel(const __grid_constant__ Cached a) {
  constexpr int kStreamed = Tiles::kStreamed, kTileBytes = kStreamed * Tiles::kRowBytes;
  static_assert(kChunk % kStreamed == 0, "chunks are whole tiles");
  using Scores = typename Tiles::Scores;
  using Sums = typename Tiles::template Held<Tiles::kWidth>;
  PL_DYNAMIC_SHARED(char, shared);
  char* const queries = shared;
  char* const stages = queries + Tiles::kRows * Tiles::kRowBytes;
  const Tiles tiles(stages + 4 * kTileBytes);

  // Every row has a block for each key-value head and part; the block acts for as many rows as
  // follow in the same sequence, and those rows' own blocks do nothing.
  const int splits = a.chunks ? a.chunks : 1;
  const int key_heads = a.heads / a.group;
  int64_t number = blockIdx.x;
  const int split = int(number % splits);
  number /= splits;
  const int part = int(number % a.head_parts), key_head = int(number / a.head_parts % key_heads);
  const int64_t t = number / a.head_parts / key_heads, sequence = a.row_sequence[t];
  if (t % a.rows_each != 0 && a.row_sequence[t - 1] == sequence) return;
  if (sequence < 0 || sequence >= a.sequences) {
    if (threadIdx.x == 0)
      report_index(a.failure, PL_OPERATION_attention_cached, "row_sequence", t, sequence,
                   a.sequences);
    return;
  }
  int rows = 0, least = 0, most_keys = 0;  // keys that every row sees, that any of them sees
  for (int64_t i = t; i < a.rows && rows < a.rows_each - t % a.rows_each; ++i, ++rows) {
    if (a.row_sequence[i] != sequence) break;
    const int64_t position = a.row_position[i];
    if (position < 0 || position >= a.length) {
      if (threadIdx.x == 0)
        report_index(a.failure, PL_OPERATION_attention_cached, "row_position", i, position,
                     a.length);
      return;
    }
    least = rows == 0 ? int(position) + 1 : min(least, int(position) + 1);
    most_keys = max(most_keys, int(position) + 1);
  }
  const int first_head = key_head * a.group + part * a.heads_each;
  const int heads = min(a.heads_each, a.group - part * a.heads_each), lines = rows * heads;
  const int begin = split * kChunk;
  const int end = a.chunks ? min(begin + kChunk, most_keys) : most_keys;
  if (begin >= end) return;

  Operand<float> k = a.k, v = a.v;
  k.data += sequence * a.k_sequence;
  v.data += sequence * a.v_sequence;
  const auto load = [&](int key) {
    char* const stage = stages + key / kStreamed % 2 * 2 * kTileBytes;
    copy_streamed<Tiles>(stage, k, key, key_head, most_keys - key);
    copy_streamed<Tiles>(stage + kTileBytes, v, key, key_head, most_keys - key);
    ptx::cp_async_commit();
  };
  load(begin);
  load_resident<Tiles>(queries, lines, a.d, a.q.aligned, [&](int line) {
    return a.q.at(t + line / heads, first_head + line % heads);
  });

  int keys_of[Tiles::kRowSlots];  // that the line sees
  float most[Tiles::kRowSlots], total[Tiles::kRowSlots];
#pragma unroll
  for (int r = 0; r < Tiles::kRowSlots; ++r) {
    const int line = Tiles::row(r) < lines ? Tiles::row(r) : 0;
    keys_of[r] = a.row_position[t + line / heads] + 1;
    most[r] = -INFINITY;
    total[r] = 0;
  }
  Sums sums = {};
  for (int chunk = begin; chunk < end; chunk += kChunk) {
    float chunk_most[Tiles::kRowSlots], chunk_total[Tiles::kRowSlots];
#pragma unroll
    for (int r = 0; r < Tiles::kRowSlots; ++r) {
      chunk_most[r] = -INFINITY;
      chunk_total[r] = 0;
    }
    Sums chunk_sums = {};
    for (int key = chunk; key < min(chunk + kChunk, end); key += kStreamed) {
      ptx::cp_async_wait<0>();
      __syncthreads();  // these keys are there, and those before have been read
      if (key + kStreamed < end) load(key + kStreamed);
      const char* const stage = stages + key / kStreamed % 2 * 2 * kTileBytes;
      Scores scores;
      tiles.multiply(scores, queries, stage);
      float factors[Tiles::kRowSlots];
      int seen[Tiles::kRowSlots];
#pragma unroll
      for (int r = 0; r < Tiles::kRowSlots; ++r) {
        seen[r] = keys_of[r] - key;
        float now = -INFINITY;
#pragma unroll
        for (int c = 0; c < Tiles::kColumnSlots; ++c) {
          scores(r, c) = Tiles::column(c) < seen[r] ? scores(r, c) * a.scale : -INFINITY;
          now = fmaxf(now, scores(r, c));
        }
        now = fmaxf(chunk_most[r], Tiles::row_max(now));
        const float shift = now == -INFINITY ? 0.0f : now;  // nothing seen yet
        factors[r] = ptx::exp2_approximate(chunk_most[r] - shift);
        chunk_most[r] = now;
        float sum = 0;
#pragma unroll
        for (int c = 0; c < Tiles::kColumnSlots; ++c) {
          scores(r, c) = ptx::exp2_approximate(scores(r, c) - shift);
          sum += scores(r, c);
        }
        chunk_total[r] = fmaf(chunk_total[r], factors[r], sum);
      }
#pragma unroll
      for (int r = 0; r < Tiles::kRowSlots; ++r)
#pragma unroll
        for (int c = 0; c < Sums::kColumnSlots; ++c) chunk_sums(r, c) *= factors[r];
      if (key + kStreamed <= least)
        tiles.accumulate(chunk_sums, scores, stage + kTileBytes);
      else
        tiles.accumulate_seen(chunk_sums, scores, stage + kTileBytes, seen);
    }
#pragma unroll
    for (int r = 0; r < Tiles::kRowSlots; ++r) {
      chunk_total[r] = Tiles::row_sum(chunk_total[r]);
      if (keys_of[r] <= chunk) continue;
      if (a.chunks) {
        if (Tiles::row(r) >= lines) continue;
        float* const to =
            partial_at(a, t + Tiles::row(r) / heads, first_head + Tiles::row(r) % heads, split);
        if (Tiles::is_first_of_row()) {
          to[0] = chunk_most[r];
          to[1] = chunk_total[r];
        }
#pragma unroll
        for (int c = 0; c < Sums::kColumnSlots; ++c)
          if (Tiles::column(c) < a.d) to[2 + Tiles::column(c)] = chunk_sums(r, c);
      } else {
        const Merge merge = merge_of(most[r], chunk_most[r]);
        most[r] = merge.now;
        total[r] = fmaf(total[r], merge.before, chunk_total[r] * merge.added);
#pragma unroll
        for (int c = 0; c < Sums::kColumnSlots; ++c)
          sums(r, c) = fmaf(sums(r, c), merge.before, chunk_sums(r, c) * merge.added);
      }
    }
  }
  if (a.chunks) return;
#pragma unroll
  for (int r = 0; r < Tiles::kRowSlots; ++r) {
    if (Tiles::row(r) >= lines) continue;
    float* const to = a.o.at(t + Tiles::row(r) / heads, first_head + Tiles::row(r) % heads);
#pragma unroll
    for (int c = 0; c < Sums::kColumnSlots; ++c)
      if (Tiles::column(c) < a.d) to[Tiles::column(c)] = sums(r, c) / total[r];
  }
}

// A block a line.
__global__ void __launch_bounds__(kMergeThreads)
    attention_cached_merge_kernel(const __grid_constant__ Cached a) {
  const int64_t t = blockIdx.x / a.heads, head = blockIdx.x % a.heads;
  const int64_t position = a.row_position[t], sequence = a.row_sequence[t];
  // Reported before.
  if (position < 0 || position >= a.length || sequence < 0 || sequence >= a.sequences) return;
  for (int column = threadIdx.x; column < a.d; column += kMergeThreads) {
    float most = -INFINITY, total = 0, sum = 0;
    for (int chunk = 0; chunk <= position / kChunk; ++chunk) {
      const float* const from = partial_at(a, t, head, chunk);
      const Merge merge = merge_of(most, from[0]);
      most = merge.now;
      total = fmaf(total, merge.before, from[1] * merge.added);
      sum = fmaf(sum, merge.before, from[2 + column] * merge.added);
    }
    a.o.at(t, head)[column] = sum / total;
  }
}

template <int kWidth>
using Tiles = FloatTiles<kWidth, kWidth <= 128 ? 32 : 16, kWidth <= 64 ? 32 : 16>;

template <class Tiles>
void run(Stream& stream, Cached& a) {
  static_assert(kCachedShared<Tiles> <= kSharedLimit80, "every sm_80 takes it");
  a.heads_each = a.group < Tiles::kRows ? a.group : Tiles::kRows;
  a.rows_each = Tiles::kRows / a.heads_each;
  a.head_parts = (a.group + a.heads_each - 1) / a.heads_each;
  const int64_t blocks = a.rows * (a.heads / a.group) * a.head_parts * (a.chunks ? a.chunks : 1);
  launch(stream, {blocks_for(blocks, 1), Tiles::kThreads, kCachedShared<Tiles>},
         attention_cached_kernel<Tiles>, a);
  if (a.chunks)
    launch(stream, {blocks_for(a.rows * a.heads, 1), kMergeThreads}, attention_cached_merge_kernel,
           a);
}

// Chunks in blocks of their own; 0: a block takes all of its rows' chunks.
int split_chunks(const Stream& stream, const pl_attention_cached_args& args) {
  const int64_t chunks = (args.k_cache.shape[1] + kChunk - 1) / kChunk;
  const int64_t blocks = args.q.shape[0] * args.k_cache.shape[2];
  return chunks > 1 && blocks < 2 * stream.processors() ? int(chunks) : 0;
}

}  // namespace

uint64_t workspace_attention_cached(const Stream& stream, const pl_attention_cached_args& args) {
  return uint64_t(args.q.shape[0]) * uint64_t(args.q.shape[1]) *
         uint64_t(split_chunks(stream, args)) * uint64_t(2 + args.q.shape[2]) * sizeof(float);
}

void run_attention_cached(Stream& stream, const pl_attention_cached_args& args) {
  const auto cache_of = [&](const pl_tensor& cache) {
    Heads heads = {static_cast<float*>(cache.data), cache.strides[1], cache.strides[2], false};
    heads.aligned =
        rows_are_aligned(cache.data, cache.strides[0]) && heads.row % 4 == 0 && heads.head % 4 == 0;
    return operand_of(heads, int(cache.shape[3]));
  };
  Cached a = {};
  a.q = heads_of(args.q);
  a.o = heads_of(args.o);
  a.k = cache_of(args.k_cache);
  a.v = cache_of(args.v_cache);
  a.k_sequence = args.k_cache.strides[0];
  a.v_sequence = args.v_cache.strides[0];
  a.row_sequence = static_cast<const int32_t*>(args.row_sequence.data);
  a.row_position = static_cast<const int32_t*>(args.row_position.data);
  a.rows = args.q.shape[0];
  a.sequences = args.k_cache.shape[0];
  a.length = args.k_cache.shape[1];
  a.heads = int(args.q.shape[1]);
  a.group = a.heads / int(args.k_cache.shape[2]);
  a.d = int(args.q.shape[2]);
  a.chunks = split_chunks(stream, args);
  a.scale = args.scale * kLog2E;
  a.partials = static_cast<float*>(args.header.workspace);
  a.failure = stream.failure();
  with_width(a.d, [&](auto width) { run<Tiles<decltype(width)::value>>(stream, a); });
}

}  // namespace polylora::cuda
