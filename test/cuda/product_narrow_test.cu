// Products with a narrow side (cuda/product_narrow.cu) at ragged sizes, strides and addresses: bit
// for bit against integers, whose products and sums are exact in any order, and against float64.
#include <cstring>

#include "cuda/product_gradient.cu"
#include "cuda/product_narrow.cu"
#include "cuda/product_shrink.cu"
#include "cuda_test.h"
#include "mask.h"

using namespace polylora;
using namespace polylora::cuda;
using namespace polylora::cuda_test;

namespace {

struct Case {
  pl_layout layout;
  int64_t m, n, k;
  bool masked = false;
  bool finishes = false;  // with scale, bias and residual
  int64_t gap = 0;        // floats behind every row of the operands

  std::string name() const {
    std::string text = layout == PL_NT ? "NT " : layout == PL_NN ? "NN " : "TN ";
    text += std::to_string(m) + " x " + std::to_string(n) + ", k " + std::to_string(k);
    if (masked) text += ", masked";
    if (finishes) text += ", scale, bias and residual";
    return text + ", rows " + std::to_string(gap) + " apart";
  }
};

// An operand whose rows lie `gap` NaNs apart, `gap % 4` floats behind an aligned address.
struct Operand {
  int64_t rows, columns, stride, begin;
  std::vector<float> values;
  Array<float> array;

  template <class Draw>
  Operand(TestStream& stream, int64_t rows, int64_t columns, int64_t gap, const Draw& draw)
      : rows(rows),
        columns(columns),
        stride(columns + gap),
        begin(gap % 4),
        values(make(rows, columns, gap, draw)),
        array(stream, values) {}

  template <class Draw>
  static std::vector<float> make(int64_t rows, int64_t columns, int64_t gap, const Draw& draw) {
    std::vector<float> values(size_t(gap % 4 + rows * (columns + gap)), std::nanf(""));
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t column = 0; column < columns; ++column)
        values[size_t(gap % 4 + row * (columns + gap) + column)] = draw();
    return values;
  }
  const float* data() { return array.data() + begin; }
  double at(int64_t row, int64_t column) const {
    return values[size_t(begin + row * stride + column)];
  }
};

// Integers of at most `limit`, or normal numbers if that is 0. Returns y.
std::vector<float> test(const Case& one, bool may_round, int limit, Random& random) {
  TestStream stream;
  const auto draw = [&] {
    return limit > 0 ? float(random.below(2 * limit + 1) - limit) : random.normal();
  };
  const bool is_tn = one.layout == PL_TN, is_nt = one.layout == PL_NT;
  Operand x(stream, is_tn ? one.k : one.m, is_tn ? one.m : one.k, one.gap, draw);
  Operand w(stream, is_nt ? one.n : one.k, is_nt ? one.k : one.n, one.gap, draw);
  Mask mask(stream, is_tn ? one.k : one.m);
  std::vector<float> scales, biases, residuals;
  for (int64_t column = 0; column < one.n; ++column) {
    scales.push_back(float(1 << random.below(3)));
    biases.push_back(draw());
  }
  for (int64_t i = 0; i < one.m * one.n; ++i) residuals.push_back(draw());
  Array<float> scale(stream, scales), bias(stream, biases), residual(stream, residuals);
  Array<float> y(stream, size_t(one.m * (one.n + one.gap)));

  Product product = {};
  product.layout = one.layout;
  product.m = one.m;
  product.n = one.n;
  product.segment_count = 1;
  product.may_round = may_round;
  Segment& segment = product.segments[0];
  segment.x = x.data();
  segment.x_stride = x.stride;
  segment.w = w.data();
  segment.w_stride = w.stride;
  segment.k = one.k;
  if (one.masked) {
    (is_tn ? segment.mask_w : segment.mask_x) = true;
    product.dropout = mask.dropout();
  }
  if (one.finishes) {
    product.scale = scale.data();
    product.bias = bias.data();
    product.residual = residual.data();
    product.residual_stride = one.n;
  }
  product.y = y.data();
  product.y_stride = one.n + one.gap;
  const std::string name =
      one.name() + (may_round ? ", tf32" : "") + (limit ? ", integers" : ", normal numbers");
  expect(is_narrow(product, false), name + ": is narrow");
  Array<float> workspace(stream, size_t(narrow_workspace(product) / sizeof(float) + 1));
  run_narrow(stream, product, workspace.data());
  const std::vector<float> found = y.read(stream);

  size_t wrong = 0, first = 0;
  for (int64_t row = 0; row < one.m; ++row)
    for (int64_t column = 0; column < one.n; ++column) {
      double sum = 0, magnitude = 0;
      for (int64_t k = 0; k < one.k; ++k) {
        double term =
            (is_tn ? x.at(k, row) : x.at(row, k)) * (is_nt ? w.at(column, k) : w.at(k, column));
        if (one.masked) term *= is_tn ? mask.at(k, column) : mask.at(row, k);
        sum += term;
        magnitude += std::abs(term);
      }
      if (one.finishes) {
        const double beside = biases[size_t(column)] + residuals[size_t(row * one.n + column)];
        sum = sum * scales[size_t(column)] + beside;
        magnitude = magnitude * scales[size_t(column)] + std::abs(beside);
      }
      // 2^-24 of what the sums reach each time, whose signs are random: their root, and four times
      // that for the largest of many.
      // Operands of tf32 are off by 2^-11 each, and tensor cores may truncate their sums.
      const double operands = may_round ? 0x1p-10 + 0x1p-21 : 0;
      const double sums = 4 * std::sqrt(double(one.k + 12)) * (may_round ? 0x1p-23 : 0x1p-24);
      const double allowed = limit ? 0 : (sums + operands) * magnitude;
      const size_t at = size_t(row * product.y_stride + column);
      if (std::abs(double(found[at]) - sum) <= allowed) continue;
      if (wrong++ == 0) first = at;
    }
  expect(wrong == 0,
         name + ": " + std::to_string(wrong) + " wrong, the first at " + std::to_string(first));
  return found;
}

