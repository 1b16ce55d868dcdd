// What the CUDA programs of test/cuda share: counting, a stream, arrays of the device. A program is
// built by nvcc, and runs on a device, or by the host compiler, and runs in the emulator; it says
// which.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "cuda/stream.h"

namespace polylora::cuda_test {

inline int passed = 0, failed = 0, skipped = 0;

inline bool expect(bool condition, const std::string& what) {
  (condition ? passed : failed) += 1;
  if (!condition && failed <= 40) std::printf("failed: %s\n", what.c_str());
  return condition;
}

inline void skip(const char* what, const char* why) {
  ++skipped;
  std::printf("skipped: %s: %s\n", what, why);
}

inline int report() {
  std::printf("%d passed, %d failed", passed, failed);
  if (skipped) std::printf(", %d skipped", skipped);
  std::printf("\n");
  return failed ? 1 : 0;
}

// SplitMix64 (Steele, Lea and Flood 2014).
struct Random {
  uint64_t state;
  uint64_t next() {
    uint64_t z = state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }
  int below(int limit) { return int(next() % uint64_t(limit)); }
  // Box and Muller's.
  float normal() {
    const double u = (double(next() >> 11) + 1) * 0x1p-53, v = double(next() >> 11) * 0x1p-53;
    return float(std::sqrt(-2 * std::log(u)) * std::cos(v * 6.283185307179586));
  }
};

// A bf16 that holds an integer of at most 8 bits exactly.
inline uint16_t bf16_of(int value) {
  const auto exact = float(value);
  uint32_t bits;
  static_assert(sizeof bits == sizeof exact, "a float has 32 bits");
  __builtin_memcpy(&bits, &exact, 4);
  return uint16_t(bits >> 16);
}

inline void must(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::printf("%s: CUDA says %s\n0 passed, 1 failed\n", what, cudaGetErrorString(error));
  std::exit(1);
}

class TestStream final : public cuda::Stream {
 public:
  // What persistent kernels take the device for, and the tier that it is held to (0: its own).
  explicit TestStream(int processors = 1, int architecture = 0) {
    operation_name_ = "test";
    processors_ = processors;
    int major = 0, minor = 0;
    must(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0), "the device");
    must(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0), "the device");
    architecture_ = architecture ? architecture : major * 10 + minor;
    must(cudaStreamCreateWithFlags(&handle_, cudaStreamNonBlocking), "making a stream");
  }
  ~TestStream() override { cudaStreamDestroy(handle_); }

  // Empty, or what went wrong. In the emulator a stream that failed can be replaced by another.
  std::string finish() {
    const cudaError_t error = noted_ != cudaSuccess ? noted_ : cudaStreamSynchronize(handle_);
    return error == cudaSuccess ? "" : cudaGetErrorString(error);
  }
};

// Elements of the device, full of ones until written.
template <class T>
class Array {
 public:
  explicit Array(size_t count) : count_(count) {
    void* memory;
    must(cudaMalloc(&memory, count * sizeof(T)), "an array");
    data_ = static_cast<T*>(memory);
  }
  Array(TestStream& stream, size_t count) : Array(count) {
    must(cudaMemsetAsync(data_, 0xFF, count * sizeof(T), stream.handle()), "clearing an array");
  }
  Array(TestStream& stream, const std::vector<T>& values) : Array(values.size()) {
    must(cudaMemcpyAsync(data_, values.data(), count_ * sizeof(T), cudaMemcpyHostToDevice,
                         stream.handle()),
         "writing an array");
    stream.finish();
  }
  ~Array() { free(); }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;

  T* data() { return data_; }
  // Before its end; says what the emulator found behind the array, if anything.
  std::string free() {
    const cudaError_t error = data_ ? cudaFree(data_) : cudaSuccess;
    data_ = nullptr;
    return error == cudaSuccess ? "" : cudaGetErrorString(error);
  }
  std::vector<T> read(TestStream& stream) {
    std::vector<T> values(count_);
    const std::string wrong = stream.finish();
    expect(wrong.empty(), wrong);
    if (wrong.empty())
      cudaMemcpyAsync(values.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost,
                      stream.handle());
    stream.finish();
    return values;
  }

 private:
  T* data_;
  size_t count_;
};

// A map of a bf16 matrix [rows, columns] for tiles of box_rows x box_columns, 128-byte swizzle.
inline CUtensorMap tensor_map(void* data, uint64_t rows, uint64_t columns, uint32_t box_rows,
                              uint32_t box_columns) {
  // The driver's library is not linked.
  void* entry = nullptr;
  cudaDriverEntryPointQueryResult result;
  must(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault,
                                        &result),
       "cuTensorMapEncodeTiled");
  auto* const encode = reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(entry);
  CUtensorMap map;
  const cuuint64_t dims[2] = {columns, rows}, strides[1] = {columns * 2};
  const cuuint32_t box[2] = {box_columns, box_rows}, steps[2] = {1, 1};
  const CUresult status =
      encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, data, dims, strides, box, steps,
             CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_NONE, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  expect(status == CUDA_SUCCESS, "a tensor map");
  return map;
}

// Says where the program runs; false if it has been built for a device and there is none.
inline bool announce() {
#ifdef POLYLORA_CUDA_EMULATED
  std::printf("in the emulator\n");
  return true;
#else
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) {
    skip("everything", "there is no device");
    report();
    return false;
  }
  cudaDeviceProp properties;
  must(cudaGetDeviceProperties(&properties, 0), "the device");
  std::printf("on %s\n", properties.name);
  return true;
#endif
}

}  // namespace polylora::cuda_test
