// A float tensor [T, D] or [T, H, D], its last stride 1, seen as rows of D elements.
#pragma once

#include <cstdint>

#include "kernels.h"

namespace polylora::cpu {

struct Rows {
  float* data;
  int64_t count;
  int64_t length;
  int64_t inner;  // rows for each step of the first dimension: H, or 1
  int64_t outer_stride;
  int64_t inner_stride;

  // Always inlined, as kernels of every instruction set call it.
  __attribute__((always_inline)) float* at(int64_t row) const {
    return inner == 1 ? data + row * outer_stride
                      : data + row / inner * outer_stride + row % inner * inner_stride;
  }
};

// Rows without elements are no rows: their number need not fit in any memory.
inline Rows rows_of(const pl_tensor& tensor) {
  const bool heads = tensor.rank == 3;
  if (tensor.shape[heads ? 2 : 1] == 0) return {};
  const int64_t inner = heads ? tensor.shape[1] : 1;
  return {static_cast<float*>(tensor.data),
          tensor.shape[0] * inner,
          tensor.shape[heads ? 2 : 1],
          inner,
          tensor.strides[0],
          heads ? tensor.strides[1] : 0};
}

inline int64_t elements_of(const pl_tensor& tensor) {
  int64_t count = 1;
  for (int d = 0; d < tensor.rank; ++d)
    if (tensor.shape[d] == 0) return 0;
  for (int d = 0; d < tensor.rank; ++d) count *= tensor.shape[d];
  return count;
}

// How many rows make a piece of work of about 16,384 elements; depends on the length alone.
inline int64_t rows_per_piece(int64_t length) {
  const int64_t rows = 16384 / (length < 1 ? 1 : length);
  return rows < 1 ? 1 : rows;
}

}  // namespace polylora::cpu
