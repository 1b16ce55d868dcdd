#include "cpu/indices.h"
#include "cpu/operations.h"
#include "cpu/rows.h"

#define PL_TARGET_FILE "cpu/segmented_matmul.cc"
#include "cpu/for_each_target.h"

#ifdef PL_TARGET

namespace polylora::cpu::PL_TARGET {
namespace {

// y = x w, or x w^T, for one row; w's rows are w_stride apart.
void row_product(const float* x, const float* w, int64_t w_stride, int32_t transpose, float* y,
                 int64_t n) {
  if (transpose) {
    for (int64_t r = 0; r < n; ++r) {
      Floats sums = zeros();
      for (int64_t i = 0; i < n; i += kLanes) {
        sums = fma(load_some(x + i, n - i), load_some(w + r * w_stride + i, n - i), sums);
      }
      y[r] = sum(sums);
    }
    return;
  }
  for (int64_t i = 0; i < n; i += kLanes) {
    Floats sums = zeros();
    for (int64_t r = 0; r < n; ++r)
      sums = fma(broadcast(x[r]), load_some(w + r * w_stride + i, n - i), sums);
    store_some(y + i, sums, n - i);
  }
}

// y += x * row
void add_scaled(float x, const float* row, float* y, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) {
    store_some(y + i, fma(broadcast(x), load_some(row + i, n - i), load_some(y + i, n - i)), n - i);
  }
}

}  // namespace
}  // namespace polylora::cpu::PL_TARGET

#else

namespace polylora::cpu {

void run_segmented_matmul(Pool& pool, const pl_segmented_matmul_args& args) {
  const Rows x = rows_of(args.x), y = rows_of(args.y);
  require_indices("segmented_matmul", "segment_of", args.segment_of, args.w.shape[0]);
  const int32_t* const segment_of = ints_of(args.segment_of);
  const float* const w = static_cast<const float*>(args.w.data);
  const int64_t n = x.length;
  const auto row_product = PL_SELECT(pool, row_product);
  pool.parallel_ranges(x.count, rows_per_piece(n * n), [&](int64_t begin, int64_t end, Worker&) {
    for (int64_t t = begin; t < end; ++t)
      row_product(x.at(t), w + segment_of[t] * args.w.strides[0], args.w.strides[1], args.transpose,
                  y.at(t), n);
  });
}

void run_segmented_matmul_backward(Pool& pool, const pl_segmented_matmul_backward_args& args) {
  const Rows x = rows_of(args.x), dy = rows_of(args.dy);
  require_indices("segmented_matmul_backward", "segment_of", args.segment_of, args.d_w.shape[0]);
  const int32_t* const segment_of = ints_of(args.segment_of);
  float* const d_w = static_cast<float*>(args.d_w.data);
  const int64_t segments = args.d_w.shape[0], n = x.length;
  // Rows of d_w of one segment make a piece; it reads all rows of x, in their order.
  constexpr int64_t kRows = 16;
  const int64_t blocks = (n + kRows - 1) / kRows;
  const auto add_scaled = PL_SELECT(pool, add_scaled);
  pool.parallel(segments * blocks, [&](int64_t index, Worker&) {
    const int64_t segment = index / blocks, first = index % blocks * kRows;
    const int64_t last = first + kRows < n ? first + kRows : n;
    for (int64_t t = 0; t < x.count; ++t) {
      if (segment_of[t] != segment) continue;
      for (int64_t r = first; r < last; ++r)
        add_scaled(x.at(t)[r], dy.at(t),
                   d_w + segment * args.d_w.strides[0] + r * args.d_w.strides[1], n);
    }
  });
}

}  // namespace polylora::cpu

#endif
