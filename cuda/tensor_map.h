// Tensor maps, by which TMA finds a tile of a matrix of bf16 in global memory. They are made on the
// host and go to a kernel by value. TMA and not plain bulk copies, since only it swizzles, and
// since it fills with zeros what is beyond a ragged edge; every operand that matmul hands over has
// rows 16-byte aligned, which is all that TMA asks for.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/numbers.h"

namespace polylora::cuda {

// [rows, columns], rows `stride` elements apart, in boxes of box_rows x 64 with the 128-byte
// swizzle. False if TMA cannot take it, or the driver does not know it.
inline bool make_tensor_map(CUtensorMap* map, const bf16* data, int64_t rows, int64_t columns,
                            int64_t stride, int box_rows) {
  constexpr int64_t kMost = INT32_MAX;  // a box is named by two 32-bit coordinates
  if (reinterpret_cast<uintptr_t>(data) % 16 || stride % 8 || stride >= int64_t(1) << 39 ||
      rows < 1 || rows > kMost - 256 || columns < 1 || columns > kMost - 256)
    return false;
  // The driver's library is not linked: the run-time library finds it.
  static const auto encode = [] {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult result;
    if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault,
                                         &result) != cudaSuccess)
      entry = nullptr;
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(entry);
  }();
  if (!encode) return false;
  const cuuint64_t dims[2] = {cuuint64_t(columns), cuuint64_t(rows)};
  const cuuint64_t strides[1] = {cuuint64_t(stride) * 2};
  const cuuint32_t box[2] = {64, cuuint32_t(box_rows)}, steps[2] = {1, 1};
  return encode(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<bf16*>(data), dims, strides,
                box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

}  // namespace polylora::cuda
