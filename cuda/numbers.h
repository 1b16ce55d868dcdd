// bf16 and f16 as kernels see them, and vectors of four floats.
#pragma once

#include <cstdint>
#include <cstring>

#include "cuda/ptx.h"

namespace polylora::cuda {

struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};

__host__ __device__ inline uint32_t bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return bits;
}
__host__ __device__ inline float float_of(uint32_t bits) {
  float x;
  memcpy(&x, &bits, 4);
  return x;
}

// Exact.
__host__ __device__ inline float widen(float x) { return x; }
__host__ __device__ inline float widen(bf16 x) { return float_of(uint32_t(x.bits) << 16); }
__host__ __device__ inline float widen(f16 x) {
  const uint32_t sign = uint32_t(x.bits & 0x8000) << 16;
  const uint32_t magnitude = uint32_t(x.bits & 0x7fff) << 13, exponent = magnitude >> 23;
  if (exponent == 31) return float_of(sign | (magnitude + (224u << 23)));
  if (exponent != 0) return float_of(sign | (magnitude + (112u << 23)));
  // A subnormal m * 2^-24 is 2^-14 (1 + m / 2^10) - 2^-14.
  return float_of(sign | bits_of(float_of(magnitude + (113u << 23)) - float_of(113u << 23)));
}

// To nearest, ties to even; a NaN stays one.
template <class T>
__host__ __device__ inline T narrow(float x);
template <>
__host__ __device__ inline float narrow<float>(float x) {
  return x;
}
template <>
__host__ __device__ inline bf16 narrow<bf16>(float x) {
  const uint32_t bits = bits_of(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {uint16_t((bits >> 16) | 0x40)};
  return {uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}
template <>
__host__ __device__ inline f16 narrow<f16>(float x) {
  const uint32_t bits = bits_of(x), magnitude = bits & 0x7fffffffu;
  const uint32_t sign = (bits >> 16) & 0x8000u;
  uint32_t half;
  if (magnitude >= (143u << 23))
    half = magnitude > 0x7f800000u ? 0x7e00u | ((magnitude >> 13) & 0x3ffu) : 0x7c00u;
  else if (magnitude < (113u << 23))
    // Adding 2^-1 leaves multiples of 2^-24, the subnormal unit, in the last place.
    half = bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f);
  else
    half = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1)) >> 13;
  return {uint16_t(sign | half)};
}

// Four floats at an address that is a multiple of 16.
__device__ inline float4 load4(const float* at) { return *reinterpret_cast<const float4*>(at); }
__device__ inline void store4(float* at, float4 value) { *reinterpret_cast<float4*>(at) = value; }

// Eight floats as bf16.
__device__ inline uint4 packed_bf16(float4 low, float4 high) {
  return {ptx::pack_bf16(low.x, low.y), ptx::pack_bf16(low.z, low.w),
          ptx::pack_bf16(high.x, high.y), ptx::pack_bf16(high.z, high.w)};
}

// Whether rows that begin at `data` and lie `stride` floats apart can be read four at a time.
__host__ __device__ inline bool rows_are_aligned(const void* data, int64_t stride) {
  return reinterpret_cast<uintptr_t>(data) % 16 == 0 && stride % 4 == 0;
}

}  // namespace polylora::cuda
