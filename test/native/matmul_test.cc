// matmul, low_rank_project and low_rank_backward against float64, and the promises about bits, on
// every instruction set the processor has.
#include "cpu/weight.h"
#include "native_test.h"
#include "philox.h"

using namespace polylora;
using namespace polylora::cpu;
using namespace polylora::test;

namespace {

enum class Kind { plain, f32, bf16_widened, bf16_rounded };

struct Part {
  Kind kind;
  Matrix x, w;  // w as stored: already rounded where the weight is bf16
  std::unique_ptr<Weight> weight;
  bool mask_after = false, mask_w = false;
};

double rounded(double value, bool round) {
  return round ? double(bf16_to_float(float_to_bf16(float(value)))) : value;
}

struct Mask {
  float probability = 0;
  uint32_t module = 0;
  uint64_t seed = 0;
  IntVector step, sample, position;

  void fill(Random& random, int64_t rows) {
    probability = float(random.unit() * 0.8 + 0.05);
    module = uint32_t(random.below(1 << 16));
    seed = random.next();
    step.data = {int32_t(random.below(100000))};
    for (int64_t i = 0; i < rows; ++i) {
      sample.data.push_back(int32_t(random.below(1 << 30)));
      position.data.push_back(int32_t(random.below(4096)));
    }
  }
  pl_dropout args() {
    pl_dropout out = {};
    out.probability = probability;
    out.module = module;
    out.seed = seed;
    out.step = step.tensor();
    out.row_sample = sample.tensor();
    out.row_position = position.tensor();
    return out;
  }
  double at(int64_t row, int64_t column) const {
    const Philox4 word =
        philox(dropout_counter(uint32_t(column / 8), module, uint32_t(position.data[size_t(row)]),
                               uint32_t(sample.data[size_t(row)]), uint32_t(step.data[0])),
               uint32_t(seed), uint32_t(seed >> 32));
    const uint32_t words[4] = {word.x, word.y, word.z, word.w};
    const uint32_t draw = (words[column % 8 / 2] >> (column % 2 ? 16 : 0)) & 0xffff;
    return draw < dropout_threshold(probability) ? 0 : double(dropout_scale(probability));
  }
};

// The bound of a chain of k roundings is k units; they are independent enough for a few square
// roots of k.
double tolerance(double magnitude, int64_t k) {
  return magnitude * 6e-8 * (8 + 3 * std::sqrt(double(k))) + 1e-30;
}

struct Case {
  pl_layout layout;
  int64_t m, n;
  std::vector<Part> parts;
  Mask mask;
  Matrix scale, bias, residual, y;
  bool has_scale, has_bias, has_residual, in_place;
  std::string name;

  Case(Random& random, pl_layout l, int64_t rows, int64_t columns, std::vector<int64_t> ks,
       Pool& pool)
      : layout(l), m(rows), n(columns) {
    name = l == PL_NT ? "NT" : l == PL_NN ? "NN" : "TN";
    name += " " + std::to_string(m) + "x" + std::to_string(n);
    const bool masks = l != PL_NT && random.below(2);
    if (masks) mask.fill(random, l == PL_NN ? m : ks[0]);
    for (size_t s = 0; s < ks.size(); ++s) {
      Part part;
      const int64_t k = ks[s];
      part.kind = l == PL_TN || k == 0 ? Kind::plain : Kind(random.below(4));
      part.x = l == PL_TN ? Matrix(random, k, m, true) : Matrix(random, m, k, true);
      part.w = l == PL_NT ? Matrix(random, n, k, true) : Matrix(random, k, n, true);
      if (part.kind != Kind::plain) {
        part.weight.reset(new Weight(part.w.rows, part.w.columns,
                                     part.kind == Kind::f32 ? PL_F32 : PL_BF16,
                                     part.kind == Kind::bf16_rounded ? PL_BF16 : PL_F32));
        auto args = arguments<pl_weight_update_args>();
        args.weight = part.weight->handle;
        args.source = part.w.tensor();
        expect(accepted(pl_check_weight_update(&args)), "weight_update is accepted");
        run_weight_update(pool, args);
        if (part.kind != Kind::f32)
          for (int64_t i = 0; i < part.w.rows; ++i)
            for (int64_t j = 0; j < part.w.columns; ++j)
              part.w.at(i, j) = float(rounded(part.w.at(i, j), true));
      }
      part.mask_after = masks && l == PL_NN && s == 0;
      part.mask_w = masks && l == PL_TN && s == 0;
      name += " k" + std::to_string(k) + "/" + std::to_string(int(part.kind)) +
              (masks && s == 0 ? "m" : "");
      parts.push_back(std::move(part));
    }
    has_scale = random.below(2);
    has_bias = random.below(2);
    has_residual = random.below(2);
    in_place = has_residual && random.below(2);
    scale = Matrix(random, 1, n, true);
    bias = Matrix(random, 1, n, true);
    residual = Matrix(random, m, n, true);
    y = Matrix(random, m, n, false);
  }

