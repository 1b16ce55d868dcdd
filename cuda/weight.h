// The matrix [rows, columns] of a linear layer on the device: row-major, one resident copy, rows
// padded to a pitch that TMA and 16-byte copies can take. Columns beyond the last are zero.
//
// The storage is bf16 or f32, as asked. A product whose weight computes in bf16 wants bf16
// operands: for storage f32 they are kept beside it and follow each update.
#pragma once

#include <cstdint>

#include "cuda/numbers.h"
#include "kernels.h"

struct pl_weight {
  pl_weight_base base;
  void* storage;                  // float or polylora::cuda::bf16 [rows][pitch]
  polylora::cuda::bf16* operand;  // [rows][pitch], null if the weight computes in f32
  int64_t pitch;                  // elements, a multiple of 8
};

namespace polylora::cuda {

inline int64_t weight_pitch(const pl_weight_options& options) {
  return (options.columns + 7) / 8 * 8;
}
inline bool is_bf16(const pl_weight& weight) { return weight.base.options.storage == PL_BF16; }

// Bytes of the storage, and of the operand that lies behind it.
inline uint64_t weight_storage_bytes(const pl_weight_options& options) {
  const uint64_t elements = uint64_t(options.rows) * uint64_t(weight_pitch(options));
  return (elements * (options.storage == PL_BF16 ? 2 : 4) + 255) / 256 * 256;
}
inline uint64_t weight_bytes(const pl_weight_options& options) {
  const bool apart = options.storage == PL_F32 && options.compute == PL_BF16;
  return weight_storage_bytes(options) +
         (apart ? uint64_t(options.rows) * uint64_t(weight_pitch(options)) * 2 : 0);
}

}  // namespace polylora::cuda
