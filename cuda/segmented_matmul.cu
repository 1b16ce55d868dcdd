// y[t] = x[t] w[segment_of[t]], or its transpose: overwrites. Back to w, d_w[e] += x[t]^T dy[t]
// over the rows of segment e accumulates, summed as column_sums.h says.
#include "cuda/column_sums.h"
#include "cuda/layout.h"
#include "cuda/operations.h"
#include "cuda/rows.h"

namespace polylora::cuda {
namespace {

struct SegmentedMatmul {
  Rows x, y;
  const float* w;
  int64_t w_segment, k_stride, n_stride;  // from one segment, term and column to the next
  const int32_t* segment_of;
  int64_t segments;
  Failure* failure;

  __device__ void operator()(int64_t i) const {
    const int64_t t = i / y.length, column = i % y.length;
    const int64_t segment = segment_of[t];
    if (segment < 0 || segment >= segments) {
      report_index(failure, PL_OPERATION_segmented_matmul, "segment_of", t, segment, segments);
      return;
    }
    const float* const xs = x.at(t);
    const float* const ws = w + segment * w_segment + column * n_stride;
    float sum = 0;
    for (int64_t k = 0; k < x.length; ++k) sum = fmaf(xs[k], ws[k * k_stride], sum);
    y.at(t)[column] = sum;
  }
};

struct CheckSegments {
  const int32_t* segment_of;
  int64_t segments;
  Failure* failure;
  __device__ void operator()(int64_t t) const {
    if (segment_of[t] < 0 || segment_of[t] >= segments)
      report_index(failure, PL_OPERATION_segmented_matmul_backward, "segment_of", t, segment_of[t],
                   segments);
  }
};

// A plane is a segment, a column an element of its matrix.
struct MatrixTerm {
  Rows x, dy;
  const int32_t* segment_of;
  __device__ float operator()(float sum, int64_t segment, int64_t t, int64_t at) const {
    if (segment_of[t] != segment) return sum;
    return fmaf(x.at(t)[at / x.length], dy.at(t)[at % x.length], sum);
  }
};
struct MatrixStore {
  float* d_w;
  int64_t segment_stride, row_stride, rank;
  __device__ void operator()(int64_t segment, int64_t at, float total) const {
    d_w[segment * segment_stride + at / rank * row_stride + at % rank] += total;
  }
};

ColumnSums matrix_sums(const pl_segmented_matmul_backward_args& args) {
  const int64_t rank = args.x.shape[1];
  return {args.d_w.shape[0], args.x.shape[0], rank * rank,
          static_cast<float*>(args.header.workspace)};
}

}  // namespace

void run_segmented_matmul(Stream& stream, const pl_segmented_matmul_args& args) {
  const Rows x = rows_of(args.x), y = rows_of(args.y);
  const bool transpose = args.transpose != 0;
  for_each_element(
      stream, y.count * y.length,
      SegmentedMatmul{x, y, static_cast<const float*>(args.w.data), args.w.strides[0],
                      transpose ? 1 : args.w.strides[1], transpose ? args.w.strides[1] : 1,
                      static_cast<const int32_t*>(args.segment_of.data), args.w.shape[0],
                      stream.failure()});
}

uint64_t workspace_segmented_matmul_backward(const Stream&,
                                             const pl_segmented_matmul_backward_args& args) {
  return matrix_sums(args).workspace_bytes();
}

void run_segmented_matmul_backward(Stream& stream, const pl_segmented_matmul_backward_args& args) {
  const auto* const segment_of = static_cast<const int32_t*>(args.segment_of.data);
  for_each_element(stream, args.segment_of.shape[0],
                   CheckSegments{segment_of, args.d_w.shape[0], stream.failure()});
  const Rows x = rows_of(args.x), dy = rows_of(args.dy);
  if (x.count > 0)
    sum_columns(stream, matrix_sums(args), MatrixTerm{x, dy, segment_of},
                MatrixStore{static_cast<float*>(args.d_w.data), args.d_w.strides[0],
                            args.d_w.strides[1], x.length});
}

}  // namespace polylora::cuda