  // Rows [first, first + count) of y into `out`, which has their rows alone.
  void run(Pool& pool, Matrix& out, int64_t first, int64_t count) {
    std::vector<pl_segment> segments;
    for (Part& part : parts) {
      pl_segment segment = {};
      segment.x = layout == PL_TN ? part.x.tensor() : part.x.rows_from(first, count);
      if (part.weight)
        segment.weight = part.weight->handle;
      else
        segment.w = part.w.tensor();
      segment.mask_after = part.mask_after;
      segment.mask_w = part.mask_w;
      segments.push_back(segment);
    }
    auto args = arguments<pl_matmul_args>();
    args.layout = layout;
    args.segments = segments.data();
    args.segment_count = uint32_t(segments.size());
    if (mask.probability > 0) {
      args.dropout = mask.args();
      if (layout == PL_NN) {
        args.dropout.row_sample.data = mask.sample.data.data() + first;
        args.dropout.row_position.data = mask.position.data.data() + first;
        args.dropout.row_sample.shape[0] = args.dropout.row_position.shape[0] = count;
      }
    }
    if (has_scale) args.column_scale = scale.vector();
    if (has_bias) args.bias = bias.vector();
    if (has_residual) args.residual = residual.rows_from(first, count);
    if (in_place) {
      for (int64_t i = 0; i < count; ++i)
        for (int64_t j = 0; j < n; ++j) out.at(i, j) = residual.at(first + i, j);
      args.residual = out.tensor();
    }
    args.y = out.tensor();
    if (expect(accepted(pl_check_matmul(&args)), name + " is accepted")) run_matmul(pool, args);
  }

