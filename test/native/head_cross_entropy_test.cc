// head_cross_entropy against float64 on every instruction set the processor has.
#include "cpu/weight.h"
#include "native_test.h"

using namespace polylora;
using namespace polylora::cpu;
using namespace polylora::test;

namespace {

struct Case {
  int64_t rows, width, vocabulary, labelled;
  pl_dtype storage, compute;
  Matrix x, w, loss_scale, row_weight;
  IntVector labelled_rows, labels, argmax;
  Matrix loss, d_x, d_weight, d_weight_before;
  std::unique_ptr<Weight> weight;
  bool weighted;
  std::string name;

  Case(Random& random, int64_t t, int64_t d, int64_t v, bool all, pl_dtype s, pl_dtype c)
      : rows(t), width(d), vocabulary(v), storage(s), compute(c) {
    x = Matrix(random, t, d, true);
    w = Matrix(random, v, d, true);
    for (float& value : w.data) value *= 3;
    loss_scale = Matrix(random, 1, 1, true);
    for (int64_t i = 0; i < t; ++i)
      if (all || random.below(2)) {
        labelled_rows.data.push_back(int32_t(i));
        labels.data.push_back(int32_t(random.below(v)));
      }
    labelled = int64_t(labels.data.size());
    weighted = random.below(2);
    row_weight = Matrix(random, 1, labelled, true);
    argmax.data.assign(size_t(labelled), -7);
    loss = Matrix(random, 1, labelled, false);
    d_x = Matrix(random, t, d, false);
    d_weight = d_weight_before = Matrix(random, v, d, true);
    weight.reset(new Weight(v, d, s, c));
    Pool pool(1, detect_instruction_set());
    auto args = arguments<pl_weight_update_args>();
    args.weight = weight->handle;
    args.source = w.tensor();
    run_weight_update(pool, args);
    name = std::to_string(t) + "x" + std::to_string(d) + "x" + std::to_string(v) + " " +
           std::to_string(labelled) + " labelled, weight " + std::to_string(s) + "/" +
           std::to_string(c) + " ";
  }

  pl_status run(Pool& pool, bool gradients) {
    auto args = arguments<pl_head_cross_entropy_args>();
    args.x = x.tensor();
    args.weight = weight->handle;
    args.rows = labelled_rows.tensor();
    args.labels = labels.tensor();
    if (weighted) args.row_weight = row_weight.vector();
    args.loss_scale = loss_scale.vector();
    args.loss = loss.vector();
    args.argmax = argmax.tensor();
    if (gradients) {
      args.d_x = d_x.tensor();
      args.d_weight = d_weight.tensor();
    }
    const pl_status status = pl_check_head_cross_entropy(&args);
    if (status.code != PL_OK) return status;
    std::vector<float> workspace(
        workspace_of(PL_OPERATION_head_cross_entropy, &args, pool.threads()) / 4, poison());
    args.header.workspace = workspace.data();
    args.header.workspace_bytes = workspace.size() * 4;
    run_head_cross_entropy(pool, args);
    return status;
  }

  double weight_at(int64_t i, int64_t j) const {
    return storage == PL_BF16 ? double(bf16_to_float(float_to_bf16(w.at(i, j))))
                              : double(w.at(i, j));
  }
  double x_at(int64_t i, int64_t j) const {
    return compute == PL_BF16 ? double(bf16_to_float(float_to_bf16(x.at(i, j))))
                              : double(x.at(i, j));
  }

  void check(const char* set, bool gradients) {
    // Rounding the gradient of the logits to bf16 costs 2^-9 of each of its terms.
    const double rounding = compute == PL_BF16 ? 0x1p-8 : 0;
    std::vector<double> dx(size_t(rows * width)), dx_size(dx), dw(size_t(vocabulary * width)),
        dw_size(dw);
    bool losses = true, best = true;
    for (int64_t l = 0; l < labelled; ++l) {
      const int64_t row = labelled_rows.data[size_t(l)], label = labels.data[size_t(l)];
      std::vector<double> logits(static_cast<size_t>(vocabulary));
      double top = -INFINITY, total = 0;
      for (int64_t v = 0; v < vocabulary; ++v) {
        for (int64_t j = 0; j < width; ++j) logits[size_t(v)] += x_at(row, j) * weight_at(v, j);
        top = std::max(top, logits[size_t(v)]);
      }
      for (double logit : logits) total += std::exp(logit - top);
      const double expected = top + std::log(total) - logits[size_t(label)];
      losses = losses &&
               std::fabs(loss.at(0, l) - expected) <
                   4e-6 * (1 + std::fabs(top) + std::fabs(expected)) * std::sqrt(double(width));
      const int64_t got = argmax.data[size_t(l)];
      best = best && got >= 0 && got < vocabulary && logits[size_t(got)] > top - 1e-4;
      const double scale = (weighted ? row_weight.at(0, l) : 1.0) * loss_scale.at(0, 0);
      for (int64_t v = 0; v < vocabulary; ++v) {
        const double probability = std::exp(logits[size_t(v)] - top) / total;
        const double g = scale * (probability - (v == label));
        const double size = std::fabs(scale) * (probability + (v == label));  // before it cancels
        for (int64_t j = 0; j < width; ++j) {
          dx[size_t(row * width + j)] += g * weight_at(v, j);
          dx_size[size_t(row * width + j)] += size * std::fabs(weight_at(v, j));
          dw[size_t(v * width + j)] += g * x.at(row, j);
          dw_size[size_t(v * width + j)] += size * std::fabs(x.at(row, j));
        }
      }
    }
    expect(losses && loss.written(), name + set + ": losses");
    expect(best, name + set + ": argmax");
    if (!gradients) return;
    bool x_close = d_x.written(), w_close = d_weight.written();
    double worst = 0;
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < width; ++j) {
        const size_t at = size_t(i * width + j);
        const double error = std::fabs(d_x.at(i, j) - dx[at]);
        if (dx_size[at] > 0) worst = std::max(worst, error / dx_size[at]);
        x_close = x_close && error <= dx_size[at] * (3e-6 * std::sqrt(double(width)) + rounding);
      }
    for (int64_t i = 0; i < vocabulary; ++i)
      for (int64_t j = 0; j < width; ++j) {
        const size_t at = size_t(i * width + j);
        const double error = std::fabs(d_weight.at(i, j) - d_weight_before.at(i, j) - dw[at]);
        w_close = w_close && error <= dw_size[at] * 3e-6 * std::sqrt(double(width)) + 2e-7;
      }
    expect(x_close, name + set + ": d_x, worst " + std::to_string(worst));
    expect(w_close, name + set + ": d_weight");
  }
};

