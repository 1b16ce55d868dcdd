#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "cpu/indices.h"
#include "cpu/operations.h"
#include "cpu/rows.h"
#include "cpu/workspace.h"

namespace polylora::cpu {

namespace {

// The larger value first, then the lower index; NaN counts as -infinity.
struct Before {
  const float* x;
  static float value(float x) {
    return std::isnan(x) ? -std::numeric_limits<float>::infinity() : x;
  }
  bool operator()(int32_t a, int32_t b) const {
    const float left = value(x[a]), right = value(x[b]);
    return left > right || (left == right && a < b);
  }
};

}  // namespace

uint64_t top_k_workspace(const pl_top_k_args& args, int threads) {
  return uint64_t(args.x.shape[1]) * uint64_t(threads) * sizeof(int32_t);
}

void run_top_k(Pool& pool, const pl_top_k_args& args) {
  const Rows x = rows_of(args.x), values = rows_of(args.values);
  const int64_t n = x.length, k = values.length;
  int32_t* const memory = static_cast<int32_t*>(args.header.workspace);
  pool.parallel_ranges(x.count, rows_per_piece(n), [&](int64_t begin, int64_t end, Worker& worker) {
    int32_t* const order = memory + worker.index * n;
    for (int64_t t = begin; t < end; ++t) {
      const float* const row = x.at(t);
      for (int64_t i = 0; i < n; ++i) order[i] = int32_t(i);
      std::partial_sort(order, order + k, order + n, Before{row});
      int32_t* const indices =
          static_cast<int32_t*>(args.indices.data) + t * args.indices.strides[0];
      for (int64_t j = 0; j < k; ++j) {
        indices[j] = order[j];
        values.at(t)[j] = row[order[j]];
      }
    }
  });
}

void run_top_k_backward(Pool& pool, const pl_top_k_backward_args& args) {
  const Rows dx = rows_of(args.dx), d_values = rows_of(args.d_values);
  const int64_t n = dx.length, k = d_values.length;
  pool.parallel_ranges(dx.count, rows_per_piece(n), [&](int64_t begin, int64_t end, Worker&) {
    for (int64_t t = begin; t < end; ++t) {
      const int32_t* const indices = ints_of(args.indices) + t * args.indices.strides[0];
      float* const row = dx.at(t);
      std::memset(row, 0, size_t(n) * sizeof(float));
      for (int64_t j = 0; j < k; ++j) {
        if (indices[j] < 0 || indices[j] >= n)
          fail_index("top_k_backward", "indices", t * k + j, indices[j], n);
        row[indices[j]] = d_values.at(t)[j];
      }
    }
  });
}

}  // namespace polylora::cpu
