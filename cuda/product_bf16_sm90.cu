// The product of product_bf16.cu on sm_90a: TMA, mbarriers, wgmma. A block stays and takes one tile
// of y after the other. One thread copies: it keeps kStages steps of 64 of k in flight, also those
// of the next tile while this one is stored. Two warpgroups multiply, 64 rows of the tile each, by
// all of its columns, and store from their registers.
//
// Two blocks of a cluster take tiles above each other, which share the columns' operand: each block
// copies half of its tile to both.
//
// A stage goes round by two barriers: `full` counts the copies' bytes, whoever's they are, `empty`
// the eight warps of every block of the cluster that have multiplied it, since the next copy goes
// to all of them. Shared memory is written by TMA and read by wgmma alone, both of the async proxy,
// so that no proxy fence is needed. The sums of a segment that is masked are waited for; else wgmma
// of one step runs on while the next is issued.
//
// An element's sum runs over k in order, segment after segment, whatever M and N are, and whether
// its block is alone; a segment's last step takes as many instructions of 16 as it has left, so a
// rank of 16 costs one.
//
// Predicted, not measured: 8,192 x 4,096 with 4,096 + 16 of k on an H100 SXM: 1,024 tiles of
// 128 x 256 in 8 rounds of 66 clusters, each of 2 * 257 instructions of 128 cycles: 0.30 ms at
// 1.755 GHz, 0.93 of the peak. A step of 1,024 cycles brings a block 32 KB from the second cache;
// alone it would be 48. A round reads about 16 * 128 + 8 * 256 rows of 8 KB, 33 MB, once into the
// second cache, 10 us of its 37. It stores 128 KB a block, in whole sectors of 32 bytes, 17 MB in
// all; the tensor cores wait for that, some 3 us. What would hide it is a tile for each warpgroup,
// out of step.
#include "cuda/descriptor.h"
#include "cuda/launch.h"
#include "cuda/product.h"
#include "cuda/product_sums.h"
#include "cuda/tensor_map.h"

