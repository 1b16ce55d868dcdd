// y = softmax(scale * x) over each row, and back: dx = scale * y * (dy - sum(dy * y)). Both
// overwrite, also in place.
//
// A row belongs to a warp, or if it is long to a block; which of them follows from its length
// alone.
#include "cuda/launch.h"
#include "cuda/operations.h"
#include "cuda/reduce.h"
#include "cuda/rows.h"

namespace polylora::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kWarpLength = 1024;  // the longest row that a warp takes

// The exponentials are computed twice rather than kept in y: rows are read from the caches then.
template <int kRowThreads, bool kAligned>
__global__ void __launch_bounds__(kThreads) softmax_kernel(Rows x, float scale, Rows y) {
  const int64_t row = int64_t(blockIdx.x) * (kThreads / kRowThreads) + threadIdx.x / kRowThreads;
  if (row >= x.count) return;  // whole warps
  const int lane = threadIdx.x % kRowThreads;
  const float* const from = x.at(row);
  float* const to = y.at(row);
  const int64_t n = x.length;
  float most = -INFINITY;  // NaN is passed over
  for (int64_t i = lane * 4; i < n; i += kRowThreads * 4) {
    const float4 v = load_four<kAligned>(from, i, n);
    most = fmaxf(most, scale * v.x);
    if (i + 1 < n) most = fmaxf(most, scale * v.y);
    if (i + 2 < n) most = fmaxf(most, scale * v.z);
    if (i + 3 < n) most = fmaxf(most, scale * v.w);
  }
  most = row_max<kRowThreads>(most);
  float sum = 0;
  for (int64_t i = lane * 4; i < n; i += kRowThreads * 4) {
    const float4 v = load_four<kAligned>(from, i, n);
    sum += expf(scale * v.x - most);
    if (i + 1 < n) sum += expf(scale * v.y - most);
    if (i + 2 < n) sum += expf(scale * v.z - most);
    if (i + 3 < n) sum += expf(scale * v.w - most);
  }
  const float over = 1.0f / row_sum<kRowThreads>(sum);
  for (int64_t i = lane * 4; i < n; i += kRowThreads * 4) {
    const float4 v = load_four<kAligned>(from, i, n);
    store_four<kAligned>(to, i, n,
                         {expf(scale * v.x - most) * over, expf(scale * v.y - most) * over,
                          expf(scale * v.z - most) * over, expf(scale * v.w - most) * over});
  }
}

template <int kRowThreads, bool kAligned>
__global__ void __launch_bounds__(kThreads)
    softmax_backward_kernel(Rows dy, Rows y, float scale, Rows dx) {
  const int64_t row = int64_t(blockIdx.x) * (kThreads / kRowThreads) + threadIdx.x / kRowThreads;
  if (row >= y.count) return;  // whole warps
  const int lane = threadIdx.x % kRowThreads;
  const float* const dys = dy.at(row);
  const float* const ys = y.at(row);
  float* const dxs = dx.at(row);
  const int64_t n = y.length;
  float sum = 0;
  for (int64_t i = lane * 4; i < n; i += kRowThreads * 4) {
    const float4 d = load_four<kAligned>(dys, i, n), v = load_four<kAligned>(ys, i, n);
    sum = fmaf(d.x, v.x, sum);
    sum = fmaf(d.y, v.y, sum);
    sum = fmaf(d.z, v.z, sum);
    sum = fmaf(d.w, v.w, sum);
  }
  sum = row_sum<kRowThreads>(sum);
  for (int64_t i = lane * 4; i < n; i += kRowThreads * 4) {
    const float4 d = load_four<kAligned>(dys, i, n), v = load_four<kAligned>(ys, i, n);
    store_four<kAligned>(dxs, i, n,
                         {scale * v.x * (d.x - sum), scale * v.y * (d.y - sum),
                          scale * v.z * (d.z - sum), scale * v.w * (d.w - sum)});
  }
}

template <int kRowThreads>
unsigned grid_of(const Rows& x) {
  return blocks_for(x.count, kThreads / kRowThreads);
}

}  // namespace

void run_softmax(Stream& stream, const pl_softmax_args& args) {
  const Rows x = rows_of(args.x), y = rows_of(args.y);
  const bool aligned = are_aligned(x) && are_aligned(y);
  if (x.length <= kWarpLength) {
    const auto kernel = aligned ? softmax_kernel<32, true> : softmax_kernel<32, false>;
    launch(stream, {grid_of<32>(x), kThreads}, kernel, x, args.scale, y);
  } else {
    const auto kernel = aligned ? softmax_kernel<kThreads, true> : softmax_kernel<kThreads, false>;
    launch(stream, {grid_of<kThreads>(x), kThreads}, kernel, x, args.scale, y);
  }
}

void run_softmax_backward(Stream& stream, const pl_softmax_backward_args& args) {
  const Rows dy = rows_of(args.dy), y = rows_of(args.y), dx = rows_of(args.dx);
  const bool aligned = are_aligned(dy) && are_aligned(y) && are_aligned(dx);
  if (y.length <= kWarpLength) {
    const auto kernel =
        aligned ? softmax_backward_kernel<32, true> : softmax_backward_kernel<32, false>;
    launch(stream, {grid_of<32>(y), kThreads}, kernel, dy, y, args.scale, dx);
  } else {
    const auto kernel = aligned ? softmax_backward_kernel<kThreads, true>
                                : softmax_backward_kernel<kThreads, false>;
    launch(stream, {grid_of<kThreads>(y), kThreads}, kernel, dy, y, args.scale, dx);
  }
}

}  // namespace polylora::cuda
