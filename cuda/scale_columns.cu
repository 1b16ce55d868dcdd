// y = scale * x + bias + residual by column overwrites; back, dx = scale * dy overwrites and
// d_magnitude[n] += sum_t dy[t,n] x[t,n] / norm[n] accumulates, summed as column_sums.h says.
#include "cuda/column_sums.h"
#include "cuda/layout.h"
#include "cuda/operations.h"
#include "cuda/rows.h"

namespace polylora::cuda {
namespace {

// Four columns of a row for each i.
template <bool kAligned>
struct ScaleColumns {
  Rows x, residual, y;  // residual.data is null if there is none
  const float *scale, *bias;
  int64_t fours;  // of a row
  __device__ void operator()(int64_t i) const {
    const int64_t row = i / fours, column = i % fours * 4, n = x.length;
    const float4 v = load_four<kAligned>(x.at(row), column, n);
    const float4 s = load_four<kAligned>(scale, column, n);
    float4 out = {s.x * v.x, s.y * v.y, s.z * v.z, s.w * v.w};
    if (bias) {
      const float4 b = load_four<kAligned>(bias, column, n);
      out = {out.x + b.x, out.y + b.y, out.z + b.z, out.w + b.w};
    }
    if (residual.data) {
      const float4 r = load_four<kAligned>(residual.at(row), column, n);
      out = {out.x + r.x, out.y + r.y, out.z + r.z, out.w + r.w};
    }
    store_four<kAligned>(y.at(row), column, n, out);
  }
};

void scale_columns(Stream& stream, const Rows& x, const float* scale, const float* bias,
                   const Rows& residual, const Rows& y) {
  const int64_t fours = (x.length + 3) / 4;
  if (are_aligned(x) && are_aligned(residual) && are_aligned(y) && rows_are_aligned(scale, 0) &&
      rows_are_aligned(bias, 0))
    for_each_element(stream, x.count * fours,
                     ScaleColumns<true>{x, residual, y, scale, bias, fours});
  else
    for_each_element(stream, x.count * fours,
                     ScaleColumns<false>{x, residual, y, scale, bias, fours});
}

struct MagnitudeTerm {
  Rows dy, x;
  __device__ float operator()(float sum, int64_t, int64_t t, int64_t column) const {
    return fmaf(dy.at(t)[column], x.at(t)[column], sum);
  }
};
struct MagnitudeStore {
  const float* norm;
  float* d_magnitude;
  __device__ void operator()(int64_t, int64_t column, float total) const {
    d_magnitude[column] += total / norm[column];
  }
};

ColumnSums magnitude_sums(const Rows& x, void* workspace) {
  return {1, x.count, x.length, static_cast<float*>(workspace)};
}

const float* optional_floats(const pl_tensor& tensor) {
  return tensor.dtype == PL_NONE ? nullptr : static_cast<const float*>(tensor.data);
}

}  // namespace

void run_scale_columns(Stream& stream, const pl_scale_columns_args& args) {
  scale_columns(stream, rows_of(args.x), optional_floats(args.scale), optional_floats(args.bias),
                rows_of(args.residual), rows_of(args.y));
}

uint64_t workspace_scale_columns_backward(const Stream&,
                                          const pl_scale_columns_backward_args& args) {
  if (args.d_magnitude.dtype == PL_NONE) return 0;
  return magnitude_sums(rows_of(args.x), nullptr).workspace_bytes();
}

void run_scale_columns_backward(Stream& stream, const pl_scale_columns_backward_args& args) {
  const Rows dy = rows_of(args.dy), x = rows_of(args.x);
  // First, since dx may take x's place.
  if (args.d_magnitude.dtype != PL_NONE && x.count > 0)
    sum_columns(
        stream, magnitude_sums(x, args.header.workspace), MagnitudeTerm{dy, x},
        MagnitudeStore{optional_floats(args.norm), static_cast<float*>(args.d_magnitude.data)});
  scale_columns(stream, dy, optional_floats(args.scale), nullptr, {}, rows_of(args.dx));
}

}  // namespace polylora::cuda
