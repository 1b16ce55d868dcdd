// rms_norm, swiglu, softmax and their backwards, log_probability and segmented_matmul against
// float64.
#include "operation_test.h"

using namespace polylora;
using namespace polylora::test;

namespace {

std::vector<double> doubles(const Floats& x) {
  std::vector<double> values;
  for (int64_t i = 0; i < x.count(); ++i) values.push_back(double(x[i]));
  return values;
}

// Another place in memory with the same values: the bits must not depend on strides.
void test_rms_norm(Random& random, std::vector<int64_t> shape) {
  const int64_t d = shape.back();
  int64_t rows = 1;
  for (size_t i = 0; i + 1 < shape.size(); ++i) rows *= shape[i];
  const float epsilon = 1e-5f;
  Floats x(random, shape), weight(random, {d}), dy(random, shape), residual(random, shape);
  x.uniform(random, 2);
  weight.uniform(random);
  dy.uniform(random);
  residual.uniform(random);
  Floats d_weight_start(random, {d});
  d_weight_start.uniform(random);

  double dx_terms = 0;  // the largest of the terms that dx is a difference of
  std::vector<double> y_reference, rstd_reference, dx_reference,
      d_weight_reference = doubles(d_weight_start);
  for (int64_t r = 0; r < rows; ++r) {
    double squares = 0, mean = 0;
    for (int64_t i = 0; i < d; ++i) squares += double(x[r * d + i]) * double(x[r * d + i]);
    const double rstd = 1 / std::sqrt(squares / double(d) + double(epsilon));
    rstd_reference.push_back(rstd);
    for (int64_t i = 0; i < d; ++i) {
      const double normed = double(x[r * d + i]) * rstd;
      y_reference.push_back(normed * double(weight[i]));
      mean += double(dy[r * d + i]) * double(weight[i]) * normed / double(d);
      d_weight_reference[size_t(i)] += double(dy[r * d + i]) * normed;
    }
    for (int64_t i = 0; i < d; ++i) {
      dx_terms = std::max(dx_terms, rstd * std::fabs(double(dy[r * d + i]) * double(weight[i])));
      dx_reference.push_back(
          rstd * (double(dy[r * d + i]) * double(weight[i]) - double(x[r * d + i]) * rstd * mean));
    }
  }
  std::vector<double> dx_with_residual = dx_reference;
  for (int64_t i = 0; i < rows * d; ++i) dx_with_residual[size_t(i)] += double(residual[i]);

  for (const cpu::InstructionSet set : instruction_sets()) {
    Floats first_d_weight, first_dx, first_y;
    for (const int threads : kThreadCounts) {
      cpu::Pool pool(threads, set);
      const std::string name = std::string(cpu::instruction_set_name(set)) + ", D " +
                               std::to_string(d) + ", rows " + std::to_string(rows) + ", threads " +
                               std::to_string(threads);
      Floats y(random, shape);
      Floats rstd(random, std::vector<int64_t>(shape.begin(), shape.end() - 1), Layout::contiguous);
      auto args = arguments<pl_rms_norm_args>();
      args.x = x.tensor();
      args.weight = weight.tensor();
      args.epsilon = epsilon;
      args.y = y.tensor();
      args.rstd = rstd.tensor();
      RUN(rms_norm, pool, args);
      expect(y.written() && rstd.written(), "rms_norm writes its outputs, " + name);
      close(y, y_reference, 1e-6, "rms_norm, " + name);
      close(rstd, rstd_reference, 1e-6, "rstd, " + name);
      Floats in_place = x;
      args.x = args.y = in_place.tensor();
      args.rstd = {};
      RUN(rms_norm, pool, args);
      expect(in_place.same(y), "rms_norm in place, " + name);
      if (rows > 1 && shape.size() == 2) {
        // The last row alone has the bits it has among the others.
        Floats last(random, {1, d}), last_y(random, {1, d});
        for (int64_t i = 0; i < d; ++i) last[i] = x[(rows - 1) * d + i];
        args.x = last.tensor();
        args.y = last_y.tensor();
        RUN(rms_norm, pool, args);
        bool same = true;
        for (int64_t i = 0; i < d; ++i) same = same && same_bits(last_y[i], y[(rows - 1) * d + i]);
        expect(same, "a row alone, " + name);
      }

      auto backward = arguments<pl_rms_norm_backward_args>();
      Floats dx(random, shape), d_weight = d_weight_start;
      backward.dy = dy.tensor();
      backward.x = x.tensor();
      backward.weight = weight.tensor();
      backward.rstd = rstd.tensor();
      backward.dx = dx.tensor();
      RUN(rms_norm_backward, pool, backward);
      expect(dx.written(), "rms_norm_backward writes dx, " + name);
      close(dx, dx_reference, 3e-6, "dx, " + name, dx_terms);
      Floats dx_again(random, shape);
      backward.dx = dx_again.tensor();
      backward.d_weight = d_weight.tensor();
      RUN(rms_norm_backward, pool, backward);
      expect(dx_again.same(dx), "dx does not depend on d_weight, " + name);
      close(d_weight, d_weight_reference, 3e-6, "d_weight, " + name, std::sqrt(double(rows)));

      // In place of dy, and of the residual.
      Floats over_dy = dy, over_residual = residual, d_weight_again = d_weight_start;
      backward.d_weight = d_weight_again.tensor();
      backward.residual = residual.tensor();
      backward.dy = backward.dx = over_dy.tensor();
      RUN(rms_norm_backward, pool, backward);
      close(over_dy, dx_with_residual, 3e-6, "dx over dy, " + name, dx_terms);
      expect(d_weight_again.same(d_weight), "d_weight in place, " + name);
      backward.d_weight = {};
      backward.dy = dy.tensor();
      backward.residual = backward.dx = over_residual.tensor();
      RUN(rms_norm_backward, pool, backward);
      expect(over_residual.same(over_dy), "dx over the residual, " + name);
      if (threads == 1) {
        first_d_weight = d_weight;
        first_dx = dx;
        first_y = y;
      }
      expect(first_d_weight.same(d_weight) && first_dx.same(dx) && first_y.same(y),
             "the same bits, " + name);
    }
  }
}

void test_rms_norm_checks(Random& random) {
  Floats x(random, {3, 4}), weight(random, {5}), y(random, {3, 4});
  auto args = arguments<pl_rms_norm_args>();
  args.x = x.tensor();
  args.weight = weight.tensor();
  args.epsilon = 1e-6f;
  args.y = y.tensor();
  EXPECT_REFUSED(rms_norm, args, PL_SHAPE, "weight has shape [5], must be [4]");
  args.weight.shape[0] = 4;
  args.epsilon = NAN;
  EXPECT_REFUSED(rms_norm, args, PL_ARGUMENT, "epsilon");
  args.epsilon = 0;
  args.x.strides[1] = 2;
  EXPECT_REFUSED(rms_norm, args, PL_ARGUMENT, "x has stride 2");
  args.x = y.tensor();
  args.x.data = static_cast<float*>(args.x.data) + 1;
  EXPECT_REFUSED(rms_norm, args, PL_ARGUMENT, "y overlaps x in part");
  args.x = x.tensor();
  args.header.size = 8;
  EXPECT_REFUSED(rms_norm, args, PL_ARGUMENT, "header.size");
}

void test_swiglu(Random& random) {
  for (const int64_t n : {1, 15, 33, 600, 17000}) {
    const int64_t t = n > 1000 ? 3 : 1 + random.below(40);
    Floats gate(random, {t, n}), up(random, {t, n}), dy(random, {t, n});
    gate.uniform(random, 6);
    up.uniform(random);
    dy.uniform(random);
    gate[0] = -200;  // exp(200) is beyond float
    gate[t * n - 1] = 200;
    std::vector<double> y_reference, d_gate_reference, d_up_reference;
    for (int64_t i = 0; i < t * n; ++i) {
      const double g = double(gate[i]), s = 1 / (1 + std::exp(-g));
      y_reference.push_back(g * s * double(up[i]));
      d_gate_reference.push_back(double(dy[i]) * double(up[i]) * s * (1 + g * (1 - s)));
      d_up_reference.push_back(double(dy[i]) * g * s);
    }
    for (const cpu::InstructionSet set : instruction_sets()) {
      Floats first;
      for (const int threads : kThreadCounts) {
        cpu::Pool pool(threads, set);
        const std::string name =
            std::string(cpu::instruction_set_name(set)) + ", " + std::to_string(n);
        Floats y(random, {t, n}), d_gate(random, {t, n}), d_up(random, {t, n});
        auto args = arguments<pl_swiglu_args>();
        args.gate = gate.tensor();
        args.up = up.tensor();
        args.y = y.tensor();
        RUN(swiglu, pool, args);
        auto backward = arguments<pl_swiglu_backward_args>();
        backward.dy = dy.tensor();
        backward.gate = gate.tensor();
        backward.up = up.tensor();
        backward.d_gate = d_gate.tensor();
        backward.d_up = d_up.tensor();
        RUN(swiglu_backward, pool, backward);
        expect(y.written() && d_gate.written() && d_up.written(),
               "swiglu writes its outputs, " + name);
        // A few roundings of each element; the reference's largest is 200 where |up| is near 1.
        bool near = true;
        for (int64_t i = 0; i < t * n; ++i)
          near = near &&
                 std::fabs(double(y[i]) - y_reference[size_t(i)]) <=
                     1e-6 * (std::fabs(double(gate[i] * up[i])) + 1e-3) &&
                 std::fabs(double(d_gate[i]) - d_gate_reference[size_t(i)]) <=
                     2e-6 * (1 + std::fabs(double(gate[i]))) &&
                 std::fabs(double(d_up[i]) - d_up_reference[size_t(i)]) <=
                     1e-6 * (std::fabs(double(gate[i])) + 1e-3);
        expect(near, "swiglu, " + name);
        Floats gate_in_place = gate, up_in_place = up, y_in_place = gate;
        args.gate = args.y = y_in_place.tensor();
        RUN(swiglu, pool, args);
        backward.gate = backward.d_gate = gate_in_place.tensor();
        backward.up = backward.d_up = up_in_place.tensor();
        RUN(swiglu_backward, pool, backward);
        expect(y_in_place.same(y) && gate_in_place.same(d_gate) && up_in_place.same(d_up),
               "swiglu in place, " + name);
        if (threads == 1) first = y;
        expect(first.same(y), "swiglu with threads, " + name);
      }
    }
  }
}

void test_softmax(Random& random) {
  for (const int64_t n : {1, 4, 17, 100, 9001}) {
    const int64_t t = n > 1000 ? 2 : 1 + random.below(40);
    const float scale = n == 4 ? -2.5f : 3;
    Floats x(random, {t, n}), dy(random, {t, n});
    x.uniform(random, 3);
    dy.uniform(random);
    if (n > 4) x[1] = -INFINITY;
    std::vector<int32_t> labels;
    std::vector<double> y_reference, dx_reference, log_reference;
    for (int64_t r = 0; r < t; ++r) {
      labels.push_back(int32_t(random.below(n)));
      double sum = 0, mean = 0, plain = 0;
      std::vector<double> y;
      for (int64_t i = 0; i < n; ++i) {
        sum += std::exp(double(scale) * double(x[r * n + i]));
        plain += std::exp(double(x[r * n + i]));
      }
      for (int64_t i = 0; i < n; ++i) {
        y.push_back(std::exp(double(scale) * double(x[r * n + i])) / sum);
        mean += y.back() * double(dy[r * n + i]);
      }
      for (int64_t i = 0; i < n; ++i) {
        y_reference.push_back(y[size_t(i)]);
        dx_reference.push_back(double(scale) * y[size_t(i)] * (double(dy[r * n + i]) - mean));
      }
      if (n > 4 && r == 0) labels[0] = 2;
      log_reference.push_back(double(x[r * n + labels.back()]) - std::log(plain));
    }
    Ints label_tensor = ints(labels);
    on_every_pool([&](cpu::Pool& pool, const std::string& set) {
      const std::string name = set + ", " + std::to_string(n);
      Floats y(random, {t, n}), dx(random, {t, n}), logs(random, {t});
      auto args = arguments<pl_softmax_args>();
      args.x = x.tensor();
      args.scale = scale;
      args.y = y.tensor();
      RUN(softmax, pool, args);
      auto backward = arguments<pl_softmax_backward_args>();
      backward.dy = dy.tensor();
      backward.y = y.tensor();
      backward.scale = scale;
      backward.dx = dx.tensor();
      RUN(softmax_backward, pool, backward);
      auto log_args = arguments<pl_log_probability_args>();
      log_args.x = x.tensor();
      log_args.labels = label_tensor.tensor();
      log_args.y = logs.tensor();
      RUN(log_probability, pool, log_args);
      expect(y.written() && dx.written() && logs.written(), "softmax writes its outputs, " + name);
      close(y, y_reference, 3e-6, "softmax, " + name);
      close(dx, dx_reference, 2e-5, "softmax_backward, " + name);
      close(logs, log_reference, 1e-6, "log_probability, " + name, 1);
      Floats x_in_place = x, dy_in_place = dy;
      args.x = args.y = x_in_place.tensor();
      RUN(softmax, pool, args);
      backward.dy = backward.dx = dy_in_place.tensor();
      RUN(softmax_backward, pool, backward);
      expect(x_in_place.same(y) && dy_in_place.same(dx), "softmax in place, " + name);
      for (const int32_t bad : {-1, int32_t(n), 2147483647}) {
        Ints wrong = label_tensor;
        wrong[t - 1] = bad;
        log_args.labels = wrong.tensor();
        EXPECT_KERNEL_ERROR(log_probability, pool, log_args, "labels[");
      }
    });
  }
}

void test_segmented_matmul(Random& random) {
  for (const int64_t r : {1, 5, 16, 40}) {
    const int64_t t = 1 + random.below(90), segments = 3;
    Floats x(random, {t, r}), dy(random, {t, r}), w(random, {segments, r, r}),
        start(random, {segments, r, r});
    x.uniform(random);
    dy.uniform(random);
    w.uniform(random);
    start.uniform(random);
    std::vector<int32_t> of;
    std::vector<double> plain, transposed, d_w = doubles(start);
    for (int64_t i = 0; i < t; ++i) {
      const int64_t e = random.below(segments - (t > 1 ? 0 : 1));
      of.push_back(int32_t(e));
      for (int64_t j = 0; j < r; ++j) {
        double a = 0, b = 0;
        for (int64_t k = 0; k < r; ++k) {
          a += double(x.at(i, k)) * double(w.at(e, k, j));
          b += double(x.at(i, k)) * double(w.at(e, j, k));
          d_w[size_t((e * r + k) * r + j)] += double(x.at(i, k)) * double(dy.at(i, j));
        }
        plain.push_back(a);
        transposed.push_back(b);
      }
    }
    Ints segment_of = ints(of);
    for (const cpu::InstructionSet set : instruction_sets()) {
      Floats first;
      for (const int threads : kThreadCounts) {
        cpu::Pool pool(threads, set);
        Floats y(random, {t, r}), gradient = start;
        auto args = arguments<pl_segmented_matmul_args>();
        args.x = x.tensor();
        args.w = w.tensor();
        args.segment_of = segment_of.tensor();
        args.y = y.tensor();
        RUN(segmented_matmul, pool, args);
        expect(y.written(), "segmented_matmul writes y");
        close(y, plain, 2e-6, "segmented_matmul");
        args.transpose = 1;
        RUN(segmented_matmul, pool, args);
        close(y, transposed, 2e-6, "segmented_matmul transposed");
        auto backward = arguments<pl_segmented_matmul_backward_args>();
        backward.x = x.tensor();
        backward.dy = dy.tensor();
        backward.segment_of = segment_of.tensor();
        backward.d_w = gradient.tensor();
        RUN(segmented_matmul_backward, pool, backward);
        close(gradient, d_w, 3e-6, "segmented_matmul_backward");
        if (threads == 1) first = gradient;
        expect(first.same(gradient), "segmented_matmul_backward with threads");
        Ints wrong = segment_of;
        wrong[0] = 3;
        args.segment_of = backward.segment_of = wrong.tensor();
        EXPECT_KERNEL_ERROR(segmented_matmul, pool, args, "segment_of[0] is 3, allowed are 0 to 2");
        EXPECT_KERNEL_ERROR(segmented_matmul_backward, pool, backward, "segment_of[0] is 3");
      }
    }
  }
}

}  // namespace

int main(int count, char** arguments_of_run) {
  Random random{seed_of(count, arguments_of_run)};
  test_rms_norm(random, {37, 1});
  test_rms_norm(random, {0, 16});
  test_rms_norm(random, {5, 33});
  test_rms_norm(random, {111, 192});
  test_rms_norm(random, {40, 897});
  test_rms_norm(random, {21, 7, 64});
  test_rms_norm(random, {9, 5, 30});
  test_rms_norm(random, {3, 20000});
  test_rms_norm_checks(random);
  test_swiglu(random);
  test_softmax(random);
  test_segmented_matmul(random);
  return report();
}
