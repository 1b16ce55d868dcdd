// What a launcher sees of its stream. device.h has it.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/failure.h"
#include "kernels.h"

namespace polylora::cuda {

class Stream {
 public:
  virtual ~Stream() = default;

  cudaStream_t handle() const { return handle_; }
  // Where kernels report values that are out of range (failure.h).
  Failure* failure() const { return device_failure_; }
  int processors() const { return processors_; }  // streaming multiprocessors
  // 80, 86, 89, 90, 100, 120; 80 also where the device is held to the first tier.
  int architecture() const { return architecture_; }
  size_t shared_limit() const { return shared_limit_; }  // bytes a block may have
  bool has_wgmma() const { return architecture_ == 90; }

  // Of the operation that is being queued.
  const char* operation_name() const { return operation_name_; }

  // Takes note of what a call returned; true if it succeeded. The first failure stays and fails the
  // stream.
  bool note(cudaError_t error) {
    if (error == cudaSuccess) return true;
    if (noted_ == cudaSuccess) noted_ = error;
    return false;
  }

 protected:
  cudaStream_t handle_ = nullptr;
  Failure* device_failure_ = nullptr;
  int processors_ = 1, architecture_ = 80;
  size_t shared_limit_ = 0;
  const char* operation_name_ = "";
  cudaError_t noted_ = cudaSuccess;
};

}  // namespace polylora::cuda
