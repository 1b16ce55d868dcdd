// How the operands of wgmma lie in shared memory, in the 128-byte swizzle that TMA writes them
// with, and the descriptors that name them (PTX ISA, "Asynchronous warpgroup level matrix shared
// memory layout" and "Matrix descriptor"). Arithmetic alone: test/cuda/descriptor_test.cu holds it
// to the manual's words on the host.
//
// A tile is kStep of k by some rows or columns of the output, its extent. It lies in rows of 128
// bytes, 64 elements, of which TMA brings a box at a time:
//   k innermost   one row for each of the extent, 64 of k in it; one box
//   k outermost   one row for each k, 64 of the extent in it; a box for each 64 of the extent
// Eight rows, 1,024 bytes, are a group, in which the 16-byte chunks of a row change places: chunk c
// of row r is at c ^ r % 8. A tile begins at a multiple of 1,024.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace polylora::cuda {

struct Wgmma {
  static constexpr int kStep = 64;        // of k in a tile; an instruction takes 16
  static constexpr int kBoxColumns = 64;  // elements of a row
  static constexpr int kRowBytes = 128, kGroupBytes = 1024;
  static constexpr int kBoxBytes = kStep * kRowBytes;  // of 64 rows

  // Distances in bytes. `leading` is from one 64 of the extent to the next where k is outermost,
  // and means nothing else; `stride` is from a group of eight rows to the next.
  __host__ __device__ static uint64_t descriptor(uint32_t address, uint32_t leading,
                                                 uint32_t stride) {
    constexpr uint64_t kSwizzle128 = 1;
    return uint64_t((address & 0x3ffff) >> 4) | uint64_t(leading >> 4) << 16 |
           uint64_t(stride >> 4) << 32 | kSwizzle128 << 62;
  }
};

template <bool kOuter>
struct WgmmaOperand : Wgmma {
  static constexpr bool kIsOuter = kOuter;
  __host__ __device__ static constexpr int bytes(int extent) { return extent * kStep * 2; }

  // Rows of a box; there are boxes(extent) of them, `kBoxBytes` apart.
  __host__ __device__ static constexpr int box_rows(int extent) { return kOuter ? kStep : extent; }
  __host__ __device__ static constexpr int boxes(int extent) {
    return kOuter ? extent / kBoxColumns : 1;
  }

  // Where element m of the extent at k lies, from the tile's begin.
  __host__ __device__ static constexpr int offset(int m, int k) {
    const int row = kOuter ? k : m, column = kOuter ? m % kBoxColumns : k;
    return (kOuter ? m / kBoxColumns * kBoxBytes : 0) + row * kRowBytes +
           ((column / 8) ^ (row % 8)) * 16 + column % 8 * 2;
  }

  // Of the tile from m of its extent on, m a multiple of 64.
  __host__ __device__ static uint64_t descriptor(uint32_t address, int m) {
    return Wgmma::descriptor(address + uint32_t(m / 64 * kBoxBytes), kBoxBytes, kGroupBytes);
  }
  // What a descriptor becomes `k` further, a multiple of 16: 32 bytes of a row, which the swizzle
  // still takes from the address, or two groups of rows.
  __host__ __device__ static constexpr uint64_t advance(int k) {
    return uint64_t(kOuter ? k / 8 * kGroupBytes : k * 2) >> 4;
  }
};

}  // namespace polylora::cuda
