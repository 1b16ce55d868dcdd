#include <cmath>
#include <vector>

#include "cpu/operations.h"
#include "cpu/rows.h"
#include "cpu/workspace.h"

#define PL_TARGET_FILE "cpu/gradient_norm.cc"
#include "cpu/for_each_target.h"

#ifdef PL_TARGET

namespace polylora::cpu::PL_TARGET {
namespace {

// In double the square of a float is exact. Thirty-two running sums on every instruction set.
double sum_of_squares_in_double(const float* x, int64_t n) {
  constexpr int kSums = 32, kDoubles = kLanes / 2, kVectors = kSums / kDoubles;
  typedef double Doubles __attribute__((vector_size(kDoubles * 8)));
  typedef float Half __attribute__((vector_size(kDoubles * 4), aligned(4), may_alias));
  Doubles sums[kVectors] = {};
  int64_t i = 0;
  for (; i + kSums <= n; i += kSums)
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) {
      const Half half = *reinterpret_cast<const Half*>(x + i + v * kDoubles);
      const Doubles wide = __builtin_convertvector(half, Doubles);
      sums[v] += wide * wide;
    }
  double lanes[kSums];
  std::memcpy(lanes, sums, sizeof lanes);
  for (int lane = 0; i < n; ++i, ++lane) lanes[lane] += double(x[i]) * double(x[i]);
  double total = 0;
  for (int lane = 0; lane < kSums; ++lane) total += lanes[lane];
  return total;
}

}  // namespace
}  // namespace polylora::cpu::PL_TARGET

#else

namespace polylora::cpu {

namespace {

constexpr int64_t kElements = 16384;  // of a block, summed apart

}  // namespace

uint64_t gradient_norm_workspace(const pl_gradient_norm_args& args) {
  uint64_t blocks = 0;
  for (uint32_t i = 0; i < args.gradient_count; ++i)
    blocks += uint64_t((elements_of(args.gradients[i]) + kElements - 1) / kElements);
  return blocks * sizeof(double);
}

void run_gradient_norm(Pool& pool, const pl_gradient_norm_args& args) {
  struct Block {
    const float* data;
    int64_t count;
  };
  std::vector<Block> blocks;
  for (uint32_t i = 0; i < args.gradient_count; ++i) {
    const int64_t count = elements_of(args.gradients[i]);
    for (int64_t begin = 0; begin < count; begin += kElements)
      blocks.push_back({static_cast<const float*>(args.gradients[i].data) + begin,
                        count - begin < kElements ? count - begin : kElements});
  }
  double* const sums = static_cast<double*>(args.header.workspace);
  const auto sum_of_squares = PL_SELECT(pool, sum_of_squares_in_double);
  pool.parallel(int64_t(blocks.size()), [&](int64_t index, Worker&) {
    const Block& block = blocks[size_t(index)];
    sums[index] = sum_of_squares(block.data, block.count);
  });
  double total = 0;
  for (size_t i = 0; i < blocks.size(); ++i) total += sums[i];

  const float norm = float(std::sqrt(total));
  bool finite = std::isfinite(norm);
  if (args.watched.dtype != PL_NONE) {
    const float* const watched = static_cast<const float*>(args.watched.data);
    for (int64_t i = 0; i < elements_of(args.watched); ++i)
      finite = finite && std::isfinite(watched[i]);
  }
  // torch.nn.utils.clip_grad_norm_'s coefficient.
  float coefficient = 1;
  if (args.max_norm > 0) {
    const float clipped = args.max_norm / (norm + 1e-6f);
    if (!(clipped >= 1)) coefficient = clipped;
  }
  float* const result = static_cast<float*>(args.result.data);
  result[0] = norm;
  result[1] = coefficient;
  result[2] = finite ? 1.0f : 0.0f;
}

}  // namespace polylora::cpu

#endif
