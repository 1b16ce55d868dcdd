// What the kernels and cuda/device.h use of CUDA's language and run-time library, for the
// emulator.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "emulator.h"
#include "race.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) alignas(n)

// ---- Vectors

#define PL_VECTORS(T, name)                                          \
  struct name##2 { T x, y; }                                         \
  __attribute__((aligned(2 * sizeof(T))));                           \
  struct name##4 { T x, y, z, w; }                                   \
  __attribute__((aligned(4 * sizeof(T) < 16 ? 4 * sizeof(T) : 16))); \
  inline name##2 make_##name##2(T x, T y) { return {x, y}; }         \
  inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
PL_VECTORS(float, float)
PL_VECTORS(int, int)
PL_VECTORS(unsigned, uint)
PL_VECTORS(unsigned short, ushort)
PL_VECTORS(unsigned char, uchar)
PL_VECTORS(double, double)
#undef PL_VECTORS

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

// ---- Where a thread is

namespace polylora::emulator {
inline Index3 block_dim() { return current->block->cluster->shape->block; }
inline Index3 grid_dim() { return current->block->cluster->shape->grid; }
}  // namespace polylora::emulator

#define threadIdx (::polylora::emulator::current->index)
#define blockIdx (::polylora::emulator::current->block->index)
#define blockDim (::polylora::emulator::block_dim())
#define gridDim (::polylora::emulator::grid_dim())
constexpr int warpSize = 32;

// ---- Barriers, warps

#define __syncthreads() ::polylora::emulator::sync_threads(PL_SITE)

inline void __syncwarp(unsigned mask = 0xffffffffu, PL_CALLER) {
  ::polylora::emulator::meet_warp(mask, "__syncwarp", site, ::polylora::emulator::current,
                                  ::polylora::emulator::race::meet);
}
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __nanosleep(unsigned) {}

namespace polylora::emulator {

template <class T, class Source>
T shuffle(const char* what, unsigned mask, T value, int width, Site site, Source source) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles move 4 or 8 bytes");
  struct Mine {
    T value, result;
  } mine = {value, value};
  meet_warp(mask, what, site, &mine, [&](void* const* slots, uint32_t present) {
    for (int lane = 0; lane < 32; ++lane) {
      if (!(present >> lane & 1)) continue;
      const int from = source(lane, lane / width * width);
      if (from < 0) continue;  // keeps its own
      if (!(present >> from & 1))
        fail("%s at %s: lane %d reads lane %d, which is not in the mask", what,
             describe_site(site).c_str(), lane, from);
      static_cast<Mine*>(slots[lane])->result = static_cast<Mine*>(slots[from])->value;
    }
  });
  return mine.result;
}

inline unsigned vote(const char* what, unsigned mask, bool predicate, Site site) {
  struct Mine {
    bool predicate;
    unsigned result;
  } mine = {predicate, 0};
  meet_warp(mask, what, site, &mine, [](void* const* slots, uint32_t present) {
    unsigned result = 0;
    for (int lane = 0; lane < 32; ++lane)
      if (present >> lane & 1 && static_cast<Mine*>(slots[lane])->predicate) result |= 1u << lane;
    for (int lane = 0; lane < 32; ++lane)
      if (present >> lane & 1) static_cast<Mine*>(slots[lane])->result = result;
  });
  return mine.result;
}

}  // namespace polylora::emulator

