// The functions of cuda/ptx.h for the emulator. Descriptions are there.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>

#include "async.h"
#include "emulator.h"

namespace polylora::ptx {

namespace emu = ::polylora::emulator;

inline uint32_t shared_address(const void* pointer) {
  return uint32_t(static_cast<const char*>(pointer) - emu::current->block->shared);
}

inline uint16_t bf16_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
  return uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
inline uint32_t pack_bf16(float low, float high) {
  return bf16_bits(low) | uint32_t(bf16_bits(high)) << 16;
}
inline float exp2_approximate(float x) { return float(std::exp2(double(x))); }

inline void cp_async_16(void* shared, const void* global, int bytes = 16, PL_CALLER) {
  emu::cp_async(shared, global, 16, bytes, site);
}
inline void cp_async_4(void* shared, const void* global, int bytes = 4, PL_CALLER) {
  emu::cp_async(shared, global, 4, bytes, site);
}
inline void cp_async_commit() { emu::cp_async_commit(); }
template <int kLeft>
void cp_async_wait() {
  emu::cp_async_wait(kLeft);
}

inline void ldmatrix_x4(uint32_t (&r)[4], const void* row, PL_CALLER) {
  emu::ldmatrix(r, 4, false, row, site);
}
inline void ldmatrix_x4_transposed(uint32_t (&r)[4], const void* row, PL_CALLER) {
  emu::ldmatrix(r, 4, true, row, site);
}
inline void ldmatrix_x2(uint32_t (&r)[2], const void* row, PL_CALLER) {
  emu::ldmatrix(r, 2, false, row, site);
}
inline void ldmatrix_x2_transposed(uint32_t (&r)[2], const void* row, PL_CALLER) {
  emu::ldmatrix(r, 2, true, row, site);
}
inline void stmatrix_x4(void* row, const uint32_t (&r)[4], PL_CALLER) {
  emu::stmatrix(row, r, 4, site);
}

inline void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                              PL_CALLER) {
  emu::mma_m16n8k16(d, a, b, site);
}

inline uint32_t tf32_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fffffff;
  return (bits & 0x7fffffffu) == 0x7f800000u ? bits : (bits + 0x1000) & ~0x1fffu;
}
inline void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                             PL_CALLER) {
  emu::mma_m16n8k8(d, a, b, site);
}

inline void named_barrier_sync(int id, int threads, PL_CALLER) {
  emu::barrier_sync(unsigned(id), unsigned(threads), site);
}
inline void named_barrier_arrive(int id, int threads, PL_CALLER) {
  emu::barrier_arrive(unsigned(id), unsigned(threads), site);
}

inline void mbarrier_init(uint64_t* barrier, int arrivals, PL_CALLER) {
  emu::mbarrier_init(barrier, arrivals, site);
}
inline void fence_mbarrier_init() {}
inline void mbarrier_arrive(uint64_t* barrier, PL_CALLER) {
  emu::mbarrier_arrive(barrier, 0, site);
}
inline void mbarrier_arrive_expect_tx(uint64_t* barrier, int bytes, PL_CALLER) {
  emu::mbarrier_arrive(barrier, bytes, site);
}
inline void mbarrier_arrive_remote(uint64_t* barrier, int rank, PL_CALLER) {
  emu::mbarrier_arrive_remote(barrier, rank, site);
}
inline void mbarrier_wait(uint64_t* barrier, int parity, PL_CALLER) {
  emu::mbarrier_wait(barrier, parity, site);
}
inline void mbarrier_wait_cluster(uint64_t* barrier, int parity, PL_CALLER) {
  emu::mbarrier_wait(barrier, parity, site);
}

inline void fence_proxy_async() { emu::fence_proxy_async(); }
inline void prefetch_tensor_map(const CUtensorMap*) {}
inline void tma_load_2d(void* shared, const CUtensorMap* map, int x, int y, uint64_t* barrier,
                        PL_CALLER) {
  emu::tma_load_2d(shared, map, x, y, barrier, 1u << emu::current->block->rank, site);
}
inline void tma_load_2d_multicast(void* shared, const CUtensorMap* map, int x, int y,
                                  uint64_t* barrier, uint16_t blocks, PL_CALLER) {
  emu::tma_load_2d(shared, map, x, y, barrier, blocks, site);
}
inline void tma_store_2d(const CUtensorMap* map, const void* shared, int x, int y, PL_CALLER) {
  emu::tma_store_2d(map, shared, x, y, site);
}
inline void tma_store_commit() { emu::tma_store_commit(); }
template <int kLeft>
void tma_store_wait_read(PL_CALLER) {
  emu::tma_store_wait(kLeft, site);
}
template <int kLeft>
void tma_store_wait(PL_CALLER) {
  emu::tma_store_wait(kLeft, site);
}

inline int cluster_rank() { return int(emu::current->block->rank); }
inline void cluster_arrive(PL_CALLER) { emu::cluster_arrive(site); }
inline void cluster_wait(PL_CALLER) { emu::cluster_wait(site); }

template <int kRegisters>
void setmaxnreg_inc() {
  static_assert(kRegisters % 8 == 0 && kRegisters >= 24 && kRegisters <= 256);
}
template <int kRegisters>
void setmaxnreg_dec() {
  static_assert(kRegisters % 8 == 0 && kRegisters >= 24 && kRegisters <= 256);
}

inline void wgmma_fence(PL_CALLER) { emu::wgmma_fence(site); }
inline void wgmma_commit(PL_CALLER) { emu::wgmma_commit(site); }
template <int kLeft>
void wgmma_wait(PL_CALLER) {
  emu::wgmma_wait(kLeft, site);
}
template <bool kTransposeA = false, bool kTransposeB = false>
void wgmma_m64n64k16_bf16(float (&d)[32], uint64_t a, uint64_t b, int accumulate, PL_CALLER) {
  emu::wgmma(d, 64, a, b, accumulate, kTransposeA, kTransposeB, site);
}
template <bool kTransposeA = false, bool kTransposeB = false>
void wgmma_m64n128k16_bf16(float (&d)[64], uint64_t a, uint64_t b, int accumulate, PL_CALLER) {
  emu::wgmma(d, 128, a, b, accumulate, kTransposeA, kTransposeB, site);
}
template <bool kTransposeA = false, bool kTransposeB = false>
void wgmma_m64n256k16_bf16(float (&d)[128], uint64_t a, uint64_t b, int accumulate, PL_CALLER) {
  emu::wgmma(d, 256, a, b, accumulate, kTransposeA, kTransposeB, site);
}

}  // namespace polylora::ptx