namespace polylora::cuda {
namespace sm90 {
namespace {

constexpr int kRows = 128, kThreads = 384;
[[maybe_unused]] constexpr int kConsumerWarps = 8;
constexpr int kStagesBytes = 192 << 10;
constexpr int kMostMaps = 12;  // segments
constexpr int kCluster = 2;    // blocks, at most

struct ProductSm90 : Output {
  CUtensorMap x[kMostMaps], w[kMostMaps];
  int32_t k[kMostMaps];
  bool mask_after[kMostMaps];
  int segment_count;
  Dropout dropout;
};
static_assert(sizeof(ProductSm90) <= 4000, "a launch takes 4 KB of parameters");

// What a cluster takes at a time, a tile for each of its blocks: in bands of kBand tiles down,
// column after column, so that the blocks of a wave share rows of both operands in the second
// cache.
struct TileOrder {
  static constexpr int64_t kBand = 16;
  int64_t rows, columns;  // of tiles; rows of clusters' tiles
  int cluster;            // blocks
  __host__ __device__ int64_t count() const { return rows * columns; }
  [[maybe_unused]] __host__ __device__ void at(int64_t tile, int64_t* row, int64_t* column) const {
    const int64_t most = kBand / cluster, first = tile / (most * columns) * most;
    const int64_t left = rows - first, band = left < most ? left : most;
    const int64_t within = tile - first * columns;
    *row = first + within % band;
    *column = within / band;
  }
};

// In clusters, where there are two rows of tiles and it takes no more rounds than blocks alone do.
inline TileOrder order_of(int64_t rows, int64_t columns, int64_t processors) {
  const auto rounds = [&](const TileOrder& order) {
    const int64_t clusters = processors / order.cluster;
    return clusters == 0 ? INT64_MAX : (order.count() + clusters - 1) / clusters;
  };
  const TileOrder alone = {rows, columns, 1};
  const TileOrder together = {(rows + kCluster - 1) / kCluster, columns, kCluster};
  return rows > 1 && rounds(together) <= rounds(alone) ? together : alone;
}

template <pl_layout kLayout, int kColumns>
struct Shape {
  using Left = WgmmaOperand<kLayout == PL_TN>;
  using Right = WgmmaOperand<kLayout != PL_NT>;
  static constexpr int kLeftBytes = Left::bytes(kRows);
  static constexpr int kHalf = kColumns / kCluster, kHalfBytes = Right::bytes(kHalf);
  static constexpr int kStageBytes = kLeftBytes + Right::bytes(kColumns);
  static constexpr int kStages = kStagesBytes / kStageBytes;
};

// A place in the ring of stages; the phase of its barriers changes with every round.
template <int kStages>
struct Place {
  int stage = 0, phase = 0;
  __device__ void advance() {
    if (++stage < kStages) return;
    stage = 0;
    phase ^= 1;
  }
};

// The step's tile of one operand, `first` on in the extent and k on: to this block alone, or to
// the `blocks` of the cluster whose bits are set.
template <class Operand, int kExtent>
__device__ __forceinline__ void copy_tile(char* tile, const CUtensorMap* map, int first, int k,
                                          uint64_t* full, uint16_t blocks = 0) {
#pragma unroll
  for (int box = 0; box < Operand::boxes(kExtent); ++box) {
    const int at = first + box * Wgmma::kBoxColumns;
    const int x = Operand::kIsOuter ? at : k, y = Operand::kIsOuter ? k : at;
    char* const to = tile + box * Wgmma::kBoxBytes;
    if (blocks == 0)
      ptx::tma_load_2d(to, map, x, y, full);
    else
      ptx::tma_load_2d_multicast(to, map, x, y, full, blocks);
  }
}

// All threads of all blocks of the cluster.
__device__ __forceinline__ void meet_cluster() {
  __syncwarp();
  ptx::cluster_arrive();
  ptx::cluster_wait();
}

template <class Left, class Right>
__device__ __forceinline__ void multiply(float (&sums)[64], uint64_t a, uint64_t b) {
  ptx::wgmma_m64n128k16_bf16<Left::kIsOuter, Right::kIsOuter>(sums, a, b, 1);
}
template <class Left, class Right>
__device__ __forceinline__ void multiply(float (&sums)[128], uint64_t a, uint64_t b) {
  ptx::wgmma_m64n256k16_bf16<Left::kIsOuter, Right::kIsOuter>(sums, a, b, 1);
}

// 16 kCount of k, as a group of their own.
template <class Left, class Right, int kCount, int kSums>
__device__ __forceinline__ void multiply_step(float (&sums)[kSums], uint64_t a, uint64_t b) {
  ptx::wgmma_fence();
#pragma unroll
  for (int i = 0; i < kCount; ++i)
    multiply<Left, Right>(sums, a + Left::advance(16 * i), b + Right::advance(16 * i));
  ptx::wgmma_commit();
}

template <pl_layout kLayout, int kColumns>
__global__ void __launch_bounds__(kThreads, 1)
    matmul_bf16_sm90_kernel(const __grid_constant__ ProductSm90 product, TileOrder tiles) {
#if PL_SM90A_BODY
  using Sizes = Shape<kLayout, kColumns>;
  using Left = typename Sizes::Left;
  using Right = typename Sizes::Right;
  PL_DYNAMIC_SHARED(char, shared);
  PL_SHARED(uint64_t, full, Sizes::kStages);
  PL_SHARED(uint64_t, empty, Sizes::kStages);
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < Sizes::kStages; ++stage) {
      ptx::mbarrier_init(&full[stage], 1);
      ptx::mbarrier_init(&empty[stage], kConsumerWarps * tiles.cluster);
    }
    ptx::fence_mbarrier_init();
  }
  meet_cluster();  // before anything comes from another block

  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  const int rank = tiles.cluster > 1 ? ptx::cluster_rank() : 0;
  const int64_t clusters = gridDim.x / tiles.cluster;
  Place<Sizes::kStages> place;
  int64_t row, column;
  if (warp < 4) {
    ptx::setmaxnreg_dec<40>();
    if (threadIdx.x == 0)
      for (int64_t tile = blockIdx.x / tiles.cluster; tile < tiles.count(); tile += clusters) {
        tiles.at(tile, &row, &column);
        row = row * tiles.cluster + rank;
        for (int s = 0; s < product.segment_count; ++s)
          for (int k = 0; k < product.k[s]; k += Wgmma::kStep, place.advance()) {
            char* const stage = shared + place.stage * Sizes::kStageBytes;
            uint64_t* const barrier = &full[place.stage];
            // At once in the first round.
            ptx::mbarrier_wait_cluster(&empty[place.stage], place.phase ^ 1);
            ptx::mbarrier_arrive_expect_tx(barrier, Sizes::kStageBytes);
            copy_tile<Left, kRows>(stage, &product.x[s], int(row) * kRows, k, barrier);
            const uint16_t blocks = tiles.cluster > 1 ? (1 << kCluster) - 1 : 0;
            for (int half = rank; half < kCluster; half += tiles.cluster)
              copy_tile<Right, Sizes::kHalf>(
                  stage + Sizes::kLeftBytes + half * Sizes::kHalfBytes, &product.w[s],
                  int(column) * kColumns + half * Sizes::kHalf, k, barrier, blocks);
          }
      }
  } else {
    ptx::setmaxnreg_inc<232>();
    const int first = (warp - 4) / 4 * 64;  // of the tile's rows, this warpgroup's
    const uint32_t stages = ptx::shared_address(shared);
    const auto give_back = [&](int stage) {
      if (lane < tiles.cluster) ptx::mbarrier_arrive_remote(&empty[stage], lane);
    };
    for (int64_t tile = blockIdx.x / tiles.cluster; tile < tiles.count(); tile += clusters) {
      tiles.at(tile, &row, &column);
      row = row * tiles.cluster + rank;
      const int64_t my_row = row * kRows + first + warp % 4 * 16;
      float sums[kColumns / 2] = {};
      const auto at = [&](int, int j, int e) -> float& { return sums[4 * j + e]; };
      int unread = -1;  // the stage that wgmma may still read
      for (int s = 0; s < product.segment_count; ++s) {
        for (int k = 0; k < product.k[s]; k += Wgmma::kStep, place.advance()) {
          ptx::mbarrier_wait(&full[place.stage], place.phase);
          const uint32_t stage = stages + uint32_t(place.stage * Sizes::kStageBytes);
          const uint64_t a = Left::descriptor(stage, first);
          const uint64_t b = Right::descriptor(stage + Sizes::kLeftBytes, 0);
          if (product.k[s] - k >= Wgmma::kStep)
            multiply_step<Left, Right, Wgmma::kStep / 16>(sums, a, b);
          else  // the segment's last, with as many instructions as it has left
            for (int i = 0; i < product.k[s] - k; i += 16)
              multiply_step<Left, Right, 1>(sums, a + Left::advance(i), b + Right::advance(i));
          ptx::wgmma_wait<1>();
          if (unread >= 0) give_back(unread);
          unread = place.stage;
        }
        if (kLayout == PL_NN && product.mask_after[s]) {
          ptx::wgmma_wait<0>();
          mask_sums<1, kColumns / 8>(product.dropout, product, my_row, column * kColumns, at);
        }
      }
      ptx::wgmma_wait<0>();
      if (unread >= 0) give_back(unread);
      store_sums<1, kColumns / 8>(product, my_row, column * kColumns, at);
    }
  }
  meet_cluster();  // a block stays while another may still arrive at its barriers
#endif
}

// A segment's maps; false if TMA cannot take it.
template <class Sizes, int kColumns>
bool make_maps(const ProductBf16& from, int s, ProductSm90* to) {
  using Left = typename Sizes::Left;
  using Right = typename Sizes::Right;
  const SegmentBf16& segment = from.segments[s];
  if (segment.k > INT32_MAX) return false;
  to->k[s] = int32_t(segment.k);
  to->mask_after[s] = segment.mask_after;
  if (segment.k == 0) return true;
  const int64_t k = segment.k;
  return make_tensor_map(&to->x[s], segment.x, Left::kIsOuter ? k : from.m,
                         Left::kIsOuter ? from.m : k, segment.x_stride, Left::box_rows(kRows)) &&
         make_tensor_map(&to->w[s], segment.w, Right::kIsOuter ? k : from.n,
                         Right::kIsOuter ? from.n : k, segment.w_stride,
                         Right::box_rows(Sizes::kHalf));
}

template <pl_layout kLayout, int kColumns>
bool run(Stream& stream, const ProductBf16& from) {
  using Sizes = Shape<kLayout, kColumns>;
  ProductSm90 product = {};
  static_cast<Output&>(product) = from;
  product.segment_count = from.segment_count;
  product.dropout = from.dropout;
  for (int s = 0; s < from.segment_count; ++s)
    if (!make_maps<Sizes, kColumns>(from, s, &product)) return false;
  const TileOrder tiles = order_of((from.m + kRows - 1) / kRows, (from.n + kColumns - 1) / kColumns,
                                   stream.processors());
  const int64_t clusters = stream.processors() / tiles.cluster;
  LaunchShape shape;
  shape.grid = blocks_for(tiles.count() < clusters ? tiles.count() : clusters, 1) * tiles.cluster;
  shape.cluster = unsigned(tiles.cluster);
  shape.block = kThreads;
  shape.shared_bytes = size_t(Sizes::kStages) * Sizes::kStageBytes;
  shape.tier = Tier::sm90a;
  launch(stream, shape, matmul_bf16_sm90_kernel<kLayout, kColumns>, product, tiles);
  return true;
}

template <pl_layout kLayout>
bool run(Stream& stream, const ProductBf16& product) {
  return product.n > 128 ? run<kLayout, 256>(stream, product) : run<kLayout, 128>(stream, product);
}

}  // namespace
}  // namespace sm90

bool run_product_bf16_sm90(Stream& stream, const ProductBf16& product) {
  using namespace sm90;
  if (!stream.has_wgmma() || product.segment_count > kMostMaps) return false;
  if (product.m == 0 || product.n == 0) return true;
  return product.layout == PL_NT   ? run<PL_NT>(stream, product)
         : product.layout == PL_NN ? run<PL_NN>(stream, product)
                                   : run<PL_TN>(stream, product);
}

}  // namespace polylora::cuda
