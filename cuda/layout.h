// Several strided tensors of one shape, walked together: dimensions of size 1 dropped, the rest
// ordered by the strides of the first tensor (the output), neighbours that lie contiguously in all
// tensors merged.
#pragma once

#include <cstdint>

#include "cuda/launch.h"
#include "kernels.h"

namespace polylora::cuda {

template <int kTensors>
struct Layout {
  int rank = 0;
  int64_t shape[PL_MAX_RANK] = {1, 1, 1, 1};
  int64_t strides[kTensors][PL_MAX_RANK] = {};
  int64_t count = 1;

  explicit Layout(const pl_tensor* const (&tensors)[kTensors]) {
    for (int d = 0; d < tensors[0]->rank; ++d)
      if (tensors[0]->shape[d] == 0) count = 0;
    if (count == 0) return;
    for (int d = 0; d < tensors[0]->rank; ++d) {
      count *= tensors[0]->shape[d];
      if (tensors[0]->shape[d] > 1) insert(tensors, d);
    }
    for (int d = rank - 1; d > 0; --d) merge_if_contiguous(d);
  }

  // All tensors run from first to last element without gaps.
  bool is_contiguous() const {
    if (rank == 0) return true;
    for (int i = 0; i < kTensors; ++i)
      if (rank != 1 || strides[i][0] != 1) return false;
    return true;
  }

  // Offset of an element in tensor i, elements counted in the order of the dimensions kept here.
  template <int i>
  __device__ int64_t offset(int64_t element) const {
    if (rank == 1) return element * strides[i][0];
    int64_t at = 0;
    for (int d = rank - 1; d >= 0; --d) {
      at += element % shape[d] * strides[i][d];
      element /= shape[d];
    }
    return at;
  }

 private:
  // Keeps the dimensions ordered by the output's strides, largest first.
  void insert(const pl_tensor* const (&tensors)[kTensors], int d) {
    int at = rank++;
    for (; at > 0 && strides[0][at - 1] < tensors[0]->strides[d]; --at) {
      shape[at] = shape[at - 1];
      for (int i = 0; i < kTensors; ++i) strides[i][at] = strides[i][at - 1];
    }
    shape[at] = tensors[0]->shape[d];
    for (int i = 0; i < kTensors; ++i) strides[i][at] = tensors[i]->strides[d];
  }
  void merge_if_contiguous(int d) {
    for (int i = 0; i < kTensors; ++i)
      if (strides[i][d - 1] != shape[d] * strides[i][d]) return;
    shape[d - 1] *= shape[d];
    for (int i = 0; i < kTensors; ++i) strides[i][d - 1] = strides[i][d];
    for (int e = d; e + 1 < rank; ++e) {
      shape[e] = shape[e + 1];
      for (int i = 0; i < kTensors; ++i) strides[i][e] = strides[i][e + 1];
    }
    --rank;
  }
};

constexpr int kElementThreads = 256, kElementsEach = 4;

// body(i) for i in [0, count): kElementsEach a thread, neighbours side by side.
template <class Body>
__global__ void __launch_bounds__(kElementThreads)
    each_element_kernel(int64_t count, const __grid_constant__ Body body) {
  const int64_t begin = int64_t(blockIdx.x) * (kElementThreads * kElementsEach) + threadIdx.x;
#pragma unroll
  for (int j = 0; j < kElementsEach; ++j) {
    const int64_t i = begin + j * kElementThreads;
    if (i < count) body(i);
  }
}

// Body is a struct with `__device__ void operator()(int64_t i) const`.
template <class Body>
void for_each_element(Stream& stream, int64_t count, const Body& body) {
  launch(stream, {blocks_for(count, kElementThreads * kElementsEach), kElementThreads},
         each_element_kernel<Body>, count, body);
}

}  // namespace polylora::cuda
