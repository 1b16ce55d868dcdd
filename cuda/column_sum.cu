// y[n] += sum_t x[t,n]. Accumulates. Eight rows at a time side by side, then the eight in order.
#include "cuda/launch.h"
#include "cuda/operations.h"
#include "cuda/rows.h"

namespace polylora::cuda {
namespace {

constexpr int kColumns = 32, kRows = 8;

__global__ void __launch_bounds__(kColumns* kRows) column_sum_kernel(Rows x, float* y) {
  PL_SHARED(float, sums, kColumns* kRows);
  const int64_t column = int64_t(blockIdx.x) * kColumns + threadIdx.x % kColumns;
  float sum = 0;
  if (column < x.length)
    for (int64_t t = threadIdx.x / kColumns; t < x.count; t += kRows) sum += x.at(t)[column];
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.x >= kColumns || column >= x.length) return;
  float total = 0;
  for (int i = 0; i < kRows; ++i) total += sums[i * kColumns + threadIdx.x];
  y[column] += total;
}

}  // namespace

void run_column_sum(Stream& stream, const pl_column_sum_args& args) {
  const Rows x = rows_of(args.x);
  if (x.count == 0) return;
  launch(stream, {blocks_for(x.length, kColumns), kColumns * kRows}, column_sum_kernel, x,
         static_cast<float*>(args.y.data));
}

}  // namespace polylora::cuda
