// order = the stable permutation that sorts keys upward, and how many keys equal each value. Both
// overwrite.
//
// Least significant digit first, eight bits a pass and no more passes than the keys have digits. A
// warp goes through a tile of keys 32 at a time, in their order, so the place of a key is known
// from where its digit begins for the tile and how many keys of the digit came before it.
#include "cuda/launch.h"
#include "cuda/layout.h"
#include "cuda/operations.h"
#include "cuda/reduce.h"

namespace polylora::cuda {
namespace {

constexpr int kDigitBits = 8, kDigits = 1 << kDigitBits;
constexpr int kWarps = 4, kThreads = 32 * kWarps;
constexpr int64_t kTile = 1024;
constexpr int kScanThreads = 256;

struct Pass {
  const int32_t* keys;
  const int32_t* from;  // the order so far; null: as they come
  int32_t* to;
  int64_t count;
  int shift;
  int64_t tiles;
  int32_t* places;  // [kDigits][tiles]: how many keys, then where the first of them goes

  __device__ int64_t element(int64_t i) const { return from ? from[i] : i; }
  __device__ int digit(int64_t element) const { return keys[element] >> shift & (kDigits - 1); }
};

__global__ void __launch_bounds__(kThreads) count_digits_kernel(Pass pass) {
  PL_SHARED(int, counts, kWarps* kDigits);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  int* const mine = counts + warp * kDigits;
  for (int d = lane; d < kDigits; d += 32) mine[d] = 0;
  __syncwarp();
  const int64_t tile = int64_t(blockIdx.x) * kWarps + warp, begin = tile * kTile;
  const int64_t end = begin + kTile < pass.count ? begin + kTile : pass.count;
  for (int64_t i = begin + lane; i < end; i += 32) atomicAdd(&mine[pass.digit(pass.element(i))], 1);
  __syncwarp();
  if (tile < pass.tiles)
    for (int d = lane; d < kDigits; d += 32) pass.places[d * pass.tiles + tile] = mine[d];
}

// Each count becomes the sum of those before it; one block.
__global__ void __launch_bounds__(kScanThreads) scan_places_kernel(int32_t* places, int64_t count) {
  PL_SHARED(int, warps, kScanThreads / 32);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  int before = 0;
  for (int64_t begin = 0; begin < count; begin += kScanThreads) {
    const int64_t i = begin + threadIdx.x;
    const int mine = i < count ? places[i] : 0;
    const int through = warp_inclusive_scan(mine);
    if (lane == 31) warps[warp] = through;
    __syncthreads();
    int sum = before;
    for (int w = 0; w < kScanThreads / 32; ++w) {
      if (w == warp && i < count) places[i] = sum + through - mine;
      sum += warps[w];
    }
    before = sum;
    __syncthreads();
  }
}

__global__ void __launch_bounds__(kThreads) move_keys_kernel(Pass pass) {
  PL_SHARED(int, places, kWarps* kDigits);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  int* const mine = places + warp * kDigits;
  const int64_t tile = int64_t(blockIdx.x) * kWarps + warp, begin = tile * kTile;
  if (tile >= pass.tiles) return;  // whole warps, and no barrier of the block
  for (int d = lane; d < kDigits; d += 32) mine[d] = pass.places[d * pass.tiles + tile];
  __syncwarp();
  const int64_t end = begin + kTile < pass.count ? begin + kTile : pass.count;
  for (int64_t i = begin; i < end; i += 32) {
    const bool is_key = i + lane < end;
    const int64_t element = is_key ? pass.element(i + lane) : 0;
    const int digit = is_key ? pass.digit(element) : 0;
    // The lanes that hold the same digit.
    unsigned same = __ballot_sync(kAllLanes, is_key);
#pragma unroll
    for (int bit = 0; bit < kDigitBits; ++bit) {
      const unsigned ones = __ballot_sync(kAllLanes, digit >> bit & 1);
      same &= digit >> bit & 1 ? ones : ~ones;
    }
    const int rank = __popc(same & ((1u << lane) - 1));
    if (is_key) pass.to[mine[digit] + rank] = int32_t(element);
    __syncwarp();
    if (is_key && rank == 0) mine[digit] += __popc(same);
    __syncwarp();
  }
}

// Keys that are out of range are reported; what the passes make of them harms nobody.
struct CheckKeys {
  const int32_t* keys;
  int64_t limit;
  int32_t* counts;  // null: not wanted
  Failure* failure;
  __device__ void operator()(int64_t i) const {
    const int64_t key = keys[i];
    if (key < 0 || key >= limit)
      report_index(failure, PL_OPERATION_sort, "keys", i, key, limit);
    else if (counts)
      atomicAdd(&counts[key], 1);
  }
};

int64_t tiles_of(const pl_sort_args& args) { return (args.keys.shape[0] + kTile - 1) / kTile; }

}  // namespace

uint64_t workspace_sort(const Stream&, const pl_sort_args& args) {
  return (uint64_t(args.keys.shape[0]) + uint64_t(kDigits) * uint64_t(tiles_of(args))) *
         sizeof(int32_t);
}

void run_sort(Stream& stream, const pl_sort_args& args) {
  const bool counted = args.counts.dtype != PL_NONE;
  const int64_t count = args.keys.shape[0];
  const int64_t limit = counted ? args.counts.shape[0] : int64_t(1) << 30;
  const auto* const keys = static_cast<const int32_t*>(args.keys.data);
  auto* const counts = counted ? static_cast<int32_t*>(args.counts.data) : nullptr;
  if (counted && limit > 0)
    stream.note(cudaMemsetAsync(counts, 0, size_t(limit) * sizeof(int32_t), stream.handle()));
  for_each_element(stream, count, CheckKeys{keys, limit, counts, stream.failure()});

  int passes = 1;
  while (passes * kDigitBits < 30 && limit > int64_t(1) << (passes * kDigitBits)) ++passes;
  auto* const order = static_cast<int32_t*>(args.order.data);
  auto* const other = static_cast<int32_t*>(args.header.workspace);
  Pass pass = {keys, nullptr, nullptr, count, 0, tiles_of(args), other + count};
  for (int p = 0; p < passes; ++p) {
    pass.to = (passes - p) % 2 == 1 ? order : other;  // the last pass writes to order
    pass.shift = p * kDigitBits;
    const LaunchShape shape = {blocks_for(pass.tiles, kWarps), kThreads};
    launch(stream, shape, count_digits_kernel, pass);
    if (pass.tiles > 0)
      launch(stream, {1, kScanThreads}, scan_places_kernel, pass.places, kDigits * pass.tiles);
    launch(stream, shape, move_keys_kernel, pass);
    pass.from = pass.to;
  }
}

}  // namespace polylora::cuda
