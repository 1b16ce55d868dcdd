// The formulas of torch.optim.AdamW (foreach=False), in its order of operations. With g =
// gradient_scale * gradient and lr = learning_rate * learning_rate_scale:
//
//   p = p * (1 - lr * weight_decay)
//   m = m + (1 - beta1) * (g - m)
//   v = v * beta2 + (1 - beta2) * g * g
//   p = p - lr / (1 - beta1^step) * m / (sqrt(v) / sqrt(1 - beta2^step) + epsilon)
//
// The scalars are computed in double and rounded to float once.
#ifndef PL_TARGET_FILE
#define PL_TARGET_FILE "cpu/adamw.cc"

#include <cmath>
#include <vector>

#include "cpu/indices.h"
#include "cpu/operations.h"
#include "cpu/rows.h"

namespace polylora::cpu {
namespace {

struct AdamwScalars {
  float gradient_scale;
  float decay;                     // 1 - lr * weight_decay
  float moment_weight;             // 1 - beta1
  float beta2, variance_weight;    // 1 - beta2
  float step_size;                 // lr / (1 - beta1^step)
  float root_correction, epsilon;  // sqrt(1 - beta2^step)
};

}  // namespace
}  // namespace polylora::cpu

#endif
#include "cpu/for_each_target.h"

#ifdef PL_TARGET

namespace polylora::cpu::PL_TARGET {
namespace {

void adamw(const AdamwScalars& s, float* p, const float* g, float* m, float* v, int64_t n) {
  const Floats gradient_scale = broadcast(s.gradient_scale), decay = broadcast(s.decay);
  const Floats moment_weight = broadcast(s.moment_weight);
  const Floats beta2 = broadcast(s.beta2), variance_weight = broadcast(s.variance_weight);
  const Floats step_size = broadcast(s.step_size);
  const Floats root_correction = broadcast(s.root_correction), epsilon = broadcast(s.epsilon);
  for (int64_t i = 0; i < n; i += kLanes) {
    const int64_t left = n - i;
    const Floats gradient = load_some(g + i, left) * gradient_scale;
    Floats moment = load_some(m + i, left), variance = load_some(v + i, left);
    moment = fma(moment_weight, gradient - moment, moment);  // as torch's lerp
    variance = variance * beta2 + variance_weight * gradient * gradient;
    const Floats denominator = square_root(variance) / root_correction + epsilon;
    const Floats parameter = load_some(p + i, left) * decay - step_size * moment / denominator;
    store_some(p + i, parameter, left);
    store_some(m + i, moment, left);
    store_some(v + i, variance, left);
  }
}

}  // namespace
}  // namespace polylora::cpu::PL_TARGET

#else

namespace polylora::cpu {

namespace {

// The shortest decimal that is this float: 0.999f stands for 0.999, and 1 - beta is taken from
// that. Otherwise the rounding of beta, 1.3e-8 of 0.999, would be 1.3e-5 of 1 - beta.
double decimal_of(float value) {
  for (double scale = 10; scale <= 1e8; scale *= 10) {
    const double decimal = std::nearbyint(double(value) * scale) / scale;
    if (float(decimal) == value) return decimal;
  }
  return value;
}

float scalar_of(const pl_tensor& tensor) { return *static_cast<const float*>(tensor.data); }

}  // namespace

void run_adamw(Pool& pool, const pl_adamw_args& args) {
  if (scalar_of(args.finite) == 0) return;
  const int32_t step = *ints_of(args.step);
  if (step < 1)
    throw KernelError("adamw: step is " + std::to_string(step) + ", must be at least 1");
  const double beta1 = decimal_of(args.beta1), beta2 = decimal_of(args.beta2);
  const double correction1 = 1 - std::pow(beta1, step), correction2 = 1 - std::pow(beta2, step);

  constexpr int64_t kElements = 16384;
  struct Piece {
    uint32_t parameter;
    int64_t begin;
  };
  std::vector<Piece> pieces;
  std::vector<AdamwScalars> scalars;
  for (uint32_t i = 0; i < args.parameter_count; ++i) {
    const pl_adamw_parameter& parameter = args.parameters[i];
    const double learning_rate =
        double(scalar_of(args.learning_rate)) * double(parameter.learning_rate_scale);
    AdamwScalars s;
    s.gradient_scale = scalar_of(args.gradient_scale);
    s.decay = float(1 - learning_rate * double(parameter.weight_decay));
    s.moment_weight = float(1 - beta1);
    s.beta2 = float(beta2);
    s.variance_weight = float(1 - beta2);
    s.step_size = float(learning_rate / correction1);
    s.root_correction = float(std::sqrt(correction2));
    s.epsilon = args.epsilon;
    scalars.push_back(s);
    const int64_t count = elements_of(parameter.parameter);
    for (int64_t begin = 0; begin < count; begin += kElements) pieces.push_back({i, begin});
  }
  const auto adamw = PL_SELECT(pool, adamw);
  pool.parallel(int64_t(pieces.size()), [&](int64_t index, Worker&) {
    const Piece& piece = pieces[size_t(index)];
    const pl_adamw_parameter& parameter = args.parameters[piece.parameter];
    const int64_t rest = elements_of(parameter.parameter) - piece.begin;
    adamw(scalars[piece.parameter], static_cast<float*>(parameter.parameter.data) + piece.begin,
          static_cast<const float*>(parameter.gradient.data) + piece.begin,
          static_cast<float*>(parameter.moment.data) + piece.begin,
          static_cast<float*>(parameter.variance.data) + piece.begin,
          rest < kElements ? rest : kElements);
  });
}

}  // namespace polylora::cpu

#endif
