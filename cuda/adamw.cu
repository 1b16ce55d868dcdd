// The formulas of torch.optim.AdamW (foreach=False), in its order of operations, as
// src/cpu/adamw.cc has them. The learning rate, the step and the gradient's scale are read on the
// device; the scalars made from them are computed in double and rounded once.
#include <cmath>

#include "cuda/launch.h"
#include "cuda/operations.h"

namespace polylora::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kElements = 4096;  // of a block
constexpr int kMostEntries = 48;     // of a launch, whose parameters must fit 4 KB

struct Entry {
  float* parameter;
  const float* gradient;
  float *moment, *variance;
  int64_t count;
  float learning_rate_scale, weight_decay;
  unsigned first_block;
};

struct Batch {
  Entry entries[kMostEntries];
  int count;
  double beta1, beta2;
  float epsilon;
  const float *learning_rate, *gradient_scale, *finite;
  const int32_t* step;
  Failure* failure;
};
static_assert(sizeof(Batch) <= 4000, "a launch takes 4 KB of parameters");

struct Scalars {
  float decay, step_size, root_correction;
};

__global__ void __launch_bounds__(kThreads) adamw_kernel(const __grid_constant__ Batch batch) {
  PL_SHARED(Scalars, shared, 1);
  if (*batch.finite == 0) return;
  const int32_t step = *batch.step;
  if (step < 1) {
    if (blockIdx.x == 0 && threadIdx.x == 0)
      report_least(batch.failure, PL_OPERATION_adamw, "step", step, 1);
    return;
  }
  int which = 0;
  while (which + 1 < batch.count && batch.entries[which + 1].first_block <= blockIdx.x) ++which;
  const Entry& entry = batch.entries[which];
  if (threadIdx.x == 0) {
    const double learning_rate = double(*batch.learning_rate) * double(entry.learning_rate_scale);
    shared[0].decay = float(1 - learning_rate * double(entry.weight_decay));
    shared[0].step_size = float(learning_rate / (1 - pow(batch.beta1, double(step))));
    shared[0].root_correction = float(sqrt(1 - pow(batch.beta2, double(step))));
  }
  __syncthreads();
  const Scalars s = shared[0];
  const float moment_weight = float(1 - batch.beta1), beta2 = float(batch.beta2);
  const float variance_weight = float(1 - batch.beta2), scale = *batch.gradient_scale;
  const int64_t begin = int64_t(blockIdx.x - entry.first_block) * kElements;
  const int64_t end = begin + kElements < entry.count ? begin + kElements : entry.count;
  for (int64_t i = begin + threadIdx.x; i < end; i += kThreads) {
    const float gradient = entry.gradient[i] * scale;
    float moment = entry.moment[i], variance = entry.variance[i];
    moment = fmaf(moment_weight, gradient - moment, moment);  // as torch's lerp
    variance = variance * beta2 + variance_weight * gradient * gradient;
    const float denominator = sqrtf(variance) / s.root_correction + batch.epsilon;
    entry.parameter[i] = entry.parameter[i] * s.decay - s.step_size * moment / denominator;
    entry.moment[i] = moment;
    entry.variance[i] = variance;
  }
}

// The shortest decimal that is this float: 0.999f stands for 0.999, and 1 - beta is taken from
// that.
double decimal_of(float value) {
  for (double scale = 10; scale <= 1e8; scale *= 10) {
    const double decimal = std::nearbyint(double(value) * scale) / scale;
    if (float(decimal) == value) return decimal;
  }
  return value;
}

int64_t elements_of(const pl_tensor& tensor) {
  int64_t count = 1;
  for (int d = 0; d < tensor.rank; ++d) count *= tensor.shape[d];
  return count;
}

template <class T>
T* data_of(const pl_tensor& tensor) {
  return static_cast<T*>(tensor.data);
}

}  // namespace

void run_adamw(Stream& stream, const pl_adamw_args& args) {
  Batch batch = {};
  batch.beta1 = decimal_of(args.beta1);
  batch.beta2 = decimal_of(args.beta2);
  batch.epsilon = args.epsilon;
  batch.learning_rate = data_of<const float>(args.learning_rate);
  batch.gradient_scale = data_of<const float>(args.gradient_scale);
  batch.finite = data_of<const float>(args.finite);
  batch.step = data_of<const int32_t>(args.step);
  batch.failure = stream.failure();
  unsigned blocks = 0;
  const auto flush = [&] {
    launch(stream, {blocks, kThreads}, adamw_kernel, batch);
    batch.count = 0;
    blocks = 0;
  };
  for (uint32_t i = 0; i < args.parameter_count; ++i) {
    const pl_adamw_parameter& from = args.parameters[i];
    const int64_t count = elements_of(from.parameter);
    if (count == 0) continue;
    batch.entries[batch.count++] = {data_of<float>(from.parameter),
                                    data_of<const float>(from.gradient),
                                    data_of<float>(from.moment),
                                    data_of<float>(from.variance),
                                    count,
                                    from.learning_rate_scale,
                                    from.weight_decay,
                                    blocks};
    blocks += blocks_for(count, kElements);
    if (batch.count == kMostEntries) flush();
  }
  flush();
}

}  // namespace polylora::cuda