template <class T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32, PL_CALLER) {
  // Each lane names its own source.
  struct Mine {
    T value, result;
    int from;
  } mine = {value, value, lane};
  ::polylora::emulator::meet_warp(
      mask, "__shfl_sync", site, &mine, [&](void* const* slots, uint32_t present) {
        for (int i = 0; i < 32; ++i) {
          if (!(present >> i & 1)) continue;
          auto* const to = static_cast<Mine*>(slots[i]);
          const int from = i / width * width + (to->from & (width - 1));
          if (!(present >> from & 1))
            ::polylora::emulator::fail(
                "__shfl_sync: lane %d reads lane %d, which is not in the mask", i, from);
          to->result = static_cast<Mine*>(slots[from])->value;
        }
      });
  return mine.result;
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, PL_CALLER) {
  return ::polylora::emulator::shuffle("__shfl_xor_sync", mask, value, width, site,
                                       [=](int lane, int first) {
                                         const int from = lane ^ lanes;
                                         return from < first + width ? from : -1;
                                       });
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, int lanes, int width = 32, PL_CALLER) {
  return ::polylora::emulator::shuffle(
      "__shfl_down_sync", mask, value, width, site,
      [=](int lane, int first) { return lane + lanes < first + width ? lane + lanes : -1; });
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, int lanes, int width = 32, PL_CALLER) {
  return ::polylora::emulator::shuffle(
      "__shfl_up_sync", mask, value, width, site,
      [=](int lane, int first) { return lane - lanes >= first ? lane - lanes : -1; });
}
inline unsigned __ballot_sync(unsigned mask, int predicate, PL_CALLER) {
  return ::polylora::emulator::vote("__ballot_sync", mask, predicate != 0, site);
}
inline int __any_sync(unsigned mask, int predicate, PL_CALLER) {
  return ::polylora::emulator::vote("__any_sync", mask, predicate != 0, site) != 0;
}
inline int __all_sync(unsigned mask, int predicate, PL_CALLER) {
  return ::polylora::emulator::vote("__all_sync", mask, predicate == 0, site) == 0;
}
inline int __syncthreads_or(int predicate, PL_CALLER) {
  auto& block = *::polylora::emulator::current->block;
  // The flag of the round under way; the last thread of the round before has read it.
  block.votes[block.vote_round % 2] |= predicate != 0;
  const unsigned round = block.vote_round;
  ::polylora::emulator::sync_threads(site);
  if (block.vote_round == round) {
    ++block.vote_round;
    block.votes[block.vote_round % 2] = false;
  }
  const bool result = block.votes[round % 2];
  ::polylora::emulator::sync_threads(site);
  return result;
}

// ---- Arithmetic

using std::isfinite;
using std::isinf;
using std::isnan;

inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
inline unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }
inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }
inline float min(float a, float b) { return std::fmin(a, b); }
inline float max(float a, float b) { return std::fmax(a, b); }

// One rounding of the exact product and sum, but for ties of the 53-bit sum: fast without the
// processor's own instruction.
inline float fused(float a, float b, float c) { return float(double(a) * double(b) + double(c)); }
#define fmaf fused
#define __fmaf_rn fused
inline float rsqrtf(float x) { return float(1 / std::sqrt(double(x))); }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __frcp_rn(float x) { return 1 / x; }
inline float __expf(float x) { return float(std::exp(double(x))); }
inline float __logf(float x) { return float(std::log(double(x))); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }

inline float __uint_as_float(unsigned x) {
  float y;
  std::memcpy(&y, &x, 4);
  return y;
}
inline unsigned __float_as_uint(float x) {
  unsigned y;
  std::memcpy(&y, &x, 4);
  return y;
}
inline float __int_as_float(int x) { return __uint_as_float(unsigned(x)); }
inline int __float_as_int(float x) { return int(__float_as_uint(x)); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t(a) * b >> 32); }
template <class T>
T __ldg(const T* address) {
  return *address;
}

// ---- Atomics, on integers: one OS thread runs a stream's grids, so plain operations will do

#define PL_ATOMIC __attribute__((no_sanitize("thread"), noinline))

template <class T, class U>
PL_ATOMIC T atomicAdd(T* address, U value, PL_CALLER) {
  static_assert(!std::is_floating_point<T>::value, "no floating-point atomics: determinism");
  ::polylora::emulator::race::atomic(address, sizeof(T), "atomicAdd", site);
  const T old = *address;
  *address = T(old + T(value));
  return old;
}
template <class T, class U>
PL_ATOMIC T atomicMax(T* address, U value, PL_CALLER) {
  ::polylora::emulator::race::atomic(address, sizeof(T), "atomicMax", site);
  const T old = *address;
  if (T(value) > old) *address = T(value);
  return old;
}
template <class T, class U>
PL_ATOMIC T atomicMin(T* address, U value, PL_CALLER) {
  ::polylora::emulator::race::atomic(address, sizeof(T), "atomicMin", site);
  const T old = *address;
  if (T(value) < old) *address = T(value);
  return old;
}
template <class T, class U>
PL_ATOMIC T atomicExch(T* address, U value, PL_CALLER) {
  ::polylora::emulator::race::atomic(address, sizeof(T), "atomicExch", site);
  const T old = *address;
  *address = T(value);
  return old;
}
template <class T, class U, class V>
PL_ATOMIC T atomicCAS(T* address, U compare, V value, PL_CALLER) {
  ::polylora::emulator::race::atomic(address, sizeof(T), "atomicCAS", site);
  const T old = *address;
  if (old == T(compare)) *address = T(value);
  return old;
}
#undef PL_ATOMIC

