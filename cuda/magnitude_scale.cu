// norm[n] = sqrt(base_norm[n]^2 + <u[n], b[n]>), scale[n] = magnitude[n] / norm[n]. Overwrites. In
// double, as W and s B A can nearly cancel; a warp a row.
#include "cuda/launch.h"
#include "cuda/operations.h"
#include "cuda/reduce.h"

namespace polylora::cuda {
namespace {

constexpr int kThreads = 128;

// Rows of a matrix, or the elements of a vector that need not lie side by side.
struct Strided {
  float* data;
  int64_t stride;
  __device__ float* at(int64_t row) const { return data + row * stride; }
};

__global__ void __launch_bounds__(kThreads)
    magnitude_scale_kernel(int64_t rows, int64_t rank, Strided base_norm, Strided u, Strided b,
                           Strided magnitude, Strided norm, Strided scale) {
  const int64_t row = int64_t(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32;
  if (row >= rows) return;  // whole warps
  double sum = 0;
  for (int64_t i = threadIdx.x % 32; i < rank; i += 32)
    sum += double(u.at(row)[i]) * double(b.at(row)[i]);
  sum = warp_sum(sum);
  if (threadIdx.x % 32 != 0) return;
  const double base = double(*base_norm.at(row)), square = base * base + sum;
  const double length = sqrt(square > 0 ? square : 0.0);
  *norm.at(row) = float(length);
  *scale.at(row) = float(double(*magnitude.at(row)) / length);
}

Strided strided(const pl_tensor& tensor) {
  return {static_cast<float*>(tensor.data), tensor.strides[0]};
}

}  // namespace

void run_magnitude_scale(Stream& stream, const pl_magnitude_scale_args& args) {
  const int64_t rows = args.b.shape[0], rank = args.b.shape[1];
  launch(stream, {blocks_for(rows, kThreads / 32), kThreads}, magnitude_scale_kernel, rows, rank,
         strided(args.base_norm), strided(args.u), strided(args.b), strided(args.magnitude),
         strided(args.norm), strided(args.scale));
}

}  // namespace polylora::cuda
