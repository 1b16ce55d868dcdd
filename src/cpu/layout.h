// Several strided tensors of one shape, walked together: dimensions of size 1 dropped, the rest
// ordered by the strides of the first tensor (the output), neighbours that lie contiguously in all
// tensors merged.
#pragma once

#include <cstdint>
#include <utility>

#include "cpu/pool.h"
#include "kernels.h"

namespace polylora::cpu {

template <int kTensors>
struct Layout {
  int rank = 0;  // at least 1 after construction
  int64_t shape[PL_MAX_RANK] = {1, 1, 1, 1};
  int64_t strides[kTensors][PL_MAX_RANK] = {};
  int64_t count = 1;

  explicit Layout(const pl_tensor* const (&tensors)[kTensors]) {
    for (int d = 0; d < tensors[0]->rank; ++d)
      if (tensors[0]->shape[d] == 0) {
        rank = 1;
        count = 0;
        return;
      }
    for (int d = 0; d < tensors[0]->rank; ++d) {
      count *= tensors[0]->shape[d];
      if (tensors[0]->shape[d] == 1) continue;
      shape[rank] = tensors[0]->shape[d];
      for (int i = 0; i < kTensors; ++i) strides[i][rank] = tensors[i]->strides[d];
      ++rank;
    }
    for (int d = 1; d < rank; ++d)
      for (int e = d; e > 0 && strides[0][e - 1] < strides[0][e]; --e) swap(e - 1, e);
    for (int d = rank - 1; d > 0; --d)
      if (mergeable(d)) merge(d);
    if (rank == 0) {
      rank = 1;
      for (int i = 0; i < kTensors; ++i) strides[i][0] = 1;
    }
  }

  int64_t inner() const { return shape[rank - 1]; }
  int64_t rows() const { return inner() == 0 ? 0 : count / inner(); }
  int64_t inner_stride(int tensor) const { return strides[tensor][rank - 1]; }
  // Offset of a row's first element.
  int64_t offset(int tensor, int64_t row) const {
    int64_t at = 0;
    for (int d = rank - 2; d >= 0; --d) {
      at += row % shape[d] * strides[tensor][d];
      row /= shape[d];
    }
    return at;
  }

 private:
  void swap(int a, int b) {
    std::swap(shape[a], shape[b]);
    for (int i = 0; i < kTensors; ++i) std::swap(strides[i][a], strides[i][b]);
  }
  bool mergeable(int d) const {
    for (int i = 0; i < kTensors; ++i)
      if (strides[i][d - 1] != shape[d] * strides[i][d]) return false;
    return true;
  }
  void merge(int d) {
    shape[d] *= shape[d - 1];
    for (int e = d - 1; e < rank - 1; ++e) {
      shape[e] = shape[e + 1];
      for (int i = 0; i < kTensors; ++i) strides[i][e] = strides[i][e + 1];
    }
    --rank;
    shape[rank] = 1;
  }
};

// Runs body(row, begin, end) over all elements of a layout in pieces of about 32,768 elements, in
// parallel.
template <int kTensors, class Body>
void parallel_spans(Pool& pool, const Layout<kTensors>& layout, Body&& body) {
  constexpr int64_t kGrain = 32768;
  const int64_t inner = layout.inner(), rows = layout.rows();
  if (layout.count == 0) return;
  if (inner >= kGrain) {
    const int64_t chunks = (inner + kGrain - 1) / kGrain;
    pool.parallel(rows * chunks, [&](int64_t piece, Worker&) {
      const int64_t begin = piece % chunks * kGrain;
      body(piece / chunks, begin, begin + kGrain < inner ? begin + kGrain : inner);
    });
  } else {
    pool.parallel_ranges(rows, kGrain / inner, [&](int64_t first, int64_t last, Worker&) {
      for (int64_t row = first; row < last; ++row) body(row, int64_t(0), inner);
    });
  }
}

}  // namespace polylora::cpu
