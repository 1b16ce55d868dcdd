// How a kernel fails its stream because of a value: an index out of range, say. The first failure
// is kept; the stream's thread finds it at the next callback or copy to the host and makes the
// message from it. A kernel that has reported one goes on without the value (and writes whatever it
// likes to its own outputs, which nobody will see).
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels.h"

namespace polylora::cuda {

enum class FailureKind : int32_t { none = 0, index = 1, least = 2, number = 3, range = 4 };

// In memory that the host and the device both see.
struct Failure {
  int32_t kind;       // FailureKind; claimed first
  int32_t operation;  // pl_operation
  char name[32];      // of the tensor
  int64_t at, value, limit;
  float number;
  char allowed[48];
  int64_t least;  // of a range; limit is its last value then
};

#if defined(__CUDACC__) || defined(POLYLORA_CUDA_EMULATED)

template <int kLength>
__device__ inline void copy_text(char (&to)[kLength], const char* from) {
  for (int i = 0; i < kLength - 1 && from[i]; ++i) to[i] = from[i];
}

__device__ inline void report(Failure* failure, FailureKind kind, pl_operation operation,
                              const char* name, int64_t at, int64_t value, int64_t limit,
                              int64_t least = 0) {
  if (atomicCAS(&failure->kind, 0, int32_t(kind)) != 0) return;
  failure->operation = operation;
  copy_text(failure->name, name);
  failure->at = at;
  failure->value = value;
  failure->limit = limit;
  failure->least = least;
}

// "<operation>: <name>[at] is value, allowed are 0 to limit - 1"
__device__ inline void report_index(Failure* failure, pl_operation operation, const char* name,
                                    int64_t at, int64_t value, int64_t limit) {
  report(failure, FailureKind::index, operation, name, at, value, limit);
}

// "<operation>: <name> is value, must be at least `least`"
__device__ inline void report_least(Failure* failure, pl_operation operation, const char* name,
                                    int64_t value, int64_t least) {
  report(failure, FailureKind::least, operation, name, 0, value, least);
}

// "<operation>: <name> <at> is number, must be <allowed>"
__device__ inline void report_number(Failure* failure, pl_operation operation, const char* name,
                                     int64_t at, float number, const char* allowed) {
  if (atomicCAS(&failure->kind, 0, int32_t(FailureKind::number)) != 0) return;
  failure->operation = operation;
  copy_text(failure->name, name);
  failure->at = at;
  failure->number = number;
  copy_text(failure->allowed, allowed);
}

// "<operation>: <name>[at] is value, must be from `least` to `most`"
__device__ inline void report_range(Failure* failure, pl_operation operation, const char* name,
                                    int64_t at, int64_t value, int64_t least, int64_t most) {
  report(failure, FailureKind::range, operation, name, at, value, most, least);
}

#endif

}  // namespace polylora::cuda
