// Index tensors (i32, contiguous) and the errors of values that are out of range.
#pragma once

#include <cstdint>
#include <string>

#include "cpu/pool.h"
#include "kernels.h"

namespace polylora::cpu {

inline const int32_t* ints_of(const pl_tensor& tensor) {
  return static_cast<const int32_t*>(tensor.data);
}

[[noreturn]] inline void fail_index(const char* operation, const char* name, int64_t at,
                                    int64_t value, int64_t limit) {
  throw KernelError(std::string(operation) + ": " + name + "[" + std::to_string(at) + "] is " +
                    std::to_string(value) + ", allowed are 0 to " + std::to_string(limit - 1));
}

// Every element of a rank 1 index tensor must be in [0, limit).
inline void require_indices(const char* operation, const char* name, const pl_tensor& tensor,
                            int64_t limit) {
  const int32_t* values = ints_of(tensor);
  for (int64_t i = 0; i < tensor.shape[0]; ++i)
    if (values[i] < 0 || values[i] >= limit) fail_index(operation, name, i, values[i], limit);
}

}  // namespace polylora::cpu