  void check(const char* set) {
    double worst = 0;
    for (int64_t i = 0; i < m; ++i)
      for (int64_t j = 0; j < n; ++j) {
        double sum = 0, magnitude = 0;
        int64_t k_total = 0;
        for (const Part& part : parts) {
          const int64_t k = layout == PL_TN ? part.x.rows : part.x.columns;
          for (int64_t p = 0; p < k; ++p) {
            const double x = rounded(layout == PL_TN ? part.x.at(p, i) : part.x.at(i, p),
                                     part.kind == Kind::bf16_rounded);
            const double w = layout == PL_NT ? part.w.at(j, p) : part.w.at(p, j);
            const double product = x * w * (part.mask_w ? mask.at(p, j) : 1);
            sum += product;
            magnitude += std::fabs(product);
          }
          if (part.mask_after) {
            sum *= mask.at(i, j);
            magnitude *= mask.at(i, j);
          }
          k_total += k;
        }
        if (has_scale) sum *= scale.at(0, j);
        if (has_bias) sum += bias.at(0, j);
        if (has_residual) sum += residual.at(i, j);
        magnitude += 2;
        const double error = std::fabs(double(y.at(i, j)) - sum) / tolerance(magnitude, k_total);
        if (!(error <= worst)) worst = error;
      }
    expect(worst <= 1,
           name + " on " + set + ": error " + std::to_string(worst) + " of what is allowed");
    expect(y.written(), name + " on " + set + ": writes y and nothing else");
  }
};

void test_case(Random& random, Case& c, InstructionSet set) {
  const char* name = instruction_set_name(set);
  Pool one(1, set), two(2, set), four(4, set);
  c.run(one, c.y, 0, c.m);
  c.check(name);
  for (Pool* pool : {&two, &four}) {
    Matrix other(random, c.m, c.n, false);
    c.run(*pool, other, 0, c.m);
    expect(other.same(c.y),
           c.name + " on " + name + ": bits with " + std::to_string(pool->threads()) + " threads");
  }
  if (c.layout == PL_TN) return;
  // Any rows alone give the bits they have in the batch.
  for (int trial = 0; trial < 3; ++trial) {
    const int64_t first = random.below(c.m), count = trial == 0 ? 1 : 1 + random.below(c.m - first);
    Matrix other(random, count, c.n, false);
    c.run(one, other, first, count);
    bool same = true;
    for (int64_t i = 0; i < count; ++i)
      for (int64_t j = 0; j < c.n; ++j)
        same = same && same_bits(other.at(i, j), c.y.at(first + i, j));
    expect(same, c.name + " on " + name + ": bits of rows " + std::to_string(first) + " to " +
                     std::to_string(first + count) + " alone");
  }
}

void test_matmul(Random& random) {
  const int64_t sizes[] = {1, 2, 3, 5, 7, 8, 12, 13, 16, 17, 24, 31, 32, 33, 47, 64, 65, 100, 129};
  for (InstructionSet set : instruction_sets()) {
    Pool pool(1, set);
    for (int trial = 0; trial < 60; ++trial) {
      const pl_layout layout = pl_layout(trial % 3);
      std::vector<int64_t> ks;
      for (int64_t s = 1 + random.below(3); s > 0; --s)
        ks.push_back(random.below(8) == 0 ? 0 : random.pick(sizes));
      Case c(random, layout, random.pick(sizes), random.pick(sizes), ks, pool);
      test_case(random, c, set);
    }
    // Several blocks of k, of rows and of columns; one shape for each kind of weight.
    const int64_t large[][4] = {
        {401, 70, 530, 16}, {30, 900, 300, 5}, {13, 40, 1100, 1}, {270, 65, 257, 33}};
    for (const auto& shape : large)
      for (int layout = 0; layout < 3; ++layout) {
        Case c(random, pl_layout(layout), shape[0], shape[1], {shape[3], shape[2]}, pool);
        test_case(random, c, set);
      }
  }
}

void test_low_rank(Random& random) {
  const int64_t ranks[] = {1, 2, 3, 4, 8, 15, 16, 17, 33, 80},
                sizes[] = {1, 5, 13, 31, 64, 130, 300, 601};
  for (InstructionSet set : instruction_sets()) {
    const std::string name = instruction_set_name(set);
    Pool one(1, set), two(2, set), four(4, set);
    for (int trial = 0; trial < 24; ++trial) {
      const int64_t t = random.pick(sizes), k = random.pick(sizes), r = random.pick(ranks);
      const std::string what = "low rank " + std::to_string(t) + "x" + std::to_string(k) + "x" +
                               std::to_string(r) + " on " + name + ": ";
      Matrix x(random, t, k, true), a(random, r, k, true), scale(random, 1, r, true),
          s(random, t, r, false);
      Mask mask;
      if (trial % 2) mask.fill(random, t);
      auto project = arguments<pl_low_rank_project_args>();
      project.x = x.tensor();
      project.a = a.tensor();
      project.rank_scale = scale.vector();
      if (trial % 2) project.dropout = mask.args();
      project.s = s.tensor();
      if (!expect(accepted(pl_check_low_rank_project(&project)), what + "project is accepted"))
        return;
      run_low_rank_project(one, project);
      double worst = 0;
      for (int64_t i = 0; i < t; ++i)
        for (int64_t j = 0; j < r; ++j) {
          double sum = 0, magnitude = 0;
          for (int64_t p = 0; p < k; ++p) {
            const double product =
                double(x.at(i, p)) * (trial % 2 ? mask.at(i, p) : 1) * a.at(j, p);
            sum += product;
            magnitude += std::fabs(product);
          }
          const double error =
              std::fabs(sum * scale.at(0, j) - s.at(i, j)) / tolerance(magnitude, k);
          if (!(error <= worst)) worst = error;
        }
      expect(worst <= 1 && s.written(), what + "project, error " + std::to_string(worst));

      // The adapter's backward, with p and t as slices of wider rows.
      Matrix dy(random, t, k, true), b(random, k, r, true), p(random, t, r, true),
          out(random, t, r, false);
      Matrix d_b(random, k, r, true), before = d_b;
      auto backward = arguments<pl_low_rank_backward_args>();
      backward.dy = dy.tensor();
      backward.b = b.tensor();
      backward.p = p.tensor();
      backward.rank_scale = scale.vector();
      backward.t = out.tensor();
      backward.d_b = d_b.tensor();
      if (!expect(accepted(pl_check_low_rank_backward(&backward)), what + "backward is accepted"))
        return;
      std::vector<float> workspace(
          size_t(workspace_of(PL_OPERATION_low_rank_backward, &backward, 4) / 4 + 1));
      backward.header.workspace = workspace.data();
      backward.header.workspace_bytes = workspace.size() * 4;
      run_low_rank_backward(one, backward);
      worst = 0;
      for (int64_t i = 0; i < t; ++i)
        for (int64_t j = 0; j < r; ++j) {
          double sum = 0, magnitude = 0;
          for (int64_t n = 0; n < k; ++n) {
            sum += double(dy.at(i, n)) * b.at(n, j);
            magnitude += std::fabs(double(dy.at(i, n)) * b.at(n, j));
          }
          const double error =
              std::fabs(sum * scale.at(0, j) - out.at(i, j)) / tolerance(magnitude, k);
          if (!(error <= worst)) worst = error;
        }
      expect(worst <= 1 && out.written(), what + "t, error " + std::to_string(worst));
      worst = 0;
      for (int64_t n = 0; n < k; ++n)
        for (int64_t j = 0; j < r; ++j) {
          double sum = before.at(n, j), magnitude = std::fabs(sum);
          for (int64_t i = 0; i < t; ++i) {
            sum += double(dy.at(i, n)) * p.at(i, j);
            magnitude += std::fabs(double(dy.at(i, n)) * p.at(i, j));
          }
          const double error = std::fabs(sum - d_b.at(n, j)) / tolerance(magnitude, t);
          if (!(error <= worst)) worst = error;
        }
      expect(worst <= 1 && d_b.written(), what + "d_b, error " + std::to_string(worst));

      // In two products, as when there is no room for one read.
      Matrix out_of_two(random, t, r, false), d_b_of_two = before;
      backward.header.workspace_bytes = 0;
      backward.t = out_of_two.tensor();
      backward.d_b = d_b_of_two.tensor();
      run_low_rank_backward(one, backward);
      backward.header.workspace_bytes = workspace.size() * 4;
      expect(out_of_two.same(out) && d_b_of_two.same(d_b), what + "bits without a workspace");

      for (Pool* pool : {&two, &four}) {
        Matrix s2(random, t, r, false), out2(random, t, r, false), d_b2 = before;
        project.s = s2.tensor();
        run_low_rank_project(*pool, project);
        backward.t = out2.tensor();
        backward.d_b = d_b2.tensor();
        run_low_rank_backward(*pool, backward);
        expect(s2.same(s) && out2.same(out) && d_b2.same(d_b), what + "bits with more threads");
      }
      // Rows alone, and t without d_b.
      const int64_t first = random.below(t), count = 1 + random.below(t - first);
      Matrix s3(random, count, r, false), out3(random, count, r, false);
      project.x = x.rows_from(first, count);
      project.s = s3.tensor();
      for (pl_tensor* rows : {&project.dropout.row_sample, &project.dropout.row_position})
        if (trial % 2) {
          rows->data = static_cast<int32_t*>(rows->data) + first;
          rows->shape[0] = count;
        }
      run_low_rank_project(one, project);
      backward.dy = dy.rows_from(first, count);
      backward.p = p.rows_from(first, count);
      backward.t = out3.tensor();
      backward.d_b = {};
      run_low_rank_backward(one, backward);
      bool same = true;
      for (int64_t i = 0; i < count; ++i)
        for (int64_t j = 0; j < r; ++j)
          same = same && same_bits(s3.at(i, j), s.at(first + i, j)) &&
                 same_bits(out3.at(i, j), out.at(first + i, j));
      expect(same, what + "bits of rows alone");
    }
  }
}

void expect_refused(const pl_status& status, pl_code code, const char* part) {
  expect(status.code == code && std::strstr(status.message, part),
         std::string("refused with '") + part + "', received " + std::to_string(status.code) +
             " '" + status.message + "'");
}

void test_checks(Random& random) {
  Matrix x(random, 5, 7, true), w(random, 4, 7, true), y(random, 5, 4, false),
      vector(random, 1, 4, true);
  pl_segment segment = {};
  segment.x = x.tensor();
  segment.w = w.tensor();
  auto base = arguments<pl_matmul_args>();
  base.layout = PL_NT;
  base.segments = &segment;
  base.segment_count = 1;
  base.y = y.tensor();
  expect(accepted(pl_check_matmul(&base)), "the plain case is accepted");
  expect_refused(pl_check_matmul(nullptr), PL_ARGUMENT, "null");
  auto args = base;
  args.header.size = 8;
  expect_refused(pl_check_matmul(&args), PL_ARGUMENT, "header.size is 8");
  args = base;
  args.layout = 3;
  expect_refused(pl_check_matmul(&args), PL_ARGUMENT, "layout is 3");
  args = base;
  args.segment_count = 0;
  expect_refused(pl_check_matmul(&args), PL_ARGUMENT, "segment_count is 0");
  args = base;
  args.y.dtype = PL_I32;
  expect_refused(pl_check_matmul(&args), PL_DTYPE, "y is i32 (4), must be f32");
  args = base;
  args.y.strides[0] = 3;
  expect_refused(pl_check_matmul(&args), PL_ARGUMENT, "overlap");
  args = base;
  args.y.strides[1] = 2;
  expect_refused(pl_check_matmul(&args), PL_ARGUMENT, "stride 2 in dimension 1");
  args = base;
  args.y.strides[0] = -4;
  expect_refused(pl_check_matmul(&args), PL_ARGUMENT, "must not be negative");
  args = base;
  args.y.shape[0] = int64_t(1) << 61;
  args.y.strides[0] = int64_t(1) << 40;
  expect_refused(pl_check_matmul(&args), PL_SHAPE, "more than can be addressed");
  args = base;
  args.bias = vector.vector();
  args.bias.shape[0] = 3;
  expect_refused(pl_check_matmul(&args), PL_SHAPE, "bias has shape [3], must be [4]");
  args = base;
  args.residual = y.tensor();
  expect(accepted(pl_check_matmul(&args)), "y as residual is accepted");
  args.residual.data = static_cast<float*>(args.residual.data) + 1;
  expect_refused(pl_check_matmul(&args), PL_ARGUMENT, "y overlaps residual");
  args = base;
  segment.x.shape[1] = 6;
  expect_refused(pl_check_matmul(&args), PL_SHAPE,
                 "segments[0].w has shape [4, 7], must be [4, 6]");
  segment.x = x.tensor();
  segment.mask_after = 1;
  expect_refused(pl_check_matmul(&args), PL_ARGUMENT, "segments[0].mask_after");
  segment.mask_after = 0;
  segment.x = y.tensor();
  segment.x.shape[1] = 4;
  segment.w.shape[1] = 4;
  expect_refused(pl_check_matmul(&args), PL_ARGUMENT, "y shares memory with segments[0].x");
  segment.x = x.tensor();
  segment.w = w.tensor();
  segment.x.data = nullptr;
  expect_refused(pl_check_matmul(&args), PL_ARGUMENT, "segments[0].x has no data");
  segment.x = x.tensor();
  Weight weight(4, 7, PL_F32, PL_F32);
  segment.weight = weight.handle;
  expect_refused(pl_check_matmul(&args), PL_ARGUMENT, "are both given");
  segment.w = {};
  expect(accepted(pl_check_matmul(&args)), "a weight is accepted");
  segment.weight = nullptr;
  expect_refused(pl_check_matmul(&args), PL_ARGUMENT, "segments[0].w is missing");

  Matrix a(random, 3, 7, true), scale(random, 1, 3, true), s(random, 5, 3, false);
  auto project = arguments<pl_low_rank_project_args>();
  project.x = x.tensor();
  project.a = a.tensor();
  project.rank_scale = scale.vector();
  project.s = s.tensor();
  expect(accepted(pl_check_low_rank_project(&project)), "project is accepted");
  project.dropout.probability = 1;
  expect_refused(pl_check_low_rank_project(&project), PL_ARGUMENT, "dropout.probability is 1");
  project.dropout.probability = NAN;
  expect_refused(pl_check_low_rank_project(&project), PL_ARGUMENT, "dropout.probability");
  project.dropout.probability = 0.5f;
  expect_refused(pl_check_low_rank_project(&project), PL_ARGUMENT, "dropout.step is missing");
}

}  // namespace

int main(int count, char** list) {
  Random random{seed_of(count, list)};
  test_checks(random);
  test_matmul(random);
  test_low_rank(random);
  return report();
}
