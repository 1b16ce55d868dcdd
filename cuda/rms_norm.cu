// y = x * rstd * weight, and back. dx overwrites; d_weight accumulates.
//
// A row belongs to a warp, or if it is long to a block; which of them follows from its length
// alone. d_weight is summed as column_sums.h says.
#include "cuda/column_sums.h"
#include "cuda/launch.h"
#include "cuda/operations.h"
#include "cuda/reduce.h"
#include "cuda/rows.h"

namespace polylora::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int64_t kWarpLength = 1024;  // the longest row that a warp takes

template <int kRowThreads, bool kAligned>
__global__ void __launch_bounds__(kThreads)
    rms_norm_kernel(Rows x, const float* weight, float epsilon, Rows y, float* rstd) {
  const int64_t row = int64_t(blockIdx.x) * (kThreads / kRowThreads) + threadIdx.x / kRowThreads;
  if (row >= x.count) return;  // whole warps
  const int lane = threadIdx.x % kRowThreads;
  const float* const from = x.at(row);
  float* const to = y.at(row);
  const int64_t n = x.length;
  float squares = 0;
  for (int64_t i = lane * 4; i < n; i += kRowThreads * 4) {
    const float4 v = load_four<kAligned>(from, i, n);
    squares = fmaf(v.x, v.x, squares);
    squares = fmaf(v.y, v.y, squares);
    squares = fmaf(v.z, v.z, squares);
    squares = fmaf(v.w, v.w, squares);
  }
  const float r = 1.0f / sqrtf(row_sum<kRowThreads>(squares) / float(n) + epsilon);
  if (rstd && lane == 0) rstd[row] = r;
  for (int64_t i = lane * 4; i < n; i += kRowThreads * 4) {
    const float4 v = load_four<kAligned>(from, i, n), w = load_four<kAligned>(weight, i, n);
    store_four<kAligned>(to, i, n, {v.x * r * w.x, v.y * r * w.y, v.z * r * w.z, v.w * r * w.w});
  }
}

// With x^ = x rstd and g = dy weight: dx = rstd (g - x^ mean(g x^)), plus the residual.
template <int kRowThreads, bool kAligned>
__global__ void __launch_bounds__(kThreads)
    rms_norm_backward_kernel(Rows dy, Rows x, const float* weight, const float* rstd, Rows residual,
                             Rows dx) {
  const int64_t row = int64_t(blockIdx.x) * (kThreads / kRowThreads) + threadIdx.x / kRowThreads;
  if (row >= x.count) return;  // whole warps
  const int lane = threadIdx.x % kRowThreads;
  const float* const dys = dy.at(row);
  const float* const xs = x.at(row);
  const int64_t n = x.length;
  const float r = rstd[row];
  float sum = 0;
  for (int64_t i = lane * 4; i < n; i += kRowThreads * 4) {
    const float4 d = load_four<kAligned>(dys, i, n), v = load_four<kAligned>(xs, i, n),
                 w = load_four<kAligned>(weight, i, n);
    sum = fmaf(d.x * w.x, v.x * r, sum);
    sum = fmaf(d.y * w.y, v.y * r, sum);
    sum = fmaf(d.z * w.z, v.z * r, sum);
    sum = fmaf(d.w * w.w, v.w * r, sum);
  }
  const float mean = row_sum<kRowThreads>(sum) / float(n);
  const float* const residuals = residual.data ? residual.at(row) : nullptr;
  float* const dxs = dx.at(row);
  for (int64_t i = lane * 4; i < n; i += kRowThreads * 4) {
    const float4 d = load_four<kAligned>(dys, i, n), v = load_four<kAligned>(xs, i, n),
                 w = load_four<kAligned>(weight, i, n);
    float4 out = {r * (d.x * w.x - v.x * r * mean), r * (d.y * w.y - v.y * r * mean),
                  r * (d.z * w.z - v.z * r * mean), r * (d.w * w.w - v.w * r * mean)};
    if (residuals) {
      const float4 e = load_four<kAligned>(residuals, i, n);
      out = {e.x + out.x, e.y + out.y, e.z + out.z, e.w + out.w};
    }
    store_four<kAligned>(dxs, i, n, out);
  }
}

// d_weight += dy x^
struct WeightTerm {
  Rows dy, x;
  const float* rstd;
  __device__ float operator()(float sum, int64_t, int64_t t, int64_t column) const {
    return fmaf(dy.at(t)[column], x.at(t)[column] * rstd[t], sum);
  }
};
struct WeightStore {
  float* d_weight;
  __device__ void operator()(int64_t, int64_t column, float total) const {
    d_weight[column] += total;
  }
};

ColumnSums weight_sums(const Rows& x, void* workspace) {
  return {1, x.count, x.length, static_cast<float*>(workspace)};
}

template <int kRowThreads>
unsigned grid_of(const Rows& x) {
  return blocks_for(x.count, kThreads / kRowThreads);
}

}  // namespace

void run_rms_norm(Stream& stream, const pl_rms_norm_args& args) {
  const Rows x = rows_of(args.x), y = rows_of(args.y);
  const auto* const weight = static_cast<const float*>(args.weight.data);
  float* const rstd = args.rstd.dtype == PL_NONE ? nullptr : static_cast<float*>(args.rstd.data);
  const bool aligned = are_aligned(x) && are_aligned(y) && rows_are_aligned(weight, 0);
  if (x.length <= kWarpLength) {
    const auto kernel = aligned ? rms_norm_kernel<32, true> : rms_norm_kernel<32, false>;
    launch(stream, {grid_of<32>(x), kThreads}, kernel, x, weight, args.epsilon, y, rstd);
  } else {
    const auto kernel =
        aligned ? rms_norm_kernel<kThreads, true> : rms_norm_kernel<kThreads, false>;
    launch(stream, {grid_of<kThreads>(x), kThreads}, kernel, x, weight, args.epsilon, y, rstd);
  }
}

uint64_t workspace_rms_norm_backward(const Stream&, const pl_rms_norm_backward_args& args) {
  if (args.d_weight.dtype == PL_NONE) return 0;
  return weight_sums(rows_of(args.x), nullptr).workspace_bytes();
}

void run_rms_norm_backward(Stream& stream, const pl_rms_norm_backward_args& args) {
  const Rows x = rows_of(args.x), dy = rows_of(args.dy), dx = rows_of(args.dx);
  const Rows residual = rows_of(args.residual);
  const auto* const weight = static_cast<const float*>(args.weight.data);
  const auto* const rstd = static_cast<const float*>(args.rstd.data);
  // First, since dx may take dy's place.
  if (args.d_weight.dtype != PL_NONE && x.count > 0)
    sum_columns(stream, weight_sums(x, args.header.workspace), WeightTerm{dy, x, rstd},
                WeightStore{static_cast<float*>(args.d_weight.data)});
  const bool aligned = are_aligned(x) && are_aligned(dy) && are_aligned(dx) &&
                       are_aligned(residual) && rows_are_aligned(weight, 0);
  if (x.length <= kWarpLength) {
    const auto kernel =
        aligned ? rms_norm_backward_kernel<32, true> : rms_norm_backward_kernel<32, false>;
    launch(stream, {grid_of<32>(x), kThreads}, kernel, dy, x, weight, rstd, residual, dx);
  } else {
    const auto kernel = aligned ? rms_norm_backward_kernel<kThreads, true>
                                : rms_norm_backward_kernel<kThreads, false>;
    launch(stream, {grid_of<kThreads>(x), kThreads}, kernel, dy, x, weight, rstd, residual, dx);
  }
}

}  // namespace polylora::cuda
