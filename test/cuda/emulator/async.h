// What runs beside the threads of a block: cp.async, mbarriers, TMA and wgmma.
#pragma once

#include <cstdint>
#include <string>

#include "emulator.h"

namespace polylora::emulator {

// What the async proxy sees of a block's shared memory: its own writes, and those of threads as of
// the last fence.
char* proxy_view(Block& block);
// A fence: it sees what threads have written.
void show_proxy(Block& block);
// Where the block's arrays end.
size_t shared_extent(const Block& block);
bool is_in_shared_array(const Block& block, const void* address, size_t bytes);
// Where a byte of a tile lies under the 128-byte (64, 32) swizzle, which exchanges 16-byte units
// within a row by the row's number, both taken from the address in shared memory.
inline size_t swizzle(size_t offset, uint32_t bytes) {
  if (bytes == 128) return offset ^ ((offset >> 7 & 7) << 4);
  if (bytes == 64) return offset ^ ((offset >> 7 & 3) << 4);
  if (bytes == 32) return offset ^ ((offset >> 7 & 1) << 4);
  return offset;
}

// Lets one bulk copy of the cluster land; false if none is under way.
bool land_bulk_copy(Cluster& cluster);
// A thread, or all threads of a block, have ended.
void finish_thread(Thread& thread);
void finish_block(Block& block);

void cp_async(void* shared, const void* global, int bytes, int read, Site site);
void cp_async_commit();
void cp_async_wait(int left);

void mbarrier_init(void* barrier, int arrivals, Site site);
void mbarrier_arrive(void* barrier, int64_t expected_bytes, Site site);
void mbarrier_arrive_remote(void* barrier, int rank, Site site);
void mbarrier_wait(void* barrier, int parity, Site site);
// Bytes of a copy have landed.
void mbarrier_complete(Block& block, void* barrier, int64_t bytes, Site site);

void fence_proxy_async();
void tma_load_2d(void* shared, const void* map, int x, int y, void* barrier, uint32_t blocks,
                 Site site);
void tma_store_2d(const void* map, const void* shared, int x, int y, Site site);
void tma_store_commit();
void tma_store_wait(int left, Site site);

void cluster_arrive(Site site);
void cluster_wait(Site site);

void wgmma_fence(Site site);
void wgmma(float* d, int n, uint64_t a, uint64_t b, int accumulate, bool transpose_a,
           bool transpose_b, Site site);
void wgmma_commit(Site site);
void wgmma_wait(int left, Site site);

void mma_m16n8k16(float* d, const uint32_t* a, const uint32_t* b, Site site);
void mma_m16n8k8(float* d, const uint32_t* a, const uint32_t* b, Site site);
void ldmatrix(uint32_t* r, int matrices, bool transposed, const void* row, Site site);
void stmatrix(void* row, const uint32_t* r, int matrices, Site site);

// What cuTensorMapEncodeTiled writes into a CUtensorMap here.
struct TensorMap {
  uint32_t magic;
  uint32_t element_bytes, rank, swizzle_bytes;
  const char* base;
  uint64_t dims[3], strides[3];  // strides in bytes, strides[0] is the element's
  uint32_t box[3];
};
constexpr uint32_t kTensorMapMagic = 0x504c544d;

inline float bf16_value(uint16_t bits) {
  const uint32_t wide = uint32_t(bits) << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}

}  // namespace polylora::emulator
