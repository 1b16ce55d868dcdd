#include "cpu/operations.h"
#include "cpu/rows.h"
#include "cpu/workspace.h"

#define PL_TARGET_FILE "cpu/rms_norm.cc"
#include "cpu/for_each_target.h"

#ifdef PL_TARGET

namespace polylora::cpu::PL_TARGET {
namespace {

// Four running vectors, added pairwise: a fixed order.
float sum_of_squares(const float* x, int64_t n) {
  Floats s0 = zeros(), s1 = zeros(), s2 = zeros(), s3 = zeros();
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    const Floats x0 = load(x + i), x1 = load(x + i + kLanes);
    const Floats x2 = load(x + i + 2 * kLanes), x3 = load(x + i + 3 * kLanes);
    s0 = fma(x0, x0, s0);
    s1 = fma(x1, x1, s1);
    s2 = fma(x2, x2, s2);
    s3 = fma(x3, x3, s3);
  }
  for (; i < n; i += kLanes) {
    const Floats last = load_some(x + i, n - i);
    s0 = fma(last, last, s0);
  }
  return sum((s0 + s1) + (s2 + s3));
}

void rms_norm(const Rows& x, const float* weight, float epsilon, const Rows& y, float* rstd,
              int64_t begin, int64_t end) {
  const int64_t n = x.length;
  for (int64_t t = begin; t < end; ++t) {
    const float* const from = x.at(t);
    float* const to = y.at(t);
    const float r = 1.0f / __builtin_sqrtf(sum_of_squares(from, n) / float(n) + epsilon);
    if (rstd) rstd[t] = r;
    const Floats rs = broadcast(r);
    for (int64_t i = 0; i < n; i += kLanes)
      store_some(to + i, load_some(from + i, n - i) * rs * load_some(weight + i, n - i), n - i);
  }
}

// With x^ = x rstd and g = dy weight: dx = rstd (g - x^ mean(g x^)). partial, if given, is
// overwritten by the rows' sum of dy x^.
void rms_norm_backward(const Rows& dy, const Rows& x, const float* weight, const float* rstd,
                       const Rows& residual, const Rows& dx, float* partial, int64_t begin,
                       int64_t end) {
  const int64_t n = x.length;
  if (partial) std::memset(partial, 0, size_t(n) * sizeof(float));
  for (int64_t t = begin; t < end; ++t) {
    const float* const dys = dy.at(t);
    const float* const xs = x.at(t);
    const Floats r = broadcast(rstd[t]);
    Floats s0 = zeros(), s1 = zeros();
    int64_t i = 0;
    if (partial) {
      for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
        const Floats p0 = load(dys + i) * (load(xs + i) * r);
        const Floats p1 = load(dys + i + kLanes) * (load(xs + i + kLanes) * r);
        store(partial + i, load(partial + i) + p0);
        store(partial + i + kLanes, load(partial + i + kLanes) + p1);
        s0 = fma(p0, load(weight + i), s0);
        s1 = fma(p1, load(weight + i + kLanes), s1);
      }
    } else {
      for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
        s0 = fma(load(dys + i) * (load(xs + i) * r), load(weight + i), s0);
        s1 = fma(load(dys + i + kLanes) * (load(xs + i + kLanes) * r), load(weight + i + kLanes),
                 s1);
      }
    }
    for (; i < n; i += kLanes) {
      const Floats p = load_some(dys + i, n - i) * (load_some(xs + i, n - i) * r);
      if (partial) store_some(partial + i, load_some(partial + i, n - i) + p, n - i);
      s0 = fma(p, load_some(weight + i, n - i), s0);
    }
    const Floats mean = broadcast(sum(s0 + s1) / float(n));

    const float* const residuals = residual.data ? residual.at(t) : nullptr;
    float* const dxs = dx.at(t);
    for (i = 0; i < n; i += kLanes) {
      const Floats g = load_some(dys + i, n - i) * load_some(weight + i, n - i);
      Floats d = r * (g - load_some(xs + i, n - i) * r * mean);
      if (residuals) d = load_some(residuals + i, n - i) + d;
      store_some(dxs + i, d, n - i);
    }
  }
}

// y[begin, end) += the sum of `blocks` rows of `partials`, added in order.
void add_partials(const float* partials, int64_t blocks, int64_t n, float* y, int64_t begin,
                  int64_t end) {
  for (int64_t i = begin; i < end; i += kLanes) {
    Floats total = zeros();
    for (int64_t block = 0; block < blocks; ++block)
      total = total + load_some(partials + block * n + i, end - i);
    store_some(y + i, load_some(y + i, end - i) + total, end - i);
  }
}

}  // namespace
}  // namespace polylora::cpu::PL_TARGET

#else

namespace polylora::cpu {

void run_rms_norm(Pool& pool, const pl_rms_norm_args& args) {
  const Rows x = rows_of(args.x), y = rows_of(args.y);
  float* const rstd = static_cast<float*>(args.rstd.data);
  const auto rms_norm = PL_SELECT(pool, rms_norm);
  pool.parallel_ranges(x.count, rows_per_piece(x.length), [&](int64_t begin, int64_t end, Worker&) {
    rms_norm(x, static_cast<const float*>(args.weight.data), args.epsilon, y,
             args.rstd.dtype == PL_NONE ? nullptr : rstd, begin, end);
  });
}

namespace {

struct BackwardBlocks {
  int64_t rows, count;
};

BackwardBlocks backward_blocks(const pl_tensor& x) {
  const Rows rows = rows_of(x);
  const int64_t block = rows_per_piece(rows.length);
  return {block, (rows.count + block - 1) / block};
}

}  // namespace

uint64_t rms_norm_backward_workspace(const pl_rms_norm_backward_args& args) {
  if (args.d_weight.dtype == PL_NONE) return 0;
  return uint64_t(backward_blocks(args.x).count) * uint64_t(args.weight.shape[0]) * sizeof(float);
}

void run_rms_norm_backward(Pool& pool, const pl_rms_norm_backward_args& args) {
  const Rows x = rows_of(args.x), dy = rows_of(args.dy), dx = rows_of(args.dx);
  const Rows residual = args.residual.dtype == PL_NONE ? Rows{} : rows_of(args.residual);
  float* const partials =
      args.d_weight.dtype == PL_NONE ? nullptr : static_cast<float*>(args.header.workspace);
  const BackwardBlocks blocks = backward_blocks(args.x);
  const int64_t n = x.length;
  const auto backward = PL_SELECT(pool, rms_norm_backward);
  pool.parallel_ranges(x.count, blocks.rows, [&](int64_t begin, int64_t end, Worker&) {
    backward(dy, x, static_cast<const float*>(args.weight.data),
             static_cast<const float*>(args.rstd.data), residual, dx,
             partials ? partials + begin / blocks.rows * n : nullptr, begin, end);
  });
  if (!partials) return;
  const auto add_partials = PL_SELECT(pool, add_partials);
  pool.parallel_ranges(n, 256, [&](int64_t begin, int64_t end, Worker&) {
    add_partials(partials, blocks.count, n, static_cast<float*>(args.d_weight.data), begin, end);
  });
}

}  // namespace polylora::cpu

#endif
