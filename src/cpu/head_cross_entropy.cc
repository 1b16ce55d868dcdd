// The output head, fused with cross entropy, on the labelled rows only: chunks of rows by all of
// the vocabulary.
#include <cmath>

#include "cpu/indices.h"
#include "cpu/operations.h"
#include "cpu/product.h"
#include "cpu/workspace.h"

#define PL_TARGET_FILE "cpu/head_cross_entropy.cc"
#include "cpu/for_each_target.h"
#ifdef PL_TARGET
#include "cpu/vector_math.h"

namespace polylora::cpu::PL_TARGET {
namespace {

// Below this many terms a lane's float32 sum is as good as exact; the sums of blocks are added in
// float64.
constexpr int64_t kSumBlock = 64 * kLanes;

// The largest logit (NaN is passed over) and the lowest index that has it.
static float row_maximum(const float* logits, int64_t count, int64_t* index) {
  const Floats least = broadcast(-__builtin_inff());
  Floats best = least;
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) best = maximum(load(logits + i), best);
  float top = largest(best);
  for (; i < count; ++i)
    if (logits[i] > top) top = logits[i];
  for (i = 0; i < count && logits[i] != top; ++i) {
  }
  *index = i < count ? i : 0;
  return top;
}

// logits become exp(logits - top); returns their sum.
static double row_exponentials(float* logits, int64_t count, float top) {
  double total = 0;
  for (int64_t begin = 0; begin < count; begin += kSumBlock) {
    const int64_t end = begin + kSumBlock < count ? begin + kSumBlock : count;
    Floats lanes = zeros();
    int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) {
      const Floats e = exp(load(logits + i) - broadcast(top));
      store(logits + i, e);
      lanes = lanes + e;
    }
    total += double(sum(lanes));
    if (i < end) {
      const int n = int(end - i);
      store_partial(logits + i, exp(load_partial(logits + i, n) - broadcast(top)), n);
      for (; i < end; ++i) total += double(logits[i]);
    }
  }
  return total;
}

static void row_scale(float* values, int64_t count, float factor) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(values + i, load(values + i) * broadcast(factor));
  for (; i < count; ++i) values[i] *= factor;
}

}  // namespace
}  // namespace polylora::cpu::PL_TARGET
#else

namespace polylora::cpu {

namespace {

// Rows of a chunk: as many as amortise reading the weight, but at most 64 MiB of logits where that
// leaves enough. Depends on the vocabulary alone, as the gradient of the weight is summed chunk by
// chunk.
int64_t chunk_rows(int64_t vocabulary) {
  const int64_t rows = (int64_t(1) << 24) / vocabulary / 12 * 12;
  return rows < 60 ? 60 : rows > 252 ? 252 : rows;
}

int64_t padded(int64_t floats) { return (floats + 15) / 16 * 16; }
// Rows that are a multiple of a page apart would share few lines of the cache.
int64_t padded_row(int64_t floats) {
  return padded(floats) % 1024 == 0 ? padded(floats) + 16 : padded(floats);
}

struct Layout {
  int64_t chunk, logits_stride, x_stride;
  int64_t logits, x, d_x, floats;  // offsets, total

