#include "cpu/operations.h"
#include "cpu/rows.h"

#define PL_TARGET_FILE "cpu/softmax.cc"
#include "cpu/for_each_target.h"

#ifdef PL_TARGET
#include "cpu/exponentials.h"

namespace polylora::cpu::PL_TARGET {
namespace {

void softmax(const float* x, float scale, float* y, int64_t n) {
  const float over = float(1 / sum_of_exponentials(x, n, scale, largest_of(x, n, scale), y));
  for (int64_t i = 0; i < n; ++i) y[i] *= over;
}

void softmax_backward(const float* dy, const float* y, float scale, float* dx, int64_t n) {
  Floats sums = zeros();
  for (int64_t i = 0; i < n; i += kLanes) {
    sums = fma(load_some(dy + i, n - i), load_some(y + i, n - i), sums);
  }
  const float mean = sum(sums);
  for (int64_t i = 0; i < n; ++i) dx[i] = scale * y[i] * (dy[i] - mean);
}

}  // namespace
}  // namespace polylora::cpu::PL_TARGET

#else

namespace polylora::cpu {

void run_softmax(Pool& pool, const pl_softmax_args& args) {
  const Rows x = rows_of(args.x), y = rows_of(args.y);
  const auto softmax = PL_SELECT(pool, softmax);
  pool.parallel_ranges(x.count, rows_per_piece(x.length), [&](int64_t begin, int64_t end, Worker&) {
    for (int64_t t = begin; t < end; ++t) softmax(x.at(t), args.scale, y.at(t), x.length);
  });
}

void run_softmax_backward(Pool& pool, const pl_softmax_backward_args& args) {
  const Rows dy = rows_of(args.dy), y = rows_of(args.y), dx = rows_of(args.dx);
  const auto backward = PL_SELECT(pool, softmax_backward);
  pool.parallel_ranges(y.count, rows_per_piece(y.length), [&](int64_t begin, int64_t end, Worker&) {
    for (int64_t t = begin; t < end; ++t)
      backward(dy.at(t), y.at(t), args.scale, dx.at(t), y.length);
  });
}

}  // namespace polylora::cpu

#endif
