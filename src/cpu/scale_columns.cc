#include "cpu/operations.h"
#include "cpu/rows.h"

#define PL_TARGET_FILE "cpu/scale_columns.cc"
#include "cpu/for_each_target.h"

#ifdef PL_TARGET

namespace polylora::cpu::PL_TARGET {
namespace {

void scale_row(const float* x, const float* scale, const float* bias, const float* residual,
               float* y, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) {
    Floats value = load_some(scale + i, n - i) * load_some(x + i, n - i);
    if (bias) value = value + load_some(bias + i, n - i);
    if (residual) value = value + load_some(residual + i, n - i);
    store_some(y + i, value, n - i);
  }
}

// dx of columns [begin, end), and their sums of dy x: blocks of rows are summed apart and added in
// order, as column_sum's are.
void scale_columns_backward(const Rows& dy, const Rows& x, const Rows& dx, const float* scale,
                            const float* norm, float* d_magnitude, int64_t begin, int64_t end) {
  constexpr int64_t kBlockRows = 64;
  for (int64_t i = begin; i < end; i += kLanes) {
    const int64_t left = end - i;
    const Floats factor = load_some(scale + i, left);
    Floats total = zeros();
    for (int64_t first = 0; first < dy.count; first += kBlockRows) {
      const int64_t last = first + kBlockRows < dy.count ? first + kBlockRows : dy.count;
      Floats block = zeros();
      for (int64_t t = first; t < last; ++t) {
        const Floats gradient = load_some(dy.at(t) + i, left);
        block = fma(gradient, load_some(x.at(t) + i, left), block);
        store_some(dx.at(t) + i, factor * gradient, left);
      }
      total = total + block;
    }
    if (d_magnitude)
      for (int64_t j = 0; j < left && j < kLanes; ++j) d_magnitude[i + j] += total[j] / norm[i + j];
  }
}

}  // namespace
}  // namespace polylora::cpu::PL_TARGET

#else

namespace polylora::cpu {

namespace {

const float* optional_floats(const pl_tensor& tensor) {
  return tensor.dtype == PL_NONE ? nullptr : static_cast<const float*>(tensor.data);
}

}  // namespace

void run_scale_columns(Pool& pool, const pl_scale_columns_args& args) {
  const Rows x = rows_of(args.x), y = rows_of(args.y);
  const bool has_residual = args.residual.dtype != PL_NONE;
  const Rows residual = has_residual ? rows_of(args.residual) : Rows{};
  const float* const scale = optional_floats(args.scale);
  const float* const bias = optional_floats(args.bias);
  const auto scale_row = PL_SELECT(pool, scale_row);
  pool.parallel_ranges(x.count, rows_per_piece(x.length), [&](int64_t begin, int64_t end, Worker&) {
    for (int64_t t = begin; t < end; ++t)
      scale_row(x.at(t), scale, bias, has_residual ? residual.at(t) : nullptr, y.at(t), x.length);
  });
}

void run_scale_columns_backward(Pool& pool, const pl_scale_columns_backward_args& args) {
  const Rows dy = rows_of(args.dy), x = rows_of(args.x), dx = rows_of(args.dx);
  const auto backward = PL_SELECT(pool, scale_columns_backward);
  constexpr int64_t kColumns = 64;  // whole vectors of every instruction set
  const int64_t pieces = (args.dy.shape[1] + kColumns - 1) / kColumns;
  pool.parallel(pieces, [&](int64_t index, Worker&) {
    const int64_t begin = index * kColumns;
    const int64_t end = begin + kColumns < dy.length ? begin + kColumns : dy.length;
    backward(
        dy, x, dx, optional_floats(args.scale), optional_floats(args.norm),
        args.d_magnitude.dtype == PL_NONE ? nullptr : static_cast<float*>(args.d_magnitude.data),
        begin, end);
  });
}

}  // namespace polylora::cpu

#endif
