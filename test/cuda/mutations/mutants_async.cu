// What runs beside the threads: cp.async, mbarriers, TMA, wgmma.
#include "cuda/launch.h"
#include "cuda/ptx.h"
#include "mutants.h"

using namespace polylora;
using namespace polylora::cuda;
using namespace polylora::cuda_test;

namespace polylora::mutations {
namespace {

enum class Bug {
  none,
  short_wait,       // cp_async_wait leaves one group too many in flight
  no_wait,          // nobody waits
  no_barrier,       // between the arrival of a tile and its use by others
  early_refill,     // a stage is filled again before all have read it
  few_bytes,        // the mbarrier expects fewer bytes than come
  many_bytes,       // or more
  no_init_barrier,  // threads use an mbarrier that has no order with its initialisation
  no_fence,         // fence_proxy_async is missing
  no_store_wait,    // the tile of a TMA store is written before it has been read
  early_end,        // the block ends before
  wrong_swizzle,    // rows are taken as if they did not begin at multiples of eight
  wrong_stride,     // the descriptor's
  wrong_step,       // the descriptor's advance along k
  no_wgmma_fence,   // before the first wgmma
  late_wgmma_wait,  // sums are read before wgmma_wait
  overwritten       // an operand is written before wgmma_wait
};

// ---- cp.async: a ring of three stages, each thread reads what another one copied

constexpr int kSteps = 6;

__global__ void ring_kernel(const uint32_t* from, uint32_t* to, Bug bug) {
  PL_SHARED(uint32_t, ring, 3 * 256);
  const int t = int(threadIdx.x);
  const auto load = [&](int step) {
    if (step < kSteps) ptx::cp_async_16(ring + step % 3 * 256 + t * 4, from + step * 256 + t * 4);
    ptx::cp_async_commit();
  };
  load(0);
  load(1);
  for (int step = 0; step < kSteps; ++step) {
    if (bug == Bug::early_refill) load(step + 2);
    if (bug == Bug::short_wait)
      ptx::cp_async_wait<2>();
    else if (bug == Bug::early_refill)
      ptx::cp_async_wait<2>();
    else if (bug != Bug::no_wait)
      ptx::cp_async_wait<1>();
    if (bug != Bug::no_barrier) __syncthreads();
    if (bug != Bug::early_refill) load(step + 2);
    for (int i = 0; i < 4; ++i) to[step * 256 + i * 64 + t] = ring[step % 3 * 256 + i * 64 + t];
  }
  if (bug != Bug::no_wait) ptx::cp_async_wait<0>();
}

std::vector<uint32_t> numbers(size_t count) {
  std::vector<uint32_t> values(count);
  for (size_t i = 0; i < count; ++i) values[i] = uint32_t(i * 7 + 1);
  return values;
}

std::function<Detector(bool)> ring(Bug bug) {
  return [=](bool broken) {
    TestStream stream;
    Array<uint32_t> from(stream, numbers(kSteps * 256)), to(stream, kSteps * 256);
    launch(stream, {1, 64}, ring_kernel, from.data(), to.data(), broken ? bug : Bug::none);
    return outcome(stream, to, numbers(kSteps * 256));
  };
}

// ---- TMA: a producer fills two stages, a consumer warp empties them

constexpr int kRows = 16, kTileBytes = kRows * 128, kTiles = 5;  // two boxes

__global__ void pipeline_kernel(const __grid_constant__ CUtensorMap map, uint16_t* to, Bug bug) {
  PL_DYNAMIC_SHARED(uint16_t, tiles);
  PL_SHARED(uint64_t, full, 2);
  PL_SHARED(uint64_t, empty, 2);
  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  if (threadIdx.x == 0) {
    for (int i = 0; i < 2; ++i) {
      ptx::mbarrier_init(&full[i], 1);
      ptx::mbarrier_init(&empty[i], 32);
    }
    ptx::fence_mbarrier_init();
  }
  if (bug != Bug::no_init_barrier) __syncthreads();
  const int bytes = bug == Bug::few_bytes    ? kTileBytes / 2
                    : bug == Bug::many_bytes ? kTileBytes + 128
                                             : kTileBytes;
  for (int tile = 0; tile < kTiles; ++tile) {
    const int stage = tile % 2;
    uint16_t* const at = tiles + stage * kRows * 64;
    if (warp == 0) {
      if (lane != 0) continue;
      if (tile >= 2) ptx::mbarrier_wait(&empty[stage], (tile / 2 - 1) % 2);
      ptx::mbarrier_arrive_expect_tx(&full[stage], bytes);
      for (int box = 0; box < kRows; box += 8)
        ptx::tma_load_2d(at + box * 64, &map, 0, tile * kRows + box, &full[stage]);
    } else {
      if (bug != Bug::no_wait || tile > 0) ptx::mbarrier_wait(&full[stage], tile / 2 % 2);
      if (bug == Bug::early_refill) ptx::mbarrier_arrive(&empty[stage]);
      for (int i = lane; i < kRows * 64; i += 32) {
        const int row = bug == Bug::wrong_swizzle ? i / 64 + 1 : i / 64;
        to[tile * kRows * 64 + i] = at[i / 64 * 64 + ((i / 8 % 8) ^ (row % 8)) * 8 + i % 8];
      }
      if (bug != Bug::early_refill) ptx::mbarrier_arrive(&empty[stage]);
    }
  }
}

std::vector<uint16_t> halves(size_t count) {
  std::vector<uint16_t> values(count);
  for (size_t i = 0; i < count; ++i) values[i] = uint16_t(i * 7 + 1);
  return values;
}

std::function<Detector(bool)> pipeline(Bug bug) {
  return [=](bool broken) {
    TestStream stream;
    const auto values = halves(kTiles * kRows * 64);
    Array<uint16_t> from(stream, values), to(stream, values.size());
    const CUtensorMap map = tensor_map(from.data(), kTiles * kRows, 64, 8, 64);
    launch(stream, {1, 64, 2 * kTileBytes, Tier::sm90a}, pipeline_kernel, map, to.data(),
           broken ? bug : Bug::none);
    return outcome(stream, to, values);
  };
}

// ---- TMA stores: one tile of shared memory for all

__global__ void store_kernel(const __grid_constant__ CUtensorMap map, const uint16_t* from,
                             Bug bug) {
  PL_DYNAMIC_SHARED(uint16_t, tile);
  for (int n = 0; n < kTiles; ++n) {
    for (int i = int(threadIdx.x); i < kRows * 64; i += 64)
      tile[i / 64 * 64 + ((i / 8 % 8) ^ (i / 64 % 8)) * 8 + i % 8] = from[n * kRows * 64 + i];
    if (bug != Bug::no_fence) ptx::fence_proxy_async();
    if (bug != Bug::no_barrier) __syncthreads();
    if (threadIdx.x == 0) {
      ptx::tma_store_2d(&map, tile, 0, n * kRows);
      ptx::tma_store_commit();
      if (bug != Bug::no_store_wait && !(bug == Bug::early_end && n + 1 == kTiles))
        ptx::tma_store_wait_read<0>();
    }
    __syncthreads();
  }
  if (threadIdx.x == 0 && bug != Bug::early_end) ptx::tma_store_wait<0>();
}

std::function<Detector(bool)> store(Bug bug) {
  return [=](bool broken) {
    TestStream stream;
    const auto values = halves(kTiles * kRows * 64);
    Array<uint16_t> from(stream, values), to(stream, values.size());
    const CUtensorMap map = tensor_map(to.data(), kTiles * kRows, 64, kRows, 64);
    launch(stream, {1, 64, kTileBytes, Tier::sm90a}, store_kernel, map, from.data(),
           broken ? bug : Bug::none);
    return outcome(stream, to, values);
  };
}

// ---- wgmma: d[64, 64] = a[64, 64] b[64, 64]^T

__global__ void wgmma_kernel(const uint16_t* a, const uint16_t* b, float* d, Bug bug) {
  PL_DYNAMIC_SHARED(uint16_t, tiles);
  const int t = int(threadIdx.x);
  const auto place = [](int i) { return i / 64 * 64 + ((i / 8 % 8) ^ (i / 64 % 8)) * 8 + i % 8; };
  for (int i = t; i < 4096; i += 128) {
    tiles[place(i)] = a[i];
    tiles[4096 + place(i)] = b[i];
  }
  if (bug != Bug::no_fence) ptx::fence_proxy_async();
  if (bug != Bug::no_barrier) __syncthreads();
  // The block's dynamic bytes begin at address 0 of its shared memory.
  const uint64_t fields =
      uint64_t(bug == Bug::wrong_stride ? 512 >> 4 : 1024 >> 4) << 32 | uint64_t(1) << 62;
  const uint64_t step = bug == Bug::wrong_step ? 16 >> 4 : 32 >> 4;
  float sums[32] = {};
  if (bug != Bug::no_wgmma_fence) ptx::wgmma_fence();
  for (int k = 0; k < 4; ++k)
    ptx::wgmma_m64n64k16_bf16(sums, fields | uint64_t(k) * step,
                              fields | ((8192 >> 4) + uint64_t(k) * step), 1);
  ptx::wgmma_commit();
  if (bug == Bug::overwritten) tiles[t] = 0;
  if (bug != Bug::late_wgmma_wait && bug != Bug::early_end) ptx::wgmma_wait<0>();
  for (int i = 0; i < 32; ++i)
    d[(t / 32 * 16 + t % 32 / 4 + i / 2 % 2 * 8) * 64 + i / 4 * 8 + t % 4 * 2 + i % 2] = sums[i];
  if (bug != Bug::early_end) ptx::wgmma_wait<0>();
}

std::function<Detector(bool)> wgmma(Bug bug) {
  return [=](bool broken) {
    TestStream stream;
    std::vector<uint16_t> a(4096), b(4096);
    std::vector<float> wanted(4096);
    for (int i = 0; i < 4096; ++i) {
      a[size_t(i)] = bf16_of(i % 23 - 11);
      b[size_t(i)] = bf16_of(i % 19 - 9);
    }
    for (int i = 0; i < 4096; ++i)
      for (int k = 0; k < 64; ++k)
        wanted[size_t(i)] += float(((i / 64 * 64 + k) % 23 - 11) * ((i % 64 * 64 + k) % 19 - 9));
    Array<uint16_t> a_array(stream, a), b_array(stream, b);
    Array<float> d(stream, 4096);
    launch(stream, {1, 128, 16384, Tier::sm90a}, wgmma_kernel, a_array.data(), b_array.data(),
           d.data(), broken ? bug : Bug::none);
    return outcome(stream, d, wanted);
  };
}

}  // namespace

std::vector<Mutant> async_mutants() {
  using D = Detector;
  return {
      {"cp.async: a wait count one short", D::values, D::in_flight, ring(Bug::short_wait)},
      {"cp.async: no wait", D::unfinished, D::in_flight, ring(Bug::no_wait)},
      {"cp.async: no barrier after the wait", D::values, D::never_written, ring(Bug::no_barrier)},
      {"cp.async: a stage filled before it was read", D::values, D::in_flight,
       ring(Bug::early_refill)},
      // The stage is released in a phase that has not ended.
      {"TMA: no wait for the mbarrier", D::misuse, D::never_written, pipeline(Bug::no_wait)},
      {"TMA: fewer bytes expected than come", D::values, D::in_flight, pipeline(Bug::few_bytes)},
      {"TMA: more bytes expected than come", D::deadlock, D::deadlock, pipeline(Bug::many_bytes)},
      {"TMA: a stage released before it was read", D::nobody, D::race, pipeline(Bug::early_refill)},
      {"TMA: no barrier after the initialisation", D::nobody, D::race,
       pipeline(Bug::no_init_barrier)},
      {"TMA: the wrong swizzle", D::values, D::values, pipeline(Bug::wrong_swizzle)},
      {"TMA store: no proxy fence", D::values, D::proxy, store(Bug::no_fence)},
      {"TMA store: no barrier before it", D::values, D::never_written, store(Bug::no_barrier)},
      {"TMA store: its tile written before it was read", D::values, D::race,
       store(Bug::no_store_wait)},
      {"TMA store: the block ends before it has read", D::unfinished, D::unfinished,
       store(Bug::early_end)},
      {"wgmma: no proxy fence", D::values, D::proxy, wgmma(Bug::no_fence)},
      {"wgmma: no barrier before it", D::nobody, D::race, wgmma(Bug::no_barrier)},
      {"wgmma: a wrong stride", D::values, D::values, wgmma(Bug::wrong_stride)},
      {"wgmma: a wrong step along k", D::values, D::values, wgmma(Bug::wrong_step)},
      {"wgmma: no wgmma.fence", D::misuse, D::misuse, wgmma(Bug::no_wgmma_fence)},
      {"wgmma: sums read before the wait", D::values, D::values, wgmma(Bug::late_wgmma_wait)},
      {"wgmma: no wait at all", D::unfinished, D::unfinished, wgmma(Bug::early_end)},
      {"wgmma: an operand written before the wait", D::nobody, D::race, wgmma(Bug::overwritten)},
  };
}

}  // namespace polylora::mutations
