// The functions of cuda/ptx.h for sm_90a, each against its definition, bit for bit: mbarriers, TMA,
// clusters, stmatrix, wgmma and its descriptors.
#include <cstring>

#include "cuda/launch.h"
#include "cuda/ptx.h"
#include "cuda_test.h"

using namespace polylora;
using namespace polylora::cuda;
using namespace polylora::cuda_test;

namespace {

template <class T>
void expect_same(const std::string& what, const std::vector<T>& found,
                 const std::vector<T>& wanted) {
  for (size_t i = 0; i < wanted.size(); ++i)
    if (std::memcmp(&found[i], &wanted[i], sizeof(T)) != 0) {
      expect(false, what + " at " + std::to_string(i));
      return;
    }
  expect(found.size() == wanted.size(), what);
}

// Element `column` of a row of 64 in a tile with the 128-byte swizzle.
__host__ __device__ inline int swizzled(int row, int column) {
  return row * 64 + ((column / 8) ^ (row % 8)) * 8 + column % 8;
}

// ---- TMA

constexpr int kBoxRows = 16, kBoxBytes = kBoxRows * 128;

// The tile as it lies in shared memory.
__global__ void tma_load_kernel(const __grid_constant__ CUtensorMap map, int x, int y,
                                uint16_t* to) {
#if PL_SM90A_BODY
  PL_DYNAMIC_SHARED(uint16_t, tile);
  PL_SHARED(uint64_t, full, 1);
  if (threadIdx.x == 0) {
    ptx::prefetch_tensor_map(&map);
    ptx::mbarrier_init(full, 1);
    ptx::fence_mbarrier_init();
  }
  __syncthreads();
  for (int round = 0; round < 2; ++round) {
    if (threadIdx.x == 0) {
      ptx::mbarrier_arrive_expect_tx(full, kBoxBytes);
      ptx::tma_load_2d(tile, &map, x + round, y, full);
    }
    ptx::mbarrier_wait(full, round);
    for (int i = int(threadIdx.x); i < kBoxRows * 64; i += 64)
      to[round * kBoxRows * 64 + i] = tile[i];
    __syncthreads();  // the tile has been read
  }
#endif
}

void test_tma_load(TestStream& stream, Random& random) {
  const int rows = 20, columns = 72;
  std::vector<uint16_t> values(size_t(rows * columns));
  for (auto& value : values) value = uint16_t(random.next());
  Array<uint16_t> from(stream, values);
  const CUtensorMap map = tensor_map(from.data(), rows, columns, kBoxRows, 64);
  const int corners[][2] = {{0, 0}, {64, 16}, {-8, -3}, {8, 4}, {72, 0}, {0, 20}};
  for (const auto& [x, y] : corners) {
    Array<uint16_t> to(stream, 2 * kBoxRows * 64);
    launch(stream, {1, 64, kBoxBytes, Tier::sm90a}, tma_load_kernel, map, x, y, to.data());
    std::vector<uint16_t> wanted(2 * kBoxRows * 64);
    for (int round = 0; round < 2; ++round)
      for (int i = 0; i < kBoxRows; ++i)
        for (int j = 0; j < 64; ++j) {
          const int row = y + i, column = x + round + j;
          const bool inside = row >= 0 && row < rows && column >= 0 && column < columns;
          wanted[size_t(round * kBoxRows * 64 + swizzled(i, j))] =
              inside ? values[size_t(row * columns + column)] : 0;
        }
    expect_same("tma_load_2d", to.read(stream), wanted);
  }
}

__global__ void tma_store_kernel(const __grid_constant__ CUtensorMap map, int x, int y,
                                 const uint16_t* from) {
#if PL_SM90A_BODY
  PL_DYNAMIC_SHARED(uint16_t, tile);
  for (int i = int(threadIdx.x); i < kBoxRows * 64; i += 64) tile[i] = from[i];
  ptx::fence_proxy_async();
  __syncthreads();
  if (threadIdx.x == 0) {
    ptx::tma_store_2d(&map, tile, x, y);
    ptx::tma_store_commit();
    ptx::tma_store_wait_read<0>();
  }
  __syncthreads();
  for (int i = int(threadIdx.x); i < kBoxRows * 64; i += 64) tile[i] = 0;  // it has been read
  if (threadIdx.x == 0) ptx::tma_store_wait<0>();
#endif
}

void test_tma_store(TestStream& stream, Random& random) {
  const int rows = 20, columns = 72;
  std::vector<uint16_t> tile(kBoxRows * 64);
  for (auto& value : tile) value = uint16_t(random.next());
  Array<uint16_t> from(stream, tile);
  const int corners[][2] = {{0, 0}, {64, 16}, {-8, -3}};
  for (const auto& [x, y] : corners) {
    Array<uint16_t> to(stream, size_t(rows * columns));
    const CUtensorMap map = tensor_map(to.data(), rows, columns, kBoxRows, 64);
    launch(stream, {1, 64, kBoxBytes, Tier::sm90a}, tma_store_kernel, map, x, y, from.data());
    std::vector<uint16_t> wanted(size_t(rows * columns), uint16_t(0xffff));
    for (int i = 0; i < kBoxRows; ++i)
      for (int j = 0; j < 64; ++j) {
        const int row = y + i, column = x + j;
        if (row >= 0 && row < rows && column >= 0 && column < columns)
          wanted[size_t(row * columns + column)] = tile[size_t(swizzled(i, j))];
      }
    expect_same("tma_store_2d", to.read(stream), wanted);
  }
}

// Block 0 of each pair loads for both; block 1 tells it when it has read.
__global__ void multicast_kernel(const __grid_constant__ CUtensorMap map, int rounds,
                                 uint16_t* to) {
#if PL_SM90A_BODY
  PL_DYNAMIC_SHARED(uint16_t, tile);
  PL_SHARED(uint64_t, full, 1);
  PL_SHARED(uint64_t, empty, 1);
  const int rank = ptx::cluster_rank();
  if (threadIdx.x == 0) {
    ptx::mbarrier_init(full, 1);
    ptx::mbarrier_init(empty, 2);
    ptx::fence_mbarrier_init();
  }
  __syncthreads();
  ptx::cluster_arrive();
  ptx::cluster_wait();
  for (int round = 0; round < rounds; ++round) {
    if (threadIdx.x == 0) {
      ptx::mbarrier_arrive_expect_tx(full, kBoxBytes);
      if (rank == 0) {
        if (round > 0) ptx::mbarrier_wait_cluster(empty, (round - 1) % 2);
        ptx::tma_load_2d_multicast(tile, &map, 0, round * kBoxRows, full, 3);
      }
    }
    ptx::mbarrier_wait(full, round % 2);
    uint16_t* const out = to + (round * int(gridDim.x) + int(blockIdx.x)) * kBoxRows * 64;
    for (int i = int(threadIdx.x); i < kBoxRows * 64; i += 64) out[i] = tile[i];
    __syncthreads();
    if (threadIdx.x == 0) {
      if (rank == 0)
        ptx::mbarrier_arrive(empty);
      else
        ptx::mbarrier_arrive_remote(empty, 0);
    }
  }
  // No block may leave while another signals to it.
  ptx::cluster_arrive();
  ptx::cluster_wait();
#endif
}

void test_multicast(TestStream& stream, Random& random) {
  const int rounds = 3, blocks = 4, rows = rounds * kBoxRows;
  std::vector<uint16_t> values(size_t(rows) * 64);
  for (auto& value : values) value = uint16_t(random.next());
  Array<uint16_t> from(stream, values);
  Array<uint16_t> to(stream, size_t(rounds * blocks * kBoxRows) * 64);
  const CUtensorMap map = tensor_map(from.data(), rows, 64, kBoxRows, 64);
  launch(stream, {blocks, 64, kBoxBytes, Tier::sm90a, 2}, multicast_kernel, map, rounds, to.data());
  std::vector<uint16_t> wanted(size_t(rounds * blocks * kBoxRows) * 64);
  for (int round = 0; round < rounds; ++round)
    for (int block = 0; block < blocks; ++block)
      for (int i = 0; i < kBoxRows; ++i)
        for (int j = 0; j < 64; ++j)
          wanted[size_t((round * blocks + block) * kBoxRows * 64 + swizzled(i, j))] =
              values[size_t((round * kBoxRows + i) * 64 + j)];
  expect_same("a multicast with remote arrivals", to.read(stream), wanted);
}

// ---- stmatrix

__global__ void stmatrix_kernel(uint32_t* to) {
#if PL_SM90A_BODY
  PL_SHARED(uint16_t, tile, 32 * 8);
  const int lane = int(threadIdx.x);
  uint32_t r[4];
  for (int i = 0; i < 4; ++i)
    r[i] = uint32_t(lane * 8 + i * 2) | uint32_t(lane * 8 + i * 2 + 1) << 16;
  ptx::stmatrix_x4(tile + lane * 8, r);
  __syncthreads();
  for (int i = 0; i < 8; ++i) to[lane * 8 + i] = tile[lane * 8 + i];
#endif
}

void test_stmatrix(TestStream& stream) {
  Array<uint32_t> to(stream, 256);
  launch(stream, {1, 32, 0, Tier::sm90a}, stmatrix_kernel, to.data());
  std::vector<uint32_t> wanted(256);
  for (uint32_t matrix = 0; matrix < 4; ++matrix)
    for (uint32_t row = 0; row < 8; ++row)
      for (uint32_t column = 0; column < 8; ++column)
        wanted[(matrix * 8 + row) * 8 + column] =
            (row * 4 + column / 2) * 8 + matrix * 2 + column % 2;
  expect_same("stmatrix_x4", to.read(stream), wanted);
}

// ---- wgmma

constexpr int kDepth = 64;

// Of a tile in shared memory with the 128-byte swizzle; distances in bytes.
[[maybe_unused]] __device__ inline uint64_t descriptor(const void* tile, int leading, int stride) {
#ifdef POLYLORA_CUDA_EMULATED
  const auto address = uint64_t(static_cast<const char*>(tile) -
                                static_cast<const char*>(emulator::dynamic_shared()));
#else
  const auto address = uint64_t(__cvta_generic_to_shared(tile));
#endif
  return (address & 0x3ffff) >> 4 | uint64_t(leading >> 4) << 16 | uint64_t(stride >> 4) << 32 |
         uint64_t(1) << 62;
}

template <int kColumns, bool kTransposeA, bool kTransposeB>
__device__ void multiply(float (&d)[kColumns / 2], uint64_t a, uint64_t b, int accumulate) {
  if constexpr (kColumns == 64)
    ptx::wgmma_m64n64k16_bf16<kTransposeA, kTransposeB>(d, a, b, accumulate);
  else if constexpr (kColumns == 128)
    ptx::wgmma_m64n128k16_bf16<kTransposeA, kTransposeB>(d, a, b, accumulate);
  else
    ptx::wgmma_m64n256k16_bf16<kTransposeA, kTransposeB>(d, a, b, accumulate);
}

// d[64, kColumns] = a[64, kDepth] b[kColumns, kDepth]^T, twice, added up. Of three warpgroups the
// first gives its registers to the others, which compute the same.
template <int kColumns, bool kTransposeA, bool kTransposeB>
__global__ void __launch_bounds__(384, 1)
    wgmma_kernel(const uint16_t* a, const uint16_t* b, float* d) {
#if PL_SM90A_BODY
  PL_DYNAMIC_SHARED(uint16_t, a_tile);
  uint16_t* const b_tile = a_tile + 64 * kDepth;
  // With k innermost a row of the tile is one of m; else one of k, 64 of m at a time.
  const auto place = [](bool transposed, int m, int k) {
    return transposed ? m / 64 * 64 * kDepth + swizzled(k, m % 64) : swizzled(m, k);
  };
  for (int i = int(threadIdx.x); i < 64 * kDepth; i += 384)
    a_tile[place(kTransposeA, i / kDepth, i % kDepth)] = a[i];
  for (int i = int(threadIdx.x); i < kColumns * kDepth; i += 384)
    b_tile[place(kTransposeB, i / kDepth, i % kDepth)] = b[i];
  ptx::fence_proxy_async();
  __syncthreads();
  if (threadIdx.x < 128) {
    ptx::setmaxnreg_dec<40>();
  } else {
    ptx::setmaxnreg_inc<232>();
    float sums[kColumns / 2];
    for (int i = 0; i < kColumns / 2; ++i) sums[i] = -1;
    // 16 of k are two groups of eight rows, or 32 bytes of a row.
    const auto step = [](bool transposed, int k) {
      return uint64_t(k * (transposed ? 2048 : 32)) >> 4;
    };
    const uint64_t a_begin = descriptor(a_tile, 64 * kDepth * 2, 1024);
    const uint64_t b_begin = descriptor(b_tile, 64 * kDepth * 2, 1024);
    ptx::wgmma_fence();
    for (int round = 0; round < 2; ++round) {
      for (int k = 0; k < kDepth / 16; ++k)
        multiply<kColumns, kTransposeA, kTransposeB>(sums, a_begin + step(kTransposeA, k),
                                                     b_begin + step(kTransposeB, k), round + k > 0);
      ptx::wgmma_commit();
    }
    ptx::wgmma_wait<0>();
    const int t = int(threadIdx.x) % 128, lane = t % 32;
    float* const out = d + (int(threadIdx.x) / 128 - 1) * 64 * kColumns;
    for (int i = 0; i < kColumns / 2; ++i) {
      const int row = t / 32 * 16 + lane / 4 + i / 2 % 2 * 8;
      const int column = i / 4 * 8 + lane % 4 * 2 + i % 2;
      out[row * kColumns + column] = sums[i];
    }
  }
#endif
}

template <int kColumns, bool kTransposeA, bool kTransposeB>
void test_wgmma(TestStream& stream, Random& random) {
  std::vector<int> a(64 * kDepth), b(kColumns * kDepth);
  for (auto& value : a) value = random.below(33) - 16;
  for (auto& value : b) value = random.below(33) - 16;
  std::vector<uint16_t> as, bs;
  for (int value : a) as.push_back(bf16_of(value));
  for (int value : b) bs.push_back(bf16_of(value));
  std::vector<float> wanted(2 * 64 * kColumns);
  for (size_t i = 0; i < wanted.size(); ++i) {
    const size_t row = i / kColumns % 64, column = i % kColumns;
    int sum = 0;
    for (size_t k = 0; k < kDepth; ++k) sum += a[row * kDepth + k] * b[column * kDepth + k];
    wanted[i] = float(2 * sum);
  }
  Array<uint16_t> a_array(stream, as), b_array(stream, bs);
  Array<float> d(stream, wanted.size());
  launch(stream, {1, 384, (64 + kColumns) * kDepth * 2, Tier::sm90a},
         wgmma_kernel<kColumns, kTransposeA, kTransposeB>, a_array.data(), b_array.data(),
         d.data());
  expect_same("wgmma_m64n" + std::to_string(kColumns) + "k16_bf16" +
                  (kTransposeA ? ", a transposed" : "") + (kTransposeB ? ", b transposed" : ""),
              d.read(stream), wanted);
}

template <int kColumns>
void test_wgmmas(TestStream& stream, Random& random) {
  test_wgmma<kColumns, false, false>(stream, random);
  test_wgmma<kColumns, true, false>(stream, random);
  test_wgmma<kColumns, false, true>(stream, random);
  test_wgmma<kColumns, true, true>(stream, random);
}

}  // namespace

int main() {
  if (!announce()) return 0;
  TestStream stream;
  if (!stream.has_wgmma()) {
    skip("the functions of sm_90a", "this is no sm_90");
    return report();
  }
  Random random = {20250102};
  test_tma_load(stream, random);
  test_tma_store(stream, random);
  test_multicast(stream, random);
  test_stmatrix(stream);
  test_wgmmas<64>(stream, random);
  test_wgmmas<128>(stream, random);
  test_wgmmas<256>(stream, random);
  return report();
}