// Rows that lie apart, at odd addresses, go to shared memory four bytes at a time.
void test_alignment(bool may_round) {
  for (const Case& one :
       {Case{PL_NT, 45, 21, 133, true}, {PL_NN, 45, 21, 133}, {PL_TN, 285, 37, 70, true}}) {
    std::vector<float> packed;
    for (int64_t gap : {0, 3, 8}) {
      Case apart = one;
      apart.gap = gap;
      Random random = {20250205};
      std::vector<float> found;
      const std::vector<float> spread = test(apart, may_round, 0, random);
      for (int64_t row = 0; row < one.m; ++row)
        found.insert(found.end(), spread.begin() + row * (one.n + gap),
                     spread.begin() + row * (one.n + gap) + one.n);
      if (gap == 0) packed = found;
      expect(std::memcmp(found.data(), packed.data(), packed.size() * sizeof(float)) == 0,
             apart.name() + ": the bits of packed rows");
    }
  }
}

void test_refusals() {
  const auto taken = [](pl_layout layout, int64_t m, int64_t n, bool is_bf16) {
    Product product = {};
    product.layout = layout;
    product.m = m;
    product.n = n;
    product.segment_count = 1;
    product.segments[0].k = 100;
    return is_narrow(product, is_bf16);
  };
  expect(taken(PL_NT, 1, 256, false) && !taken(PL_NT, 1, 257, false), "few columns");
  expect(!taken(PL_NN, 1, 16, true), "the tensor cores' stay theirs");
  expect(taken(PL_TN, 256, 999, false) && taken(PL_TN, 999, 256, false) &&
             !taken(PL_TN, 257, 257, false),
         "either side may be the narrow one");
  expect(taken(PL_TN, 999, 64, true) && !taken(PL_TN, 999, 65, true),
         "against the tensor cores, a narrower one");
}

}  // namespace

int main() {
  if (!announce()) return 0;
  Random random = {20250206};
  test_refusals();
  std::vector<Case> cases = {
      // More rows than are summed at once; narrow sides of one block and more, in either operand.
      {PL_TN, 7, 270, 1030, true, true},
      {PL_TN, 258, 17, 530, false, true},
      {PL_TN, 70, 75, 33, true},
      {PL_TN, 40, 11, 20, true},
  };
  for (pl_layout layout : {PL_NT, PL_NN, PL_TN}) {
    cases.push_back({layout, 1, 1, 1});
    cases.push_back({layout, 9, 13, 0, false, true});
  }
  for (pl_layout layout : {PL_NT, PL_NN}) {
    cases.push_back({layout, 35, 16, 200, layout == PL_NT, true});
    cases.push_back({layout, 33, 32, 65});
    cases.push_back({layout, 5, 130, 130, layout == PL_NT});
  }
  for (bool may_round : {false, true}) {
    test_alignment(may_round);
    for (const Case& one : cases) {
      test(one, may_round, 8, random);
      test(one, may_round, 0, random);
    }
  }
  return report();
}
