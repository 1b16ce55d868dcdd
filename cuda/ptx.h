// The only place with inline PTX: one thin function an instruction, named after it. Everything that
// is arithmetic (tiles, swizzles, descriptors) is elsewhere.
//
// It is also the emulator's seam: built by the host compiler, a kernel gets the functions of
// test/cuda/emulator/ptx.h, which have the same names and parameters. So a new instruction needs
// both, and a line in test/cuda/ptx_test.cu that holds them to its definition.
//
// Rules for kernels, which the emulator relies on:
// - no asm outside this file, no <<<>>> (launch.h), shared memory only through launch.h's macros;
// - explicit masks, no early return before a barrier, no spinning outside these functions;
// - fragments and accumulators are arrays, passed by reference and indexed by constants;
// - pointers to shared memory are generic pointers; 32-bit shared addresses are for descriptors
// alone.
//
// Functions of sm_90 exist in every build; for an older architecture they trap. A kernel that calls
// them is guarded by PL_SM90A_BODY (launch.h).
#pragma once

#ifdef POLYLORA_CUDA_EMULATED
#include "emulator/ptx.h"
#else

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define PL_SM90A(...) __VA_ARGS__
#else
#define PL_SM90A(...) __trap()
#endif

namespace polylora::ptx {

#define PL_PTX __device__ __forceinline__

// ---- Addresses

PL_PTX uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// ---- Conversions

// Two floats as bf16, `low` in the low half; to nearest, ties to even.
PL_PTX uint32_t pack_bf16(float low, float high) {
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

// 2^x; relative error about 2^-22, denormals flushed.
PL_PTX float exp2_approximate(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// ---- cp.async (sm_80): asynchronous copies of one thread from global to shared memory

// 16 bytes, both addresses multiples of 16, past the first cache. Beyond `bytes` (0 to 16) the
// destination becomes zero and nothing is read.
PL_PTX void cp_async_16(void* shared, const void* global, int bytes = 16) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
               "l"(global), "r"(bytes)
               : "memory");
}
// 4 bytes.
PL_PTX void cp_async_4(void* shared, const void* global, int bytes = 4) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(shared)),
               "l"(global), "r"(bytes)
               : "memory");
}
PL_PTX void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most kLeft of this thread's groups are in flight. Other threads see the data after
// a barrier only.
template <int kLeft>
PL_PTX void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
}

// ---- ldmatrix (sm_75): 8x8 matrices of 16-bit elements, whole warp

// Lane l names row l % 8 of matrix l / 8 (16 bytes, aligned). r[i] gets from matrix i the elements
// (row lane / 4, columns 2 * (lane % 4) and the next).
PL_PTX void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
// Transposed: r[i] gets (rows 2 * (lane % 4) and the next, column lane / 4).
PL_PTX void ldmatrix_x4_transposed(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
// Lanes 0 to 15 name the rows; the other lanes' addresses must be valid and are ignored.
PL_PTX void ldmatrix_x2(uint32_t (&r)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(row))
               : "memory");
}
PL_PTX void ldmatrix_x2_transposed(uint32_t (&r)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(row))
               : "memory");
}
// The way back (sm_90): lane l names row l % 8 of matrix l / 8.
PL_PTX void stmatrix_x4(void* row, const uint32_t (&r)[4]) {
  PL_SM90A(asm volatile(
      "stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(row)),
      "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
      : "memory"));
}

// ---- mma.sync (sm_80): d[16,8] += a[16,16] b[16,8], whole warp

// With g = lane / 4 and t = lane % 4, each register two elements, the lower column or row low:
//   a[0] (g, 2t) a[1] (g + 8, 2t) a[2] (g, 2t + 8) a[3] (g + 8, 2t + 8)
//   b[0] (rows 2t, column g) b[1] (rows 2t + 8, column g)
//   d[0], d[1] (g, 2t and 2t + 1) d[2], d[3] (g + 8, the same)
PL_PTX void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// The bits of a float with 10 bits behind the point, rounded to nearest, ties away from zero.
PL_PTX uint32_t tf32_of(float value) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
  return bits;
}

// d[16,8] += a[16,8] b[8,8] of such:
//   a[0] (g, t) a[1] (g + 8, t) a[2] (g, t + 4) a[3] (g + 8, t + 4)
//   b[0] (row t, column g) b[1] (row t + 4, column g), d as above
PL_PTX void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// ---- Named barriers

