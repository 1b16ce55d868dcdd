// How a kernel is launched, declares shared memory, and is guarded by architecture. The emulator
// replaces what is here, so kernels use nothing else for it.
//
//   __global__ void __launch_bounds__(128) double_rows(const float* x, float* y, int64_t n) {
//     PL_SHARED(float, tile, 128);          // float (&tile)[128], the same in all threads
//     PL_DYNAMIC_SHARED(char, rest);        // char* rest: LaunchShape's shared_bytes, 1024-aligned
//     ...
//   }
//   launch(stream, {grid, 128, bytes}, double_rows, x, y, n);
//
// launch() does nothing for an empty grid. A failure becomes the stream's (stream.h).
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "cuda/stream.h"

namespace polylora::cuda {

// Which instructions a kernel uses, and so how much shared memory a block of it may have: 99 KB, as
// sm_86, sm_89 and sm_120 have no more, or 227 KB.
enum class Tier { sm80, sm90a };
constexpr size_t kSharedLimit80 = size_t(99) << 10, kSharedLimit90 = size_t(227) << 10;

struct LaunchShape {
  dim3 grid;
  dim3 block;
  size_t shared_bytes = 0;  // dynamic
  Tier tier = Tier::sm80;
  unsigned cluster = 1;  // blocks along x
};

// The shape's x for `count` pieces of work in blocks of `block`; grids end at 2^31 - 1 blocks.
inline unsigned blocks_for(int64_t count, int64_t block) {
  const int64_t blocks = (count + block - 1) / block;
  return blocks > 0x7fffffff ? 0x7fffffffu : unsigned(blocks);
}

#ifdef POLYLORA_CUDA_EMULATED

#define PL_SHARED(T, name, count)                                          \
  static const char name##_site = 0;                                       \
  T(&name)                                                                 \
  [count] = *static_cast<T(*)[count]>(::polylora::emulator::static_shared( \
      &name##_site, sizeof(T) * (count), alignof(T) < 16 ? 16 : alignof(T), PL_SITE))
#define PL_DYNAMIC_SHARED(T, name) \
  T* const name = static_cast<T*>(::polylora::emulator::dynamic_shared())
// The body of a kernel of tier sm90a.
#define PL_SM90A_BODY 1

template <class... Parameters, class... Arguments>
void launch(Stream& stream, const LaunchShape& shape, void (*kernel)(Parameters...),
            Arguments... arguments) {
  if (shape.grid.x == 0 || shape.grid.y == 0 || shape.grid.z == 0) return;
  emulator::GridShape grid;
  grid.name = stream.operation_name();
  grid.kernel = reinterpret_cast<const void*>(kernel);
  grid.grid = {shape.grid.x, shape.grid.y, shape.grid.z};
  grid.block = {shape.block.x, shape.block.y, shape.block.z};
  grid.dynamic_shared = shape.shared_bytes;
  grid.shared_limit = shape.tier == Tier::sm80 ? kSharedLimit80 : kSharedLimit90;
  grid.cluster = shape.cluster;
  stream.note(emulator::enqueue_grid(stream.handle(), grid,
                                     [=] { kernel(static_cast<Parameters>(arguments)...); }));
}

#else

#define PL_SHARED(T, name, count) __shared__ T name[count]
// One symbol for all kernels; its type must be the same in all of them.
#define PL_DYNAMIC_SHARED(T, name)                            \
  extern __shared__ __align__(1024) char pl_dynamic_shared[]; \
  T* const name = reinterpret_cast<T*>(pl_dynamic_shared)
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define PL_SM90A_BODY 1
#else
#define PL_SM90A_BODY 0
#endif

template <class... Parameters, class... Arguments>
void launch(Stream& stream, const LaunchShape& shape, void (*kernel)(Parameters...),
            Arguments... arguments) {
  if (shape.grid.x == 0 || shape.grid.y == 0 || shape.grid.z == 0) return;
  if (shape.shared_bytes > (size_t(48) << 10) &&
      !stream.note(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                        cudaFuncAttributeMaxDynamicSharedMemorySize,
                                        int(shape.shared_bytes))))
    return;
  cudaLaunchConfig_t config = {};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = stream.handle();
  cudaLaunchAttribute attribute;
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = shape.cluster;
  attribute.val.clusterDim.y = 1;
  attribute.val.clusterDim.z = 1;
  config.attrs = &attribute;
  config.numAttrs = shape.cluster > 1 ? 1 : 0;
  stream.note(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...));
}

#endif

}  // namespace polylora::cuda
