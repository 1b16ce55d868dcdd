// Threads, barriers, warps, bounds.
#include "cuda/launch.h"
#include "cuda/ptx.h"
#include "mutants.h"

using namespace polylora;
using namespace polylora::cuda;
using namespace polylora::cuda_test;

namespace polylora::mutations {
namespace {

constexpr uint32_t kUnlikely = 0x12345678;

// Each thread writes a number and takes another thread's.
__global__ void exchange_kernel(uint32_t* to, bool broken) {
  PL_SHARED(uint32_t, box, 128);
  const int t = int(threadIdx.x);
  box[t] = uint32_t(t);
  if (!broken) __syncthreads();
  to[t] = box[127 - t];
}

// The second number is written while others may still read the first.
__global__ void reuse_kernel(uint32_t* to, bool broken) {
  PL_SHARED(uint32_t, box, 128);
  const int t = int(threadIdx.x);
  box[t] = uint32_t(t);
  __syncthreads();
  to[t] = box[127 - t];
  if (!broken) __syncthreads();
  box[t] = uint32_t(t + 1000);
  __syncthreads();
  to[128 + t] = box[(t + 5) % 128];
}

// Sums by halves; the bug leaves out the barrier between them.
__global__ void reduction_kernel(uint32_t* to, bool broken) {
  PL_SHARED(uint32_t, sums, 128);
  const int t = int(threadIdx.x);
  sums[t] = uint32_t(t);
  __syncthreads();
  for (int half = 64; half > 0; half /= 2) {
    if (t < half) sums[t] += sums[t + half];
    if (!broken) __syncthreads();
  }
  if (broken) __syncthreads();
  if (t == 0) to[0] = sums[0];
}

// Lanes exchange through shared memory.
__global__ void warp_exchange_kernel(uint32_t* to, bool broken) {
  PL_SHARED(uint32_t, box, 32);
  const int lane = int(threadIdx.x);
  box[lane] = 7;
  __syncthreads();
  box[lane] = uint32_t(lane);
  if (!broken) __syncwarp();
  to[lane] = box[lane ^ 1];
}

__global__ void divergent_barrier_kernel(uint32_t* to, bool broken) {
  const int t = int(threadIdx.x);
  if (broken && t == 37) return;
  to[t] = uint32_t(t);
  __syncthreads();
}

// Warp 1 hands over to warp 0; the bug counts one warp too many.
__global__ void named_barrier_kernel(uint32_t* to, bool broken) {
  PL_SHARED(uint32_t, box, 32);
  const int lane = int(threadIdx.x) % 32, threads = broken ? 96 : 64;
  if (threadIdx.x >= 32) {
    box[lane] = uint32_t(lane);
    ptx::named_barrier_arrive(1, threads);
  } else {
    ptx::named_barrier_sync(1, threads);
    to[lane] = box[31 - lane];
  }
}

// A named barrier of the two warps meets another number of threads.
__global__ void barrier_count_kernel(uint32_t* to, bool broken) {
  const int t = int(threadIdx.x);
  ptx::named_barrier_sync(1, broken && t >= 32 ? 96 : 64);
  to[t] = uint32_t(t);
}

__global__ void shuffle_kernel(uint32_t* to, bool broken) {
  const int lane = int(threadIdx.x);
  if (lane < 16)
    to[lane] = __shfl_sync(0xffffu, uint32_t(lane), broken && lane == 3 ? 20 : 15 - lane);
}

__global__ void shared_write_kernel(uint32_t* to, bool broken) {
  PL_SHARED(uint32_t, box, 128);
  const int t = int(threadIdx.x);
  box[broken ? t + 1 : t] = uint32_t(t);
  __syncthreads();
  to[t] = broken ? 0u : box[t];
}

__global__ void shared_read_kernel(uint32_t* to, bool broken) {
  PL_SHARED(uint32_t, box, 128);
  const int t = int(threadIdx.x);
  box[t] = uint32_t(t);
  __syncthreads();
  to[t] = box[broken ? t + 1 : t] == kUnlikely ? 0 : uint32_t(t);
}

__global__ void shared_ldmatrix_kernel(uint32_t* to, bool broken) {
  PL_SHARED(uint32_t, tile, 8 * 16);
  const int lane = int(threadIdx.x);
  for (int i = 0; i < 4; ++i) tile[lane * 4 + i] = uint32_t(lane);
  __syncthreads();
  uint32_t r[4];
  ptx::ldmatrix_x4(r, tile + (lane + (broken ? 1 : 0)) * 4);
  to[lane] = r[0];
}

__global__ void global_write_kernel(uint32_t* to, int count, bool broken) {
  const int t = int(threadIdx.x);
  if (t < count + (broken ? 1 : 0)) to[t] = uint32_t(t);
}

__global__ void global_read_kernel(const uint32_t* from, uint32_t* to, int count, bool broken) {
  const int t = int(threadIdx.x);
  if (t >= count) return;
  to[t] = from[broken ? t + 1 : t] == kUnlikely ? 0 : uint32_t(t);
}

__global__ void global_copy_kernel(const uint32_t* from, uint32_t* to, bool broken) {
  PL_SHARED(uint32_t, tile, 128);
  const int t = int(threadIdx.x);
  ptx::cp_async_16(tile + t * 4, from + (broken ? t + 1 : t) * 4);
  ptx::cp_async_commit();
  ptx::cp_async_wait<0>();
  for (int i = 0; i < 4; ++i) to[t * 4 + i] = tile[t * 4 + i];
}

// Two blocks write the same row; with the bug all of it, and the same values.
__global__ void two_blocks_kernel(uint32_t* to, bool broken) {
  const int t = int(threadIdx.x), b = int(blockIdx.x);
  if (broken || t / 64 == b) to[t] = uint32_t(t);
}

// Block 1 reads what block 0 writes.
__global__ void block_reads_block_kernel(uint32_t* to, bool broken) {
  const int t = int(threadIdx.x), b = int(blockIdx.x);
  to[b * 32 + t] = broken && b == 1 ? to[t] : uint32_t(t);
}

// A plain increment beside atomic ones.
__global__ void atomic_kernel(int32_t* to, bool broken) {
  if (broken && threadIdx.x == 5)
    *to += 1;
  else
    atomicAdd(to, 1);
}

std::vector<uint32_t> numbers(size_t count, const std::function<uint32_t(uint32_t)>& of) {
  std::vector<uint32_t> values(count);
  for (size_t i = 0; i < count; ++i) values[i] = of(uint32_t(i));
  return values;
}
uint32_t same(uint32_t i) { return i; }

// A kernel of one block that takes an output and whether it is broken.
std::function<Detector(bool)> simple(void (*kernel)(uint32_t*, bool), unsigned threads,
                                     std::vector<uint32_t> wanted, unsigned blocks = 1) {
  return [=](bool broken) {
    TestStream stream;
    Array<uint32_t> to(stream, wanted.size());
    launch(stream, {blocks, threads}, kernel, to.data(), broken);
    return outcome(stream, to, wanted);
  };
}

}  // namespace

std::vector<Mutant> mutants() {
  using D = Detector;
  const auto reversed = [](uint32_t i) { return 127 - i; };
  return {
      {"no barrier before the first read", D::values, D::never_written,
       simple(exchange_kernel, 128, numbers(128, reversed))},
      {"no barrier before a buffer is used again", D::values, D::race,
       simple(reuse_kernel, 128,
              numbers(256,
                      [](uint32_t i) { return i < 128 ? 127 - i : (i - 128 + 5) % 128 + 1000; }))},
      {"a reduction without barriers", D::values, D::race,
       simple(reduction_kernel, 128, {127 * 64})},
      {"no __syncwarp", D::values, D::race,
       simple(warp_exchange_kernel, 32, numbers(32, [](uint32_t i) { return i ^ 1; }))},
      {"a thread that leaves before the barrier", D::deadlock, D::deadlock,
       simple(divergent_barrier_kernel, 128, numbers(128, same))},
      {"a named barrier that counts too many", D::deadlock, D::deadlock,
       simple(named_barrier_kernel, 64, numbers(32, [](uint32_t i) { return 31 - i; }))},
      {"a named barrier with two counts", D::misuse, D::misuse,
       simple(barrier_count_kernel, 64, numbers(64, same))},
      {"a shuffle from a lane outside its mask", D::misuse, D::misuse,
       simple(shuffle_kernel, 32, numbers(16, [](uint32_t i) { return 15 - i; }))},
      {"a write behind a shared array", D::guards, D::bounds,
       simple(shared_write_kernel, 128, numbers(128, same))},
      {"a read behind a shared array", D::nobody, D::bounds,
       simple(shared_read_kernel, 128, numbers(128, same))},
      {"an ldmatrix behind a shared array", D::bounds, D::bounds,
       simple(shared_ldmatrix_kernel, 32, numbers(32, [](uint32_t i) { return i / 4; }))},
      {"a write by two blocks", D::nobody, D::race,
       simple(two_blocks_kernel, 128, numbers(128, same), 2)},
      {"a block that reads another's output", D::nobody, D::race,
       simple(block_reads_block_kernel, 32, numbers(64, [](uint32_t i) { return i % 32; }), 2)},
      {"a write behind an array of the device", D::guards, D::bounds,
       [](bool broken) {
         TestStream stream;
         Array<uint32_t> to(stream, 100);
         launch(stream, {1, 128}, global_write_kernel, to.data(), 100, broken);
         return outcome(stream, to, numbers(100, same));
       }},
      {"a read behind an array of the device", D::nobody, D::bounds,
       [](bool broken) {
         TestStream stream;
         Array<uint32_t> from(stream, numbers(100, same)), to(stream, 100);
         launch(stream, {1, 128}, global_read_kernel, from.data(), to.data(), 100, broken);
         return outcome(stream, to, numbers(100, same));
       }},
      {"a cp.async from behind an array of the device", D::bounds, D::bounds,
       [](bool broken) {
         TestStream stream;
         Array<uint32_t> from(stream, numbers(128, same)), to(stream, 128);
         launch(stream, {1, 32}, global_copy_kernel, from.data(), to.data(), broken);
         return outcome(stream, to, numbers(128, same));
       }},
      {"a cp.async from a pool that has ended, its block not given back", D::bounds, D::bounds,
       [](bool broken) {
         TestStream stream;
         Array<uint32_t> to(stream, 128);
         cudaMemPoolProps properties = {};
         cudaMemPool_t pool;
         must(cudaMemPoolCreate(&pool, &properties), "a pool");
         void* memory;
         must(cudaMallocFromPoolAsync(&memory, 1024, pool, stream.handle()), "memory of a pool");
         emulator::block_allocated(stream.handle(), memory, 512, 64);
         const std::vector<uint32_t> values = numbers(128, same);
         must(cudaMemcpyAsync(memory, values.data(), 512, cudaMemcpyHostToDevice, stream.handle()),
              "a copy");
         stream.finish();
         if (broken) must(cudaMemPoolDestroy(pool), "the end of a pool");
         launch(stream, {1, 32}, global_copy_kernel, static_cast<const uint32_t*>(memory),
                to.data(), false);
         const Detector found = outcome(stream, to, values);
         if (!broken) must(cudaMemPoolDestroy(pool), "the end of a pool");
         return found;
       }},
      {"more shared memory than the tier has", D::misuse, D::misuse,
       [](bool broken) {
         TestStream stream;
         Array<uint32_t> to(stream, 128);
         launch(stream, {1, 128, broken ? kSharedLimit80 : 0}, exchange_kernel, to.data(), false);
         return outcome(stream, to, numbers(128, [](uint32_t i) { return 127 - i; }));
       }},
      {"a plain increment beside atomic ones", D::nobody, D::race,
       [](bool broken) {
         TestStream stream;
         Array<int32_t> to(stream, std::vector<int32_t>{0});
         launch(stream, {1, 64}, atomic_kernel, to.data(), broken);
         return outcome(stream, to, std::vector<int32_t>{64});
       }},
  };
}

}  // namespace polylora::mutations