// `threads` (a multiple of 32) of the block meet at barrier `id`, 0 to 15; 0 is __syncthreads'.
PL_PTX void named_barrier_sync(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
PL_PTX void named_barrier_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// ---- mbarrier (sm_90 here, for TMA): counts arrivals and bytes

PL_PTX void mbarrier_init(uint64_t* barrier, int arrivals) {
  PL_SM90A(asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)),
                        "r"(arrivals)
                        : "memory"));
}
// Makes initialised barriers visible to the cluster and to the async proxy.
PL_PTX void fence_mbarrier_init() {
  PL_SM90A(asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"));
}
PL_PTX void mbarrier_arrive(uint64_t* barrier) {
  PL_SM90A(asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier))
                        : "memory"));
}
// Arrives, and lets the phase wait for `bytes` more.
PL_PTX void mbarrier_arrive_expect_tx(uint64_t* barrier, int bytes) {
  PL_SM90A(asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
      "r"(bytes)
      : "memory"));
}
// Arrives at the same barrier of another block of the cluster.
PL_PTX void mbarrier_arrive_remote(uint64_t* barrier, int rank) {
  PL_SM90A(
      asm volatile("{\n"
                   ".reg .b32 remote;\n"
                   "mapa.shared::cluster.u32 remote, %0, %1;\n"
                   "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [remote];\n"
                   "}" ::"r"(shared_address(barrier)),
                   "r"(rank)
                   : "memory"));
}
// Waits until the phase of this parity (0 for the first) has completed.
PL_PTX void mbarrier_wait(uint64_t* barrier, int parity) {
  PL_SM90A(
      asm volatile("{\n"
                   ".reg .pred done;\n"
                   "again:\n"
                   "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1, 0x989680;\n"
                   "@done bra finished;\n"
                   "bra again;\n"
                   "finished:\n"
                   "}" ::"r"(shared_address(barrier)),
                   "r"(parity)
                   : "memory"));
}
// The same where arrivals come from other blocks of the cluster.
PL_PTX void mbarrier_wait_cluster(uint64_t* barrier, int parity) {
  PL_SM90A(
      asm volatile("{\n"
                   ".reg .pred done;\n"
                   "again:\n"
                   "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], %1;\n"
                   "@done bra finished;\n"
                   "bra again;\n"
                   "finished:\n"
                   "}" ::"r"(shared_address(barrier)),
                   "r"(parity)
                   : "memory"));
}

// ---- TMA (sm_90): tiles between global and shared memory, through the async proxy

// What this thread has written to shared memory (or seen written, through a barrier) becomes
// visible to the async proxy: before a TMA store of it, or a wgmma that reads it.
PL_PTX void fence_proxy_async() {
  PL_SM90A(asm volatile("fence.proxy.async.shared::cta;" ::: "memory"));
}
PL_PTX void prefetch_tensor_map(const CUtensorMap* map) {
  PL_SM90A(asm volatile("prefetch.tensormap [%0];" ::"l"(reinterpret_cast<uint64_t>(map))
                        : "memory"));
}
// One thread. The tile at column x, row y; what lies outside the tensor becomes zero. Its bytes
// count towards `barrier`.
PL_PTX void tma_load_2d(void* shared, const CUtensorMap* map, int x, int y, uint64_t* barrier) {
  PL_SM90A(asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], "
      "[%1, {%3, %4}], [%2];" ::"r"(shared_address(shared)),
      "l"(reinterpret_cast<uint64_t>(map)), "r"(shared_address(barrier)), "r"(x), "r"(y)
      : "memory"));
}
// To the same place in every block of the cluster whose bit is set, counted by each one's barrier.
PL_PTX void tma_load_2d_multicast(void* shared, const CUtensorMap* map, int x, int y,
                                  uint64_t* barrier, uint16_t blocks) {
  PL_SM90A(asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      ".multicast::cluster [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(shared_address(shared)),
      "l"(reinterpret_cast<uint64_t>(map)), "r"(shared_address(barrier)), "r"(x), "r"(y),
      "h"(blocks)
      : "memory"));
}
// One thread. What lies outside the tensor is not written.
PL_PTX void tma_store_2d(const CUtensorMap* map, const void* shared, int x, int y) {
  PL_SM90A(asm volatile(
      "cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%2, %3}], [%1];" ::"l"(
          reinterpret_cast<uint64_t>(map)),
      "r"(shared_address(shared)), "r"(x), "r"(y)
      : "memory"));
}
PL_PTX void tma_store_commit() {
  PL_SM90A(asm volatile("cp.async.bulk.commit_group;" ::: "memory"));
}
// Until at most kLeft of this thread's groups are still to read shared memory,
template <int kLeft>
PL_PTX void tma_store_wait_read() {
  PL_SM90A(asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kLeft) : "memory"));
}
// or to be written.
template <int kLeft>
PL_PTX void tma_store_wait() {
  PL_SM90A(asm volatile("cp.async.bulk.wait_group %0;" ::"n"(kLeft) : "memory"));
}

