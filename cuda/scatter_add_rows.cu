// y[indices[t]] += x[t], rows with one index in the order of t. Accumulates.
//
// The block of the first row with an index adds all rows with it, so no two blocks meet and the
// order is fixed. Every block reads the indices, which is cheap beside the rows.
#include "cuda/launch.h"
#include "cuda/operations.h"
#include "cuda/rows.h"

namespace polylora::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads)
    scatter_add_rows_kernel(Rows x, const int32_t* indices, Rows y, Failure* failure) {
  PL_SHARED(int, is_match, kThreads);
  const int64_t t = blockIdx.x;
  const int64_t column = int64_t(blockIdx.y) * kThreads + threadIdx.x;
  const int32_t index = indices[t];
  // The same for all threads of the block, as what follows.
  if (index < 0 || index >= y.count) {
    if (threadIdx.x == 0)
      report_index(failure, PL_OPERATION_scatter_add_rows, "indices", t, index, y.count);
    return;
  }
  int is_earlier = 0;
  for (int64_t i = threadIdx.x; i < t; i += kThreads) is_earlier |= indices[i] == index;
  if (__syncthreads_or(is_earlier)) return;

  float sum = column < x.length ? y.at(index)[column] : 0.0f;
  for (int64_t begin = t; begin < x.count; begin += kThreads) {
    const int64_t mine = begin + threadIdx.x;
    is_match[threadIdx.x] = mine < x.count && indices[mine] == index;
    if (__syncthreads_or(is_match[threadIdx.x])) {
      for (int i = 0; i < kThreads; ++i)
        if (is_match[i] && column < x.length) sum += x.at(begin + i)[column];
      __syncthreads();
    }
  }
  if (column < x.length) y.at(index)[column] = sum;
}

}  // namespace

void run_scatter_add_rows(Stream& stream, const pl_scatter_add_rows_args& args) {
  const Rows x = rows_of(args.x), y = rows_of(args.y);
  launch(stream, {dim3(blocks_for(x.count, 1), blocks_for(x.length, kThreads)), kThreads},
         scatter_add_rows_kernel, x, static_cast<const int32_t*>(args.indices.data), y,
         stream.failure());
}

}  // namespace polylora::cuda