// ---- The run-time library

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInsufficientDriver = 35,
  cudaErrorNoDevice = 100,
  cudaErrorInvalidDevice = 101,
  cudaErrorNotReady = 600,
  cudaErrorIllegalAddress = 700,
  cudaErrorLaunchFailure = 719,
  cudaErrorNotSupported = 801,
  cudaErrorStreamCaptureUnsupported = 900,
  cudaErrorStreamCaptureInvalidated = 901,
  cudaErrorUnknown = 999
};
enum cudaMemcpyKind {
  cudaMemcpyHostToDevice = 1,
  cudaMemcpyDeviceToHost = 2,
  cudaMemcpyDeviceToDevice = 3
};
enum cudaDeviceAttr {
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrComputeCapabilityMinor = 76
};
enum cudaMemPoolAttr { cudaMemPoolAttrReleaseThreshold = 4, cudaMemPoolAttrReservedMemCurrent = 5 };
enum cudaDriverEntryPointQueryResult {
  cudaDriverEntryPointSuccess = 0,
  cudaDriverEntryPointSymbolNotFound = 1
};
constexpr unsigned cudaEnableDefault = 0;
enum cudaMemAllocationType { cudaMemAllocationTypePinned = 1 };
enum cudaMemLocationType { cudaMemLocationTypeDevice = 1 };
constexpr unsigned cudaStreamNonBlocking = 1;
constexpr unsigned cudaEventBlockingSync = 1, cudaEventDisableTiming = 2;
constexpr unsigned cudaHostAllocMapped = 2;

struct CUstream_st;
struct CUevent_st;
struct CUmemPoolHandle_st;
struct CUgraph_st;
struct CUgraphExec_st;
typedef CUgraph_st* cudaGraph_t;
typedef CUgraphExec_st* cudaGraphExec_t;
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal = 1 };
typedef CUstream_st* cudaStream_t;
typedef CUevent_st* cudaEvent_t;
typedef CUmemPoolHandle_st* cudaMemPool_t;
struct cudaMemPoolProps {
  cudaMemAllocationType allocType;
  int handleTypes;
  struct {
    cudaMemLocationType type;
    int id;
  } location;
};
struct cudaDeviceProp {
  char name[256];
};

extern "C" {
cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** function, unsigned version,
                                             unsigned long long flags,
                                             cudaDriverEntryPointQueryResult* result);
cudaError_t cudaMemGetInfo(size_t* free, size_t* total);
cudaError_t cudaGetLastError();
const char* cudaGetErrorName(cudaError_t error);
const char* cudaGetErrorString(cudaError_t error);

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph,
                                 unsigned long long flags);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec);
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream);

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end);

cudaError_t cudaMemPoolCreate(cudaMemPool_t* pool, const cudaMemPoolProps* properties);
cudaError_t cudaMemPoolDestroy(cudaMemPool_t pool);
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value);
cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value);
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t pool, size_t keep);
cudaError_t cudaMallocFromPoolAsync(void** data, size_t bytes, cudaMemPool_t pool,
                                    cudaStream_t stream);
cudaError_t cudaFreeAsync(void* data, cudaStream_t stream);
cudaError_t cudaMalloc(void** data, size_t bytes);
cudaError_t cudaFree(void* data);
cudaError_t cudaHostAlloc(void** data, size_t bytes, unsigned flags);
cudaError_t cudaFreeHost(void* data);
cudaError_t cudaHostGetDevicePointer(void** device, void* host, unsigned flags);
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream);
cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t stream);
}

namespace polylora::emulator {
// launch() of cuda/launch.h ends here.
cudaError_t enqueue_grid(cudaStream_t stream, const GridShape& shape, std::function<void()> body);
// In stream order: a block is handed out (it becomes NaNs, with a guard behind it that nobody may
// write) and given back.
void block_allocated(cudaStream_t stream, void* data, uint64_t bytes, uint64_t guard);
void block_released(cudaStream_t stream, void* data);
}  // namespace polylora::emulator
