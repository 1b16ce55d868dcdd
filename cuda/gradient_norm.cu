// norm = sqrt(sum of squares over all tensors), in double, in which a float's square is exact:
// blocks of kElements elements of each tensor, then the blocks in a fixed order.
#include "cuda/launch.h"
#include "cuda/operations.h"
#include "cuda/reduce.h"

namespace polylora::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kElements = 8192;  // of a block
constexpr int kMostEntries = 128;    // of a launch, whose parameters must fit 4 KB

struct Entry {
  const float* data;
  int64_t count;
  int64_t first_block;
};

struct Batch {
  Entry entries[kMostEntries];
  int count;
  double* sums;
};
static_assert(sizeof(Batch) <= 4000, "a launch takes 4 KB of parameters");

__global__ void __launch_bounds__(kThreads)
    square_sums_kernel(const __grid_constant__ Batch batch) {
  int which = 0;
  while (which + 1 < batch.count && batch.entries[which + 1].first_block <= int64_t(blockIdx.x))
    ++which;
  const Entry& entry = batch.entries[which];
  const int64_t begin = (int64_t(blockIdx.x) - entry.first_block) * kElements;
  const int64_t end = begin + kElements < entry.count ? begin + kElements : entry.count;
  double sum = 0;
  for (int64_t i = begin + threadIdx.x; i < end; i += kThreads)
    sum += double(entry.data[i]) * double(entry.data[i]);
  sum = block_sum<kThreads>(sum);
  if (threadIdx.x == 0) batch.sums[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kThreads)
    norm_kernel(const double* sums, int64_t blocks, float max_norm, const float* watched,
                int64_t watched_count, float* result) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < blocks; i += kThreads) sum += sums[i];
  sum = block_sum<kThreads>(sum);
  int is_bad = 0;
  for (int64_t i = threadIdx.x; i < watched_count; i += kThreads) is_bad |= !isfinite(watched[i]);
  is_bad = __syncthreads_or(is_bad);
  if (threadIdx.x != 0) return;
  const float norm = float(sqrt(sum));
  // torch.nn.utils.clip_grad_norm_'s coefficient.
  float coefficient = 1;
  if (max_norm > 0) {
    const float clipped = max_norm / (norm + 1e-6f);
    if (!(clipped >= 1)) coefficient = clipped;
  }
  result[0] = norm;
  result[1] = coefficient;
  result[2] = isfinite(norm) && !is_bad ? 1.0f : 0.0f;
}

int64_t elements_of(const pl_tensor& tensor) {
  int64_t count = 1;
  for (int d = 0; d < tensor.rank; ++d) count *= tensor.shape[d];
  return count;
}

}  // namespace

uint64_t workspace_gradient_norm(const Stream&, const pl_gradient_norm_args& args) {
  uint64_t blocks = 0;
  for (uint32_t i = 0; i < args.gradient_count; ++i)
    blocks += blocks_for(elements_of(args.gradients[i]), kElements);
  return blocks * sizeof(double);
}

void run_gradient_norm(Stream& stream, const pl_gradient_norm_args& args) {
  auto* const sums = static_cast<double*>(args.header.workspace);
  Batch batch = {};
  int64_t done = 0, blocks = 0;
  const auto flush = [&] {
    batch.sums = sums + done;
    launch(stream, {unsigned(blocks), kThreads}, square_sums_kernel, batch);
    done += blocks;
    blocks = batch.count = 0;
  };
  for (uint32_t i = 0; i < args.gradient_count; ++i) {
    const int64_t count = elements_of(args.gradients[i]);
    if (count == 0) continue;
    batch.entries[batch.count++] = {static_cast<const float*>(args.gradients[i].data), count,
                                    blocks};
    blocks += blocks_for(count, kElements);
    if (batch.count == kMostEntries) flush();
  }
  flush();
  const bool watches = args.watched.dtype != PL_NONE;
  launch(stream, {1, kThreads}, norm_kernel, sums, done, args.max_norm,
         watches ? static_cast<const float*>(args.watched.data) : nullptr,
         watches ? elements_of(args.watched) : int64_t(0), static_cast<float*>(args.result.data));
}

}  // namespace polylora::cuda
