// y[n] += sum_t x[t,n]. Accumulates, summed as column_sums.h says.
#include "cuda/column_sums.h"
#include "cuda/operations.h"
#include "cuda/rows.h"

namespace polylora::cuda {
namespace {

struct ElementTerm {
  Rows x;
  __device__ float operator()(float sum, int64_t, int64_t t, int64_t column) const {
    return sum + x.at(t)[column];
  }
};
struct ElementStore {
  float* y;
  __device__ void operator()(int64_t, int64_t column, float total) const { y[column] += total; }
};

ColumnSums sums_of(const Rows& x, void* workspace) {
  return {1, x.count, x.length, static_cast<float*>(workspace)};
}

}  // namespace

uint64_t workspace_column_sum(const Stream&, const pl_column_sum_args& args) {
  return sums_of(rows_of(args.x), nullptr).workspace_bytes();
}

void run_column_sum(Stream& stream, const pl_column_sum_args& args) {
  const Rows x = rows_of(args.x);
  if (x.count > 0)
    sum_columns(stream, sums_of(x, args.header.workspace), ElementTerm{x},
                ElementStore{static_cast<float*>(args.y.data)});
}

}  // namespace polylora::cuda
