// The elementwise operations' share of copy bandwidth: elementwise [instruction set] [threads].
// Each is set against a copy that moves as many bytes, measured beside it.
#include <functional>

#include "measure.h"

using namespace polylora;
using namespace polylora::benchmark;
using namespace polylora::cpu;

namespace {

struct Bench {
  Pool& pool;
  std::vector<float> workspace;

  // Seconds to read half of the bytes and write the other half.
  double copy_time(double bytes) {
    const int64_t n = int64_t(bytes / 8);
    Buffer from({n}), to({n});
    const auto* const x = static_cast<const float*>(from.tensor().data);
    auto* const y = static_cast<float*>(to.tensor().data);
    return best_time(pool.threads(), [&] {
      pool.parallel_ranges(n, 65536, [&](int64_t begin, int64_t end, Worker&) {
        std::memcpy(y + begin, x + begin, size_t(end - begin) * 4);
      });
    });
  }

  template <class Args>
  void operator()(const char* name, const char* size, double bytes, pl_operation operation,
                  void (*run)(Pool&, const Args&), Args args) {
    const double reference = copy_time(bytes);
    const double time =
        best_time(pool.threads(), [&] { execute(operation, run, pool, args, workspace); });
    if (prints_json()) {
      const char* const plain = name + std::strspn(name, " ");
      print_json("elementwise", std::string(plain) + " " + size,
                 {{"seconds", time}, {"bytes", bytes}, {"share", reference / time}});
      return;
    }
    std::printf("%-20s %-22s %8.0f us %6.1f GB/s %6.1f%% of copying\n", name, size, time * 1e6,
                bytes / time * 1e-9, 100 * reference / time);
  }
};

#define BENCH(name, size, bytes, args) \
  bench(#name, size, bytes, PL_OPERATION_##name, run_##name, args)

void rows(Bench& bench, int64_t t, int64_t d, int64_t inner) {
  char size[64];
  std::snprintf(size, sizeof size, "%ld x %ld", long(t), long(d));
  const double one = double(t) * double(d) * 4;
  Buffer x({t, d}), y({t, d}), z({t, d}), weight({d}), rstd({t}), d_weight({d});
  pl_rms_norm_args norm = {};
  norm.x = x.tensor();
  norm.weight = weight.tensor();
  norm.epsilon = 1e-6f;
  norm.y = y.tensor();
  norm.rstd = rstd.tensor();
  BENCH(rms_norm, size, 2 * one, norm);
  pl_rms_norm_backward_args back = {};
  back.dy = y.tensor();
  back.x = x.tensor();
  back.weight = weight.tensor();
  back.rstd = rstd.tensor();
  back.residual = back.dx = z.tensor();
  BENCH(rms_norm_backward, size, 4 * one, back);
  back.d_weight = d_weight.tensor();
  bench("  with d_weight", size, 4 * one, PL_OPERATION_rms_norm_backward, run_rms_norm_backward,
        back);
  pl_add_args add = {};
  add.a = x.tensor();
  add.b = y.tensor();
  add.alpha = add.beta = 1;
  add.y = z.tensor();
  BENCH(add, size, 3 * one, add);
  pl_copy_args copy = {};
  copy.x = x.tensor();
  copy.y = y.tensor();
  BENCH(copy, size, 2 * one, copy);
  Buffer turned({d, t});
  copy.y = turned.tensor();
  copy.x.shape[0] = d;
  copy.x.shape[1] = t;
  copy.x.strides[0] = 1;
  copy.x.strides[1] = d;
  bench("  transposed", size, 2 * one, PL_OPERATION_copy, run_copy, copy);
  copy.x = x.tensor();
  copy.y = y.tensor();
  copy.y.dtype = PL_BF16;
  bench("  to bf16", size, 1.5 * one, PL_OPERATION_copy, run_copy, copy);
  std::swap(copy.x, copy.y);
  std::memset(copy.x.data, 0, size_t(t * d) * 2);
  bench("  from bf16", size, 1.5 * one, PL_OPERATION_copy, run_copy, copy);
  copy.x.dtype = PL_F16;
  bench("  from f16", size, 1.5 * one, PL_OPERATION_copy, run_copy, copy);
  std::swap(copy.x, copy.y);
  bench("  to f16", size, 1.5 * one, PL_OPERATION_copy, run_copy, copy);
  pl_fill_args fill = {};
  fill.y = z.tensor();
  BENCH(fill, size, one, fill);
  pl_column_sum_args columns = {};
  columns.x = x.tensor();
  columns.y = d_weight.tensor();
  BENCH(column_sum, size, one, columns);
  {
    std::vector<int32_t> to;
    for (int64_t i = 0; i < t; ++i) to.push_back(int32_t(i * 7 % t));
    pl_scatter_add_rows_args scatter = {};
    scatter.x = x.tensor();
    scatter.indices = int_tensor(to);
    scatter.y = y.tensor();
    BENCH(scatter_add_rows, size, 3 * one, scatter);
  }
  {
    const int64_t head = 64, heads = d / head, half = head / 2;
    Buffer cosines({t, half}), sines({t, half});
    std::vector<int32_t> positions;
    for (int64_t i = 0; i < t; ++i) positions.push_back(int32_t(i));
    pl_rope_args rope = {};
    rope.x = x.tensor();
    rope.x.rank = 3;
    rope.x.shape[1] = heads;
    rope.x.shape[2] = head;
    rope.x.strides[1] = head;
    rope.x.strides[2] = 1;
    rope.y = rope.x;
    rope.positions = int_tensor(positions);
    rope.cosines = cosines.tensor();
    rope.sines = sines.tensor();
    BENCH(rope, size, 2 * one, rope);
  }
  std::snprintf(size, sizeof size, "%ld x %ld", long(t), long(inner));
  const double wide = double(t) * double(inner) * 4;
  Buffer gate_up({t, 2 * inner}, 4), dy({t, inner}), d_gate_up({t, 2 * inner});
  const auto half_of = [&](Buffer& buffer, int64_t which) {
    pl_tensor tensor = buffer.tensor();
    tensor.data = static_cast<float*>(tensor.data) + which * inner;
    tensor.shape[1] = inner;
    return tensor;
  };
  pl_swiglu_args swiglu = {};
  swiglu.gate = half_of(gate_up, 0);
  swiglu.up = half_of(gate_up, 1);
  swiglu.y = dy.tensor();
  BENCH(swiglu, size, 3 * wide, swiglu);
  pl_swiglu_backward_args swiglu_back = {};
  swiglu_back.dy = dy.tensor();
  swiglu_back.gate = swiglu.gate;
  swiglu_back.up = swiglu.up;
  swiglu_back.d_gate = half_of(d_gate_up, 0);
  swiglu_back.d_up = half_of(d_gate_up, 1);
  BENCH(swiglu_backward, size, 5 * wide, swiglu_back);
}

void optimiser(Bench& bench, int64_t n) {
  char size[64];
  std::snprintf(size, sizeof size, "%ld", long(n));
  Buffer p({n}), g({n}), m({n}), v({n}), rate({1}), scale({1}), finite({1}), result({3});
  for (float& x : v.memory) x = x * x;
  std::vector<int32_t> step = {1};
  const pl_adamw_parameter parameter = {p.tensor(), g.tensor(), m.tensor(), v.tensor(), 1, 0.01f};
  pl_adamw_args adamw = {};
  adamw.parameters = &parameter;
  adamw.parameter_count = 1;
  adamw.beta1 = 0.9f;
  adamw.beta2 = 0.999f;
  adamw.epsilon = 1e-8f;
  adamw.learning_rate = rate.tensor();
  adamw.gradient_scale = scale.tensor();
  adamw.finite = finite.tensor();
  adamw.step = int_tensor(step);
  for (pl_tensor* one : {&adamw.learning_rate, &adamw.gradient_scale, &adamw.finite})
    *static_cast<float*>(one->data) = 1e-6f;
  BENCH(adamw, size, 7.0 * 4 * double(n), adamw);
  const pl_tensor gradient = g.tensor();
  pl_gradient_norm_args norm = {};
  norm.gradients = &gradient;
  norm.gradient_count = 1;
  norm.result = result.tensor();
  BENCH(gradient_norm, size, 4.0 * double(n), norm);
  pl_random_args random = {};
  random.y = p.tensor();
  random.second = 1;
  BENCH(random, "uniform", 4.0 * double(n), random);
  random.distribution = PL_NORMAL;
  BENCH(random, "normal", 4.0 * double(n), random);
  pl_quantile_args quantile = {};
  quantile.x = g.tensor();
  quantile.q = 0.9;
  quantile.absolute = 1;
  quantile.y = rate.tensor();
  BENCH(quantile, size, 12.0 * double(n), quantile);
}

void vocabulary(Bench& bench, int64_t t, int64_t n) {
  char size[64];
  std::snprintf(size, sizeof size, "%ld x %ld", long(t), long(n));
  const double one = double(t) * double(n) * 4;
  Buffer x({t, n}, 8), y({t, n}), values({t, 8}), settings({t}), logs({t});
  std::vector<int32_t> labels(size_t(t), 3), tokens(size_t(t), 0), k(size_t(t), 0),
      indices(size_t(t) * 8);
  pl_argmax_args argmax = {};
  argmax.x = x.tensor();
  argmax.indices = int_tensor(tokens);
  BENCH(argmax, size, one, argmax);
  pl_softmax_args softmax = {};
  softmax.x = x.tensor();
  softmax.scale = 1;
  softmax.y = y.tensor();
  BENCH(softmax, size, 2 * one, softmax);
  pl_log_probability_args log_probability = {};
  log_probability.x = x.tensor();
  log_probability.labels = int_tensor(labels);
  log_probability.y = logs.tensor();
  BENCH(log_probability, size, one, log_probability);
  pl_top_k_args top_k = {};
  top_k.x = x.tensor();
  top_k.values = values.tensor();
  top_k.indices = int_tensor(indices);
  top_k.indices.rank = 2;
  top_k.indices.shape[0] = t;
  top_k.indices.shape[1] = top_k.indices.strides[0] = 8;
  top_k.indices.strides[1] = 1;
  BENCH(top_k, size, one, top_k);
  pl_sample_args sample = {};
  sample.logits = x.tensor();
  sample.temperature = sample.top_p = settings.tensor();
  for (int64_t i = 0; i < t; ++i) static_cast<float*>(sample.top_p.data)[i] = 1;
  sample.top_k = int_tensor(k);
  sample.sample = sample.position = int_tensor(labels);
  sample.tokens = int_tensor(tokens);
  BENCH(sample, "all", one, sample);
  for (int64_t i = 0; i < t; ++i) static_cast<float*>(sample.top_p.data)[i] = 0.9f;
  BENCH(sample, "top_p 0.9", one, sample);
  for (int32_t& value : k) value = 50;
  BENCH(sample, "top_k 50, top_p 0.9", one, sample);
}

}  // namespace

int main(int count, char** arguments) {
  const InstructionSet set = instruction_set_of(count, arguments);
  Pool pool(threads_of(count, arguments), set);
  if (!prints_json()) std::printf("%s, %d threads\n", instruction_set_name(set), pool.threads());
  Bench bench{pool, {}};
  rows(bench, 512, 896, 4864);
  rows(bench, 2048, 192, 512);
  optimiser(bench, 4000000);
  vocabulary(bench, 8, 151936);
  return 0;
}
