// The skinny products of the low-rank path: run_low_rank_project, run_low_rank_backward.
#include <vector>

#include "cpu/operations.h"
#include "cpu/product.h"
#include "cpu/workspace.h"

namespace polylora::cpu {

namespace {

const float* floats_of(const pl_tensor& tensor) { return static_cast<const float*>(tensor.data); }

// The backward in one read of dy: a task takes kBlock rows of it in stripes of columns, and uses a
// stripe twice while it is in the cache. The sums are those of two products: t is a chain over all
// columns; d_b is summed over blocks of kBlock rows, each from zero, which are then added in order.
constexpr int64_t kStripe = 192;  // whole tiles of rows of d_b
constexpr int64_t kMostPanels = 4;

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

struct Backward {
  const ProductKernels& kernels;
  const pl_low_rank_backward_args& args;
  int64_t rows, columns, rank, row_blocks;
  float* partial;  // [row_blocks][columns][rank], null if there is one block

  int64_t panels() const { return divide_up(rank, kPanel); }
  int64_t width(int64_t panel) const { return least(kPanel, rank - panel * kPanel); }

  void run(int64_t row_block, float* scratch) const {
    const int64_t row = row_block * kBlock, count = least(kBlock, rows - row);
    float* p = scratch;
    float* b = p + kMostPanels * kPanelStride;
    float* t = b + kMostPanels * kPanelStride;
    float* d_b = t + kMostPanels * kBlock * kPanel;
    float* packed = d_b + kStripe * kPanel;
    static_assert((2 * kMostPanels * kPanelStride + kMostPanels * kBlock * kPanel +
                   kStripe * kPanel + kBlock * kLead) *
                          4 <=
                      int64_t(kScratchBytes),
                  "a task's parts must fit a worker's scratch");
    const int64_t dy_stride = args.dy.strides[0];
    const bool packs = shares_cache_lines(dy_stride);
    kernels.panels_from_rows(floats_of(args.p) + row * args.p.strides[0], args.p.strides[0], count,
                             rank, p);
    for (int64_t column = 0; column < columns; column += kStripe) {
      const int64_t stripe = least(kStripe, columns - column);
      const float* dy = floats_of(args.dy) + row * dy_stride + column;
      if (packs) {
        kernels.pack(dy, dy_stride, count, stripe, packed, kLead);
        dy = packed;
      }
      const int64_t step = packs ? kLead : dy_stride;
      kernels.panels_from_rows(floats_of(args.b) + column * args.b.strides[0], args.b.strides[0],
                               stripe, rank, b);
      for (int64_t i = 0; i < panels(); ++i)
        kernels.multiply(column == 0 ? Sum::first : Sum::continued, count, width(i), stripe, dy,
                         step, b + i * kPanelStride, kPanel, t + i * kBlock * kPanel);
      for (int64_t i = 0; i < panels(); ++i) {
        kernels.multiply_transposed(Sum::first, stripe, width(i), count, dy, step,
                                    p + i * kPanelStride, kPanel, d_b);
        finish_d_b(row_block, column, stripe, i, d_b);
      }
    }
    for (int64_t i = 0; i < panels(); ++i)
      kernels.finish(t + i * kBlock * kPanel, count, width(i),
                     floats_of(args.rank_scale) + i * kPanel, nullptr, nullptr, 0,
                     static_cast<float*>(args.t.data) + row * args.t.strides[0] + i * kPanel,
                     args.t.strides[0]);
  }

  void finish_d_b(int64_t row_block, int64_t column, int64_t stripe, int64_t panel,
                  const float* sums) const {
    const int64_t stride = args.d_b.strides[0];
    float* out = static_cast<float*>(args.d_b.data) + column * stride + panel * kPanel;
    if (partial)
      kernels.finish(sums, stripe, width(panel), nullptr, nullptr, nullptr, 0,
                     partial + (row_block * columns + column) * rank + panel * kPanel, rank);
    else
      kernels.finish(sums, stripe, width(panel), nullptr, nullptr, out, stride, out, stride);
  }

