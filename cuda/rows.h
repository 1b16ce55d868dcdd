// A float tensor [T, D] or [T, H, D], its last stride 1, as a kernel sees it: rows of D floats.
#pragma once

#include "cuda/numbers.h"
#include "kernels.h"

namespace polylora::cuda {

struct Rows {
  float* data;
  int64_t count, length;
  int64_t inner;  // rows for each step of the first dimension: H, or 1
  int64_t outer_stride, inner_stride;

  __device__ float* at(int64_t row) const {
    return inner == 1 ? data + row * outer_stride
                      : data + row / inner * outer_stride + row % inner * inner_stride;
  }
};

// Rows without elements are no rows.
inline Rows rows_of(const pl_tensor& tensor) {
  const bool heads = tensor.rank == 3;
  if (tensor.dtype == PL_NONE || tensor.shape[heads ? 2 : 1] == 0) return {};
  const int64_t inner = heads ? tensor.shape[1] : 1;
  return {static_cast<float*>(tensor.data),
          tensor.shape[0] * inner,
          tensor.shape[heads ? 2 : 1],
          inner,
          tensor.strides[0],
          heads ? tensor.strides[1] : 0};
}

// Whether every row begins at a multiple of 16 bytes. True for a tensor that is not there.
inline bool are_aligned(const Rows& rows) {
  return rows_are_aligned(rows.data, rows.outer_stride) && rows.inner_stride % 4 == 0;
}

// Elements begin .. begin + 3 of a row of `length`, zero beyond its end. The same elements whether
// aligned or not, so that alignment changes no sum.
template <bool kAligned>
__device__ inline float4 load_four(const float* row, int64_t begin, int64_t length) {
  if (kAligned && begin + 4 <= length) return load4(row + begin);
  float4 four = {0, 0, 0, 0};
  if (begin < length) four.x = row[begin];
  if (begin + 1 < length) four.y = row[begin + 1];
  if (begin + 2 < length) four.z = row[begin + 2];
  if (begin + 3 < length) four.w = row[begin + 3];
  return four;
}

__device__ inline float4 load_four(const float* row, int64_t begin, int64_t length, bool aligned) {
  return aligned ? load_four<true>(row, begin, length) : load_four<false>(row, begin, length);
}

template <bool kAligned>
__device__ inline void store_four(float* row, int64_t begin, int64_t length, float4 four) {
  if (kAligned && begin + 4 <= length) return store4(row + begin, four);
  if (begin < length) row[begin] = four.x;
  if (begin + 1 < length) row[begin + 1] = four.y;
  if (begin + 2 < length) row[begin + 2] = four.z;
  if (begin + 3 < length) row[begin + 3] = four.w;
}

}  // namespace polylora::cuda