  explicit Layout(const pl_head_cross_entropy_args& args) {
    const pl_weight_options& options = args.weight->base.options;
    chunk = chunk_rows(options.rows);
    if (args.rows.shape[0] < chunk) chunk = args.rows.shape[0];
    logits_stride = padded_row(options.rows);
    x_stride = padded_row(options.columns);
    logits = 0;
    x = logits + chunk * logits_stride;
    d_x = x + chunk * x_stride;
    floats = d_x + (args.d_x.dtype == PL_NONE ? 0 : chunk * x_stride);
  }
};

void check_values(const pl_head_cross_entropy_args& args) {
  require_indices("head_cross_entropy", "rows", args.rows, args.x.shape[0]);
  require_indices("head_cross_entropy", "labels", args.labels, args.weight->base.options.rows);
  const int32_t* rows = ints_of(args.rows);
  for (int64_t i = 1; i < args.rows.shape[0]; ++i)
    if (rows[i] <= rows[i - 1])
      throw KernelError("head_cross_entropy: rows must increase, rows[" + std::to_string(i) +
                        "] is " + std::to_string(rows[i]) + " after " +
                        std::to_string(rows[i - 1]));
}

}  // namespace

uint64_t head_cross_entropy_workspace(const pl_head_cross_entropy_args& args) {
  return uint64_t(Layout(args).floats) * 4;
}

void run_head_cross_entropy(Pool& pool, const pl_head_cross_entropy_args& args) {
  check_values(args);
  const Layout layout(args);
  if (args.header.workspace_bytes < uint64_t(layout.floats) * 4)
    throw KernelError("head_cross_entropy: workspace is " +
                      std::to_string(args.header.workspace_bytes) + " bytes, needs " +
                      std::to_string(layout.floats * 4));
  const int64_t labelled = args.rows.shape[0], width = args.x.shape[1],
                vocabulary = args.weight->base.options.rows;
  const int32_t* rows = ints_of(args.rows);
  const int32_t* labels = ints_of(args.labels);
  const bool wants_d_x = args.d_x.dtype != PL_NONE, wants_d_weight = args.d_weight.dtype != PL_NONE;
  float* workspace = static_cast<float*>(args.header.workspace);
  float *logits = workspace + layout.logits, *x = workspace + layout.x,
        *d_x = workspace + layout.d_x;
  const float* row_weight =
      args.row_weight.dtype == PL_NONE ? nullptr : static_cast<const float*>(args.row_weight.data);
  const float loss_scale = *static_cast<const float*>(args.loss_scale.data);

  if (wants_d_x)
    pool.parallel_ranges(args.x.shape[0], 64, [&](int64_t begin, int64_t end, Worker&) {
      for (int64_t t = begin; t < end; ++t)
        std::memset(static_cast<float*>(args.d_x.data) + t * args.d_x.strides[0], 0,
                    size_t(width) * 4);
    });

  for (int64_t first = 0; first < labelled; first += layout.chunk) {
    const int64_t count = labelled - first < layout.chunk ? labelled - first : layout.chunk;
    pool.parallel_ranges(count, 16, [&](int64_t begin, int64_t end, Worker&) {
      for (int64_t i = begin; i < end; ++i)
        std::memcpy(x + i * layout.x_stride,
                    static_cast<const float*>(args.x.data) + rows[first + i] * args.x.strides[0],
                    size_t(width) * 4);
    });

    Segment segment = {};
    segment.x = x;
    segment.x_stride = layout.x_stride;
    segment.weight = args.weight;
    segment.k = width;
    Product product = {};
    product.layout = PL_NT;
    product.rows = count;
    product.columns = vocabulary;
    product.segments = &segment;
    product.segment_count = 1;
    product.y = logits;
    product.y_stride = layout.logits_stride;
    run_product(pool, product);

    pool.parallel(count, [&](int64_t i, Worker&) {
      float* row = logits + i * layout.logits_stride;
      const int64_t l = first + i, label = labels[l];
      int64_t best;
      const float top = PL_SELECT(pool, row_maximum)(row, vocabulary, &best);
      const float logit = row[label];
      const double total = PL_SELECT(pool, row_exponentials)(row, vocabulary, top);
      static_cast<float*>(args.loss.data)[l] = float(double(top) - double(logit) + std::log(total));
      if (args.argmax.dtype != PL_NONE) static_cast<int32_t*>(args.argmax.data)[l] = int32_t(best);
      if (!wants_d_x && !wants_d_weight) return;
      const float scale = (row_weight ? row_weight[l] : 1.0f) * loss_scale;
      PL_SELECT(pool, row_scale)(row, vocabulary, float(double(scale) / total));
      row[label] -= scale;
    });

    if (wants_d_x) {
      segment.x = logits;
      segment.x_stride = layout.logits_stride;
      segment.k = vocabulary;
      product.layout = PL_NN;
      product.columns = width;
      product.y = d_x;
      product.y_stride = layout.x_stride;
      run_product(pool, product);
      pool.parallel_ranges(count, 16, [&](int64_t begin, int64_t end, Worker&) {
        for (int64_t i = begin; i < end; ++i)
          std::memcpy(static_cast<float*>(args.d_x.data) + rows[first + i] * args.d_x.strides[0],
                      d_x + i * layout.x_stride, size_t(width) * 4);
      });
    }
    if (wants_d_weight) {
      segment = {};
      segment.x = logits;
      segment.x_stride = layout.logits_stride;
      segment.w = x;
      segment.w_stride = layout.x_stride;
      segment.k = count;
      product.layout = PL_TN;
      product.rows = vocabulary;
      product.columns = width;
      product.y = static_cast<float*>(args.d_weight.data);
      product.y_stride = args.d_weight.strides[0];
      product.residual = product.y;
      product.residual_stride = product.y_stride;
      run_product(pool, product);
    }
  }
}

}  // namespace polylora::cpu
#endif