  // d_b += the blocks' sums, added in order, for columns [begin, end).
  void reduce(int64_t begin, int64_t end) const {
    for (int64_t column = begin; column < end; ++column) {
      float* out = static_cast<float*>(args.d_b.data) + column * args.d_b.strides[0];
      float* sums = partial + column * rank;
      for (int64_t block = 1; block < row_blocks; ++block) {
        const float* more = partial + (block * columns + column) * rank;
        for (int64_t r = 0; r < rank; ++r) sums[r] = sums[r] + more[r];
      }
      for (int64_t r = 0; r < rank; ++r) out[r] = sums[r] + out[r];
    }
  }
};

void backward_in_two(Pool& pool, const pl_low_rank_backward_args& args) {
  Segment segment = {};
  segment.x = floats_of(args.dy);
  segment.x_stride = args.dy.strides[0];
  segment.w = floats_of(args.b);
  segment.w_stride = args.b.strides[0];
  segment.k = args.dy.shape[1];
  Product product = {};
  product.layout = PL_NN;
  product.rows = args.t.shape[0];
  product.columns = args.t.shape[1];
  product.segments = &segment;
  product.segment_count = 1;
  product.scale = floats_of(args.rank_scale);
  product.y = static_cast<float*>(args.t.data);
  product.y_stride = args.t.strides[0];
  run_product(pool, product);
  if (args.d_b.dtype == PL_NONE) return;
  segment.w = floats_of(args.p);
  segment.w_stride = args.p.strides[0];
  segment.k = args.dy.shape[0];
  product.layout = PL_TN;
  product.rows = args.d_b.shape[0];
  product.columns = args.d_b.shape[1];
  product.scale = nullptr;
  product.y = static_cast<float*>(args.d_b.data);
  product.y_stride = args.d_b.strides[0];
  product.residual = product.y;
  product.residual_stride = product.y_stride;
  run_product(pool, product);
}

}  // namespace

void run_low_rank_project(Pool& pool, const pl_low_rank_project_args& args) {
  const Dropout dropout = read_dropout(args.dropout);
  Segment segment = {};
  segment.x = floats_of(args.x);
  segment.x_stride = args.x.strides[0];
  segment.w = floats_of(args.a);
  segment.w_stride = args.a.strides[0];
  segment.k = args.x.shape[1];
  segment.mask_x = args.dropout.probability > 0;
  Product product = {};
  product.layout = PL_NT;
  product.rows = args.s.shape[0];
  product.columns = args.s.shape[1];
  product.segments = &segment;
  product.segment_count = 1;
  product.dropout = &dropout;
  product.scale = floats_of(args.rank_scale);
  product.y = static_cast<float*>(args.s.data);
  product.y_stride = args.s.strides[0];
  run_product(pool, product);
}

uint64_t low_rank_backward_workspace(const pl_low_rank_backward_args& args) {
  const int64_t row_blocks = divide_up(args.dy.shape[0], kBlock), rank = args.b.shape[1];
  if (args.d_b.dtype == PL_NONE || row_blocks < 2 || rank > kMostPanels * kPanel) return 0;
  return uint64_t(row_blocks) * uint64_t(args.dy.shape[1]) * uint64_t(rank) * 4;
}

void run_low_rank_backward(Pool& pool, const pl_low_rank_backward_args& args) {
  const int64_t rows = args.dy.shape[0], columns = args.dy.shape[1], rank = args.b.shape[1];
  const int64_t row_blocks = divide_up(rows, kBlock);
  // One read has tasks of whole blocks of rows only: it loses where that leaves workers without
  // one. Both ways give the same bits.
  const int64_t rounds = divide_up(row_blocks, pool.threads());
  const bool balanced = rounds * least(kBlock, rows) * pool.threads() * 3 <= rows * 4;
  if (args.d_b.dtype == PL_NONE || columns == 0 || rank == 0 || rank > kMostPanels * kPanel ||
      !balanced || args.header.workspace_bytes < low_rank_backward_workspace(args)) {
    backward_in_two(pool, args);
    return;
  }
  const Backward backward{product_kernels(pool.instruction_set()),
                          args,
                          rows,
                          columns,
                          rank,
                          row_blocks,
                          row_blocks > 1 ? static_cast<float*>(args.header.workspace) : nullptr};
  pool.parallel(row_blocks, [&](int64_t block, Worker& worker) {
    backward.run(block, worker.scratch_floats());
  });
  if (backward.partial)
    pool.parallel_ranges(columns, 1 + 16384 / rank,
                         [&](int64_t begin, int64_t end, Worker&) { backward.reduce(begin, end); });
}

}  // namespace polylora::cpu
