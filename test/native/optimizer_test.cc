// adamw and gradient_norm against torch's numbers and float64.
#include "operation_test.h"

using namespace polylora;
using namespace polylora::test;

namespace {

double ulps(float value, double reference) {
  const float nearest = float(reference);
  const double unit =
      std::max(std::fabs(double(std::nextafter(nearest, INFINITY)) - double(nearest)), 1e-45);
  return std::fabs(double(value) - reference) / unit;
}

struct State {
  Floats p, g, m, v;
  float rate_scale = 1, decay = 0;
  State(Random& random, std::vector<int64_t> shape)
      : p(random, shape, Layout::contiguous),
        g(random, shape, Layout::contiguous),
        m(random, shape, Layout::contiguous),
        v(random, shape, Layout::contiguous) {}
  pl_adamw_parameter parameter() {
    return {p.tensor(), g.tensor(), m.tensor(), v.tensor(), rate_scale, decay};
  }
};

struct Step {
  Floats rate = scalar(2e-3f), gradient_scale = scalar(1), finite = scalar(1);
  Ints step = ints({1});
  pl_adamw_args args(const std::vector<pl_adamw_parameter>& parameters) {
    auto a = arguments<pl_adamw_args>();
    a.parameters = parameters.data();
    a.parameter_count = uint32_t(parameters.size());
    a.beta1 = 0.9f;
    a.beta2 = 0.999f;
    a.epsilon = 1e-8f;
    a.learning_rate = rate.tensor();
    a.step = step.tensor();
    a.gradient_scale = gradient_scale.tensor();
    a.finite = finite.tensor();
    return a;
  }
};

// Three steps of torch.optim.AdamW (2.13, foreach=False) with lr 2e-3, betas (0.9, 0.999), eps
// 1e-8, weight_decay 0.1.
void test_against_torch(Random& random) {
  const float start[5] = {0.5f, -1.25f, 3.0e-3f, 0.0f, -7.5f};
  const float gradients[3][5] = {{0.1f, -2.0f, 3.0e-5f, 0.0f, 1.0e3f},
                                 {0.3f, 1.0f, -4.0e-5f, 1.0e-9f, -2.0e3f},
                                 {-0.2f, 0.5f, 1.0e-5f, -1.0e-8f, 5.0e2f}};
  const double torch[3][3][5] = {
      {{0x1.fdd98p-2, -0x1.3f6c8cp+0, 0x1.062958p-10, 0x0p+0, -0x1.e00832p+2},
       {0x1.47ae16p-7, -0x1.99999ap-3, 0x1.92a736p-19, 0x0p+0, 0x1.9p+6},
       {0x1.4f8b5ap-17, 0x1.0624dep-8, 0x1.faa7aap-41, 0x0p+0, 0x1.f4p+9}},
      {{0x1.fbde38p-2, -0x1.3f394ap+0, 0x1.6b891cp-10, -0x1.9c576ap-14, -0x1.dfe39ep+2},
       {0x1.3f7cfp-5, -0x1.47ae14p-4, -0x1.5cf756p-20, 0x1.b7cdfep-34, -0x1.b8p+6},
       {0x1.a36374p-14, 0x1.476afap-8, 0x1.5fb79p-39, 0x1.2e3b4p-70, 0x1.387p+12}},
      {{0x1.fb3dp-2, -0x1.3f20e6p+0, 0x1.76a1f4p-10, 0x1.567de4p-12, -0x1.dfc692p+2},
       {0x1.eecc02p-7, -0x1.6872bp-6, -0x1.6d12ap-23, -0x1.f4471ep-31, -0x1.88p+5},
       {0x1.255ee2p-13, 0x1.577976p-8, 0x1.6d7068p-39, 0x1.dcf44ep-64, 0x1.47c004p+12}}};
  on_every_pool([&](cpu::Pool& pool, const std::string& name) {
    State state(random, {5});
    state.decay = 0.1f;
    for (int i = 0; i < 5; ++i) {
      state.p[i] = start[i];
      state.m[i] = state.v[i] = 0;
    }
    Step step;
    double worst = 0, size[3][5] = {};
    for (int i = 0; i < 5; ++i) size[0][i] = std::fabs(double(start[i]));
    for (int s = 0; s < 3; ++s) {
      step.step[0] = s + 1;
      // The scale is a power of two: the same numbers.
      step.gradient_scale[0] = s == 1 ? 0.25f : 1;
      for (int i = 0; i < 5; ++i) state.g[i] = gradients[s][i] / step.gradient_scale[0];
      const std::vector<pl_adamw_parameter> parameters = {state.parameter()};
      RUN(adamw, pool, step.args(parameters));
      for (int i = 0; i < 5; ++i) {
        // Cancellation leaves a rounding of what the element was.
        const float received[3] = {state.p[i], state.m[i], state.v[i]};
        for (int k = 0; k < 3; ++k) {
          size[k][i] = std::max(size[k][i], std::fabs(torch[s][k][i]));
          if (size[k][i] > 0)
            worst = std::max(worst, std::fabs(double(received[k]) - torch[s][k][i]) / size[k][i]);
        }
      }
    }
    expect(worst <= 0x1p-23,
           "adamw is torch's to a unit of the last place, " + name + ": " + std::to_string(worst));
  });
}

void test_many_tensors(Random& random) {
  const std::vector<std::vector<int64_t>> shapes = {{40000}, {3, 5},  {0, 7},
                                                    {1},     {16384}, {33, 1000}};
  const auto fresh = [&](Random r) {
    std::vector<State> states;
    for (const auto& shape : shapes) {
      states.emplace_back(r, shape);
      State& s = states.back();
      s.p.uniform(r);
      s.g.uniform(r);
      s.m.uniform(r, 0.1);
      s.v.fill([&] { return float(r.unit() * 0.01); });
      s.rate_scale = states.size() == 2 ? 16.0f : 1.0f;
      s.decay = states.size() % 2 ? 0.05f : 0.0f;
    }
    return states;
  };
  const Random source = random;
  random.next();
  Step step;
  step.step[0] = 7;
  step.gradient_scale[0] = 0.3f;
  for (const cpu::InstructionSet set : instruction_sets()) {
    std::vector<State> first;
    for (const int threads : kThreadCounts) {
      cpu::Pool pool(threads, set);
      std::vector<State> states = fresh(source), before = fresh(source);
      std::vector<pl_adamw_parameter> parameters;
      for (State& s : states) parameters.push_back(s.parameter());
      RUN(adamw, pool, step.args(parameters));
      if (threads == 1) {
        double worst = 0;
        for (size_t k = 0; k < states.size(); ++k)
          for (int64_t i = 0; i < states[k].p.count(); ++i) {
            const State& s = before[k];
            const double rate = double(step.rate[0]) * double(s.rate_scale),
                         g = double(s.g[i]) * double(0.3f);
            const double m = 0.9 * double(s.m[i]) + 0.1 * g,
                         v = 0.999 * double(s.v[i]) + 0.001 * g * g;
            const double p = double(s.p[i]) * (1 - rate * double(s.decay)) -
                             rate * (m / (1 - std::pow(0.9, 7))) /
                                 (std::sqrt(v / (1 - std::pow(0.999, 7))) + 1e-8);
            worst = std::max({worst, std::fabs(double(states[k].p[i]) - p),
                              std::fabs(double(states[k].m[i]) - m),
                              std::fabs(double(states[k].v[i]) - v)});
          }
        // Elements and steps below 1, a few roundings of 6e-8.
        expect(worst < 4e-7, "adamw against float64: " + std::to_string(worst));
        first = states;
      } else {
        bool same = true;
        for (size_t k = 0; k < states.size(); ++k)
          same = same && states[k].p.same(first[k].p) && states[k].m.same(first[k].m) &&
                 states[k].v.same(first[k].v);
        expect(same, "adamw with threads");
      }
      // Nothing changes on a step that is not finite.
      step.finite[0] = 0;
      std::vector<State> skipped = states;
      parameters.clear();
      for (State& s : skipped) parameters.push_back(s.parameter());
      RUN(adamw, pool, step.args(parameters));
      step.finite[0] = 1;
      bool same = true;
      for (size_t k = 0; k < states.size(); ++k)
        same = same && states[k].p.same(skipped[k].p) && states[k].m.same(skipped[k].m) &&
               states[k].v.same(skipped[k].v);
      expect(same, "adamw skips a step that is not finite");
      Step wrong;
      for (const int32_t bad : {0, -5}) {
        wrong.step[0] = bad;
        EXPECT_KERNEL_ERROR(adamw, pool, wrong.args(parameters), "step is " + std::to_string(bad));
      }
    }
  }
  Step step_of_check;
  State state(random, {4}), other(random, {5});
  std::vector<pl_adamw_parameter> parameters = {state.parameter()};
  auto args = step_of_check.args(parameters);
  parameters[0].variance = other.v.tensor();
  EXPECT_REFUSED(adamw, args, PL_SHAPE, "variance has shape [5]");
  parameters[0].variance = state.m.tensor();
  EXPECT_REFUSED(adamw, args, PL_ARGUMENT, "variance shares memory with moment");
  parameters[0] = state.parameter();
  args.beta2 = 1;
  EXPECT_REFUSED(adamw, args, PL_ARGUMENT, "beta2");
  args.beta2 = 0.99f;
  args.parameters = nullptr;
  EXPECT_REFUSED(adamw, args, PL_ARGUMENT, "parameters is missing");
}

void test_gradient_norm(Random& random) {
  std::vector<Floats> gradients;
  for (const auto& shape :
       std::vector<std::vector<int64_t>>{{50000}, {3, 7}, {0}, {16384}, {1}, {20, 1000}})
    gradients.emplace_back(random, shape, Layout::contiguous);
  double squares = 0;
  std::vector<pl_tensor> tensors;
  for (Floats& g : gradients) {
    g.uniform(random);
    for (int64_t i = 0; i < g.count(); ++i) squares += double(g[i]) * double(g[i]);
    tensors.push_back(g.tensor());
  }
  const double norm = std::sqrt(squares);
  for (const cpu::InstructionSet set : instruction_sets()) {
    Floats first;
    for (const int threads : kThreadCounts) {
      cpu::Pool pool(threads, set);
      Floats result(random, {3}, Layout::contiguous), watched(random, {9}, Layout::contiguous);
      watched.uniform(random);
      auto args = arguments<pl_gradient_norm_args>();
      args.gradients = tensors.data();
      args.gradient_count = uint32_t(tensors.size());
      args.max_norm = 2;
      args.watched = watched.tensor();
      args.result = result.tensor();
      RUN(gradient_norm, pool, args);
      expect(result.written() && ulps(result[0], norm) <= 1, "the norm");
      expect(ulps(result[1], 2 / (norm + 1e-6)) <= 2 && result[2] == 1, "the coefficient");
      if (threads == 1) first = result;
      expect(first.same(result), "gradient_norm with threads");
      args.max_norm = 1e9f;
      RUN(gradient_norm, pool, args);
      expect(result[1] == 1, "a norm below the bound");
      args.max_norm = 0;
      RUN(gradient_norm, pool, args);
      expect(result[1] == 1, "no clipping");
      args.max_norm = 2;
      for (const float bad : {NAN, INFINITY, -INFINITY}) {
        watched[4] = bad;
        RUN(gradient_norm, pool, args);
        expect(result[2] == 0 && ulps(result[0], norm) <= 1, "a loss that is not finite");
        watched[4] = 1;
        for (const size_t at : {size_t(0), size_t(1), size_t(4)}) {
          const float before = gradients[at][gradients[at].count() - 1];
          gradients[at][gradients[at].count() - 1] = bad;
          RUN(gradient_norm, pool, args);
          expect(result[2] == 0, "a gradient that is not finite");
          gradients[at][gradients[at].count() - 1] = before;
        }
      }
      // The square of the norm is beyond float.
      Floats large(random, {2}, Layout::contiguous);
      large[0] = 3e30f;
      large[1] = 4e30f;
      const pl_tensor tensor = large.tensor();
      args.gradients = &tensor;
      args.gradient_count = 1;
      RUN(gradient_norm, pool, args);
      expect(result[0] == 5e30f && result[2] == 1, "a large norm");
      args.gradient_count = 0;
      args.gradients = nullptr;
      RUN(gradient_norm, pool, args);
      expect(result[0] == 0 && result[1] == 1 && result[2] == 1, "no gradients");
    }
  }
  // torch.nn.utils.clip_grad_norm_ of (3, -4, 12) and (0.5): norm 13.0096..., bound 1.
  cpu::Pool pool(1, cpu::detect_instruction_set());
  Floats a(random, {3}, Layout::contiguous), b = scalar(0.5f),
                                             result(random, {3}, Layout::contiguous);
  a[0] = 3;
  a[1] = -4;
  a[2] = 12;
  const pl_tensor both[] = {a.tensor(), b.tensor()};
  auto args = arguments<pl_gradient_norm_args>();
  args.gradients = both;
  args.gradient_count = 2;
  args.max_norm = 1;
  args.result = result.tensor();
  RUN(gradient_norm, pool, args);
  expect(result[0] == 0x1.a04ebep+3f && ulps(result[1] * 12, 0x1.d84424p-1) <= 2,
         "torch's clipping");
}

}  // namespace

int main(int count, char** arguments_of_run) {
  Random random{seed_of(count, arguments_of_run)};
  test_against_torch(random);
  test_many_tensors(random);
  test_gradient_norm(random);
  return report();
}