void test_values(Random& random) {
  const int64_t shapes[][3] = {{1, 1, 1},     {1, 5, 2},      {7, 13, 33},
                               {40, 64, 100}, {300, 24, 401}, {130, 33, 1029}};
  const pl_dtype kinds[][2] = {{PL_F32, PL_F32}, {PL_BF16, PL_F32}, {PL_BF16, PL_BF16}};
  for (InstructionSet set : instruction_sets())
    for (const auto& shape : shapes)
      for (const auto& kind : kinds) {
        Case c(random, shape[0], shape[1], shape[2], random.below(2), kind[0], kind[1]);
        const char* name = instruction_set_name(set);
        Pool one(1, set);
        if (!expect(accepted(c.run(one, true)), "head_cross_entropy is accepted")) continue;
        c.check(name, true);
        for (int threads : {2, 4}) {
          const Matrix loss = c.loss, d_x = c.d_x, d_weight = c.d_weight;
          c.d_weight = c.d_weight_before;
          Pool pool(threads, set);
          c.run(pool, true);
          expect(c.loss.same(loss) && c.d_x.same(d_x) && c.d_weight.same(d_weight),
                 c.name + name + ": bits with more threads");
        }
        // Without gradients the losses are the same.
        const Matrix loss = c.loss;
        c.run(one, false);
        expect(c.loss.same(loss), c.name + name + ": losses without gradients");
        // One labelled row alone gives the same bits.
        if (c.labelled > 1) {
          const size_t at = size_t(random.below(c.labelled));
          const Matrix d_x = c.d_x;
          const int32_t row = c.labelled_rows.data[at];
          c.labelled_rows.data = {row};
          c.labels.data = {c.labels.data[at]};
          c.argmax.data = {0};
          const float weight = c.row_weight.at(0, int64_t(at));
          c.loss.columns = c.row_weight.columns = 1;
          c.row_weight.at(0, 0) = weight;
          c.run(one, true);
          bool same = same_bits(c.loss.at(0, 0), loss.at(0, int64_t(at)));
          for (int64_t i = 0; i < c.rows; ++i)
            for (int64_t j = 0; j < c.width; ++j)
              same = same && same_bits(c.d_x.at(i, j), i == row ? d_x.at(i, j) : 0.0f);
          expect(same, c.name + name + ": bits of one row alone");
        }
      }
}

void expect_thrown(Pool& pool, Case& c, const char* part) {
  std::string message = "nothing";
  try {
    c.run(pool, true);
  } catch (const KernelError& error) {
    message = error.what();
  }
  expect(message.find(part) != std::string::npos,
         std::string("'") + part + "', received '" + message + "'");
}

void test_bad_values(Random& random) {
  Pool pool(2, detect_instruction_set());
  Case c(random, 20, 8, 50, true, PL_F32, PL_F32);
  c.labels.data[3] = 50;
  expect_thrown(pool, c, "labels[3] is 50");
  c.labels.data[3] = -1;
  expect_thrown(pool, c, "labels[3] is -1");
  c.labels.data[3] = 0;
  c.labelled_rows.data[19] = 20;
  expect_thrown(pool, c, "rows[19] is 20");
  c.labelled_rows.data[19] = 18;
  expect_thrown(pool, c, "rows[19] is 18 after 18");
  c.labelled_rows.data[19] = 19;
  c.x.at(5, 2) = NAN;
  c.run(pool, true);
  expect(std::isnan(c.loss.at(0, 5)) && !std::isnan(c.loss.at(0, 4)), "a NaN stays in its row");
  // Ties go to the lowest index.
  Case ties(random, 3, 4, 70, true, PL_F32, PL_F32);
  for (float& value : ties.x.data) value = 0;
  ties.run(pool, false);
  expect(ties.argmax.data[0] == 0 && ties.argmax.data[2] == 0, "argmax of ties");
  // No labelled rows: d_x is all zeros.
  Case none(random, 9, 4, 70, true, PL_F32, PL_F32);
  none.labels.data.clear();
  none.labelled_rows.data.clear();
  none.argmax.data.clear();
  none.loss.columns = none.row_weight.columns = 0;
  expect(accepted(none.run(pool, true)), "no labelled rows are accepted");
  bool zero = true;
  for (int64_t i = 0; i < 9; ++i)
    for (int64_t j = 0; j < 4; ++j) zero = zero && none.d_x.at(i, j) == 0;
  expect(zero && none.d_weight.same(none.d_weight_before), "no labelled rows leave no gradient");
}

}  // namespace

int main(int count, char** list) {
  Random random{seed_of(count, list)};
  test_values(random);
  test_bad_values(random);
  return report();
}