// ---- Clusters (sm_90)

PL_PTX int cluster_rank() {
  uint32_t rank = 0;
  PL_SM90A(asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank)));
  return int(rank);
}
PL_PTX void cluster_arrive() {
  PL_SM90A(asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory"));
}
PL_PTX void cluster_wait() {
  PL_SM90A(asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"));
}

// ---- Registers (sm_90): a whole warpgroup takes or gives back registers

template <int kRegisters>
PL_PTX void setmaxnreg_inc() {
  PL_SM90A(asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters)));
}
template <int kRegisters>
PL_PTX void setmaxnreg_dec() {
  PL_SM90A(asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters)));
}

// ---- wgmma (sm_90a): a warpgroup's d[64, kN] (+)= a[64,16] b[16,kN], asynchronous

// Before the first wgmma, and whenever registers that one uses were touched otherwise.
PL_PTX void wgmma_fence() { PL_SM90A(asm volatile("wgmma.fence.sync.aligned;" ::: "memory")); }
PL_PTX void wgmma_commit() {
  PL_SM90A(asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"));
}
// Until at most kLeft groups are in flight. Only then may d be read, or their tiles be written.
template <int kLeft>
PL_PTX void wgmma_wait() {
  PL_SM90A(asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kLeft) : "memory"));
}

#define PL_D8(i)                                                                              \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
      "+f"(d[i + 6]), "+f"(d[i + 7])
#define PL_D32(i) PL_D8(i), PL_D8(i + 8), PL_D8(i + 16), PL_D8(i + 24)
#define PL_D64(i) PL_D32(i), PL_D32(i + 32)
#define PL_R32_0                                                                               \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, " \
  "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define PL_R32_32                                                                              \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, " \
  "%50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define PL_R32_64                                                                              \
  "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, " \
  "%82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define PL_R32_96                                                                              \
  "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, "     \
  "%111, %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, " \
  "%126, %127"

// a and b are descriptors of tiles in shared memory (descriptor.h). If accumulate is 0, d is
// overwritten. A transposed operand lies with M (or N) innermost instead of K. With g = lane / 4
// and t = lane % 4, d[4j + 2h + i] is row 16 * (warp % 4) + g + 8h, column 8j + 2t + i.
template <bool kTransposeA = false, bool kTransposeB = false>
PL_PTX void wgmma_m64n64k16_bf16(float (&d)[32], uint64_t a, uint64_t b, int accumulate) {
  PL_SM90A(asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "setp.ne.b32 p, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" PL_R32_0
      "}, %32, %33, p, 1, 1, %35, %36;\n"
      "}"
      : PL_D32(0)
      : "l"(a), "l"(b), "r"(accumulate), "n"(int(kTransposeA)), "n"(int(kTransposeB))));
}
template <bool kTransposeA = false, bool kTransposeB = false>
PL_PTX void wgmma_m64n128k16_bf16(float (&d)[64], uint64_t a, uint64_t b, int accumulate) {
  PL_SM90A(asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "setp.ne.b32 p, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" PL_R32_0 ", " PL_R32_32
      "}, %64, %65, p, 1, 1, %67, %68;\n"
      "}"
      : PL_D64(0)
      : "l"(a), "l"(b), "r"(accumulate), "n"(int(kTransposeA)), "n"(int(kTransposeB))));
}
template <bool kTransposeA = false, bool kTransposeB = false>
PL_PTX void wgmma_m64n256k16_bf16(float (&d)[128], uint64_t a, uint64_t b, int accumulate) {
  PL_SM90A(asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "setp.ne.b32 p, %130, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {" PL_R32_0 ", " PL_R32_32
      ", " PL_R32_64 ", " PL_R32_96
      "}, %128, %129, p, 1, 1, %131, %132;\n"
      "}"
      : PL_D64(0), PL_D64(64)
      : "l"(a), "l"(b), "r"(accumulate), "n"(int(kTransposeA)), "n"(int(kTransposeB))));
}

#undef PL_D8
#undef PL_D32
#undef PL_D64
#undef PL_R32_0
#undef PL_R32_32
#undef PL_R32_64
#undef PL_R32_96
#undef PL_PTX

}  // namespace polylora::ptx

#endif
