// indices[t] = position of the largest of row t (order.h says of equals and NaN).
#include "cuda/launch.h"
#include "cuda/operations.h"
#include "cuda/order.h"
#include "cuda/reduce.h"
#include "cuda/rows.h"

namespace polylora::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kWarpLength = 1024;  // the longest row that a warp takes

template <int kRowThreads>
__global__ void __launch_bounds__(kThreads) argmax_kernel(Rows x, int32_t* indices) {
  const int64_t row = int64_t(blockIdx.x) * (kThreads / kRowThreads) + threadIdx.x / kRowThreads;
  if (row >= x.count) return;  // whole warps
  const int lane = threadIdx.x % kRowThreads;
  const float* const from = x.at(row);
  uint64_t best = 0;
  for (int64_t i = lane; i < x.length; i += kRowThreads) best = larger(best, key_of(from[i], i));
  best = row_max<kRowThreads>(best);
  if (lane == 0) indices[row] = index_of(best);
}

}  // namespace

void run_argmax(Stream& stream, const pl_argmax_args& args) {
  const Rows x = rows_of(args.x);
  auto* const indices = static_cast<int32_t*>(args.indices.data);
  if (x.length <= kWarpLength)
    launch(stream, {blocks_for(x.count, kThreads / 32), kThreads}, argmax_kernel<32>, x, indices);
  else
    launch(stream, {blocks_for(x.count, 1), kThreads}, argmax_kernel<kThreads>, x, indices);
}

}  // namespace polylora::cuda
