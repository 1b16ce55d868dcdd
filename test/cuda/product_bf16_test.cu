// The products with bf16 operands (cuda/product_bf16.cu, and by wgmma cuda/product_bf16_sm90.cu) in
// every layout at ragged sizes: bit for bit against integers, whose products and sums are exact in
// any order, and against float64.
#include <cmath>
#include <cstring>
#include <memory>

#include "cuda/product_bf16.cu"
#include "cuda/product_bf16_sm90.cu"
#include "cuda_test.h"
#include "mask.h"

using namespace polylora;
using namespace polylora::cuda;
using namespace polylora::cuda_test;

namespace {

struct Case {
  pl_layout layout;
  int64_t m, n;
  std::vector<int64_t> k;  // of the segments
  int masked = -1;         // the segment that is masked
  bool finishes = false;   // with scale, bias and residual
  int processors = 1;

  std::string name() const {
    std::string text = layout == PL_NT ? "NT " : layout == PL_NN ? "NN " : "TN ";
    text += std::to_string(m) + " x " + std::to_string(n) + ", k";
    for (int64_t each : k) text += " " + std::to_string(each);
    if (masked >= 0) text += ", segment " + std::to_string(masked) + " masked";
    if (finishes) text += ", scale, bias and residual";
    return text + ", " + std::to_string(processors) + " processors";
  }
};

// A matrix of bf16, values in float beside it, and `padding` up to its pitch.
struct Matrix {
  int64_t rows, columns, pitch;
  std::vector<float> values;
  std::vector<uint16_t> bits;

  template <class Draw>
  Matrix(int64_t rows, int64_t columns, uint16_t padding, Draw draw)
      : rows(rows), columns(columns), pitch(bf16_pitch(columns)) {
    bits.assign(size_t(rows * pitch), padding);
    for (int64_t i = 0; i < rows * columns; ++i) {
      const bf16 value = narrow<bf16>(draw());
      values.push_back(widen(value));
      bits[size_t(i / columns * pitch + i % columns)] = value.bits;
    }
  }
  double at(int64_t row, int64_t column) const { return values[size_t(row * columns + column)]; }
};

// Integers of at most `limit`, or normal numbers if that is 0. Each operand is its own allocation,
// so that what lies beyond it belongs to nobody. Returns y.
std::vector<float> test(const Case& one, int architecture, int limit, Random& random) {
  TestStream stream(one.processors, architecture);
  // TMA knows where a row ends: NaNs behind it are never read.
  const uint16_t padding = architecture == 90 ? 0x7fff : 0;
  const auto draw = [&]() -> float {
    return limit > 0 ? float(random.below(2 * limit + 1) - limit) : random.normal();
  };
  const bool x_outer = one.layout == PL_TN, w_outer = one.layout != PL_NT;
  std::vector<Matrix> xs, ws;
  std::vector<std::unique_ptr<Array<uint16_t>>> arrays;
  ProductBf16 product = {};
  product.layout = one.layout;
  product.m = one.m;
  product.n = one.n;
  const auto put = [&](const Matrix& matrix) {
    arrays.push_back(std::make_unique<Array<uint16_t>>(stream, matrix.bits));
    return reinterpret_cast<const bf16*>(arrays.back()->data());
  };
  for (int64_t k : one.k) {
    xs.emplace_back(x_outer ? k : one.m, x_outer ? one.m : k, padding, draw);
    ws.emplace_back(w_outer ? k : one.n, w_outer ? one.n : k, padding, draw);
    SegmentBf16& segment = product.segments[product.segment_count];
    segment.mask_after = product.segment_count++ == one.masked;
    segment.k = k;
    segment.x_stride = xs.back().pitch;
    segment.w_stride = ws.back().pitch;
    if (k == 0) continue;
    segment.x = put(xs.back());
    segment.w = put(ws.back());
  }

  Mask mask(stream, one.m);
  if (one.masked >= 0) product.dropout = mask.dropout();
  std::vector<float> scales, biases, residuals;
  for (int64_t column = 0; column < one.n; ++column) {
    scales.push_back(float(1 << random.below(3)));
    biases.push_back(draw());
  }
  for (int64_t i = 0; i < one.m * one.n; ++i) residuals.push_back(draw());
  Array<float> scale(stream, scales), bias(stream, biases), residual(stream, residuals);
  if (one.finishes) {
    product.scale = scale.data();
    product.bias = bias.data();
    product.residual = residual.data();
    product.residual_stride = one.n;
  }
  // An odd distance between rows too: then sums are stored one by one.
  product.y_stride = one.n + (one.finishes ? 1 : 0);
  Array<float> y(stream, size_t(one.m * product.y_stride));
  product.y = y.data();
  const std::string name = "sm_" + std::to_string(architecture) + ", " + one.name() +
                           (limit ? ", integers" : ", normal numbers");
  run_product_bf16(stream, product);
  const std::vector<float> found = y.read(stream);

  size_t wrong = 0, first = 0;
  for (int64_t row = 0; row < one.m; ++row)
    for (int64_t column = 0; column < one.n; ++column) {
      double sum = 0, magnitude = 0;
      int64_t terms = 4;
      for (size_t s = 0; s < xs.size(); ++s) {
        for (int64_t k = 0; k < one.k[s]; ++k) {
          const double term = (x_outer ? xs[s].at(k, row) : xs[s].at(row, k)) *
                              (w_outer ? ws[s].at(k, column) : ws[s].at(column, k));
          sum += term;
          magnitude += std::abs(term);
        }
        terms += one.k[s];
        if (int(s) != one.masked) continue;
        const double factor = mask.at(row, column);
        sum *= factor;
        magnitude *= factor;
      }
      if (one.finishes) {
        const double beside = biases[size_t(column)] + residuals[size_t(row * one.n + column)];
        sum = sum * scales[size_t(column)] + beside;
        magnitude = magnitude * scales[size_t(column)] + std::abs(beside);
      }
      // A tensor core may truncate each of its sums: 2^-23 of what they reach at most. Roundings
      // of one sign all along do not happen: their root is far above what does, and far below a
      // term that is missing.
      const double allowed = limit ? 0 : 4 * std::sqrt(double(terms)) * 0x1p-23 * magnitude;
      const size_t at = size_t(row * product.y_stride + column);
      if (std::abs(double(found[at]) - sum) <= allowed) continue;
      if (wrong++ == 0) first = at;
    }
  expect(wrong == 0,
         name + ": " + std::to_string(wrong) + " wrong, the first at " + std::to_string(first));
  return found;
}

// Blocks alone and clusters of two, also with one row of tiles too few: the same bits.
void test_clusters() {
  for (pl_layout layout : {PL_NT, PL_NN, PL_TN}) {
    std::vector<float> alone;
    for (int processors : {1, 2, 4}) {
      Random random = {20250204};
      const std::vector<float> found = test(
          {layout, 261, 139, {77, 16}, layout == PL_NN ? 0 : -1, false, processors}, 90, 0, random);
      if (processors == 1) alone = found;
      expect(found.size() == alone.size() &&
                 std::memcmp(found.data(), alone.data(), alone.size() * sizeof(float)) == 0,
             "a cluster has the bits of blocks alone");
    }
  }
}

// Every tile once, and the bands one after the other; in clusters where they cost nothing.
void test_order() {
  for (const sm90::TileOrder order :
       {sm90::TileOrder{1, 1, 1}, {5, 3, 1}, {16, 4, 2}, {37, 7, 1}, {37, 7, 2}, {64, 1, 1}}) {
    const int64_t most = order.kBand / order.cluster;
    std::vector<int> seen(size_t(order.count()));
    int64_t last_band = 0;
    bool in_bands = true;
    for (int64_t tile = 0; tile < order.count(); ++tile) {
      int64_t row = -1, column = -1;
      order.at(tile, &row, &column);
      if (row < 0 || row >= order.rows || column < 0 || column >= order.columns) continue;
      ++seen[size_t(row * order.columns + column)];
      in_bands = in_bands && row / most >= last_band;
      last_band = row / most;
    }
    bool once = true;
    for (int count : seen) once = once && count == 1;
    expect(once && in_bands, "the order of " + std::to_string(order.rows) + " x " +
                                 std::to_string(order.columns) + " tiles in clusters of " +
                                 std::to_string(order.cluster));
  }
  const auto cluster = [](int64_t rows, int64_t columns, int64_t processors) {
    return sm90::order_of(rows, columns, processors).cluster;
  };
  expect(cluster(64, 16, 132) == 2, "clusters where the tiles are many");
  expect(cluster(3, 1, 132) == 2, "clusters where there is room for a row that is none");
  expect(cluster(3, 44, 132) == 1, "none where that row would cost a round");
  expect(cluster(1, 16, 132) == 1 && cluster(64, 16, 1) == 1,
         "none where there is nobody to share");
}

// What is not for wgmma goes to the first tier.
void test_refusals() {
  TestStream stream;
  Array<uint16_t> operand(stream, 4096);
  Array<float> y(stream, 4096);
  const auto* const data = reinterpret_cast<const bf16*>(operand.data());
  const auto taken = [&](const bf16* x, int64_t stride, int segments) {
    ProductBf16 product = {};
    product.m = product.n = 8;
    product.y = y.data();
    product.y_stride = 8;
    product.segment_count = segments;
    for (int s = 0; s < segments; ++s) product.segments[s] = {x, data, stride, 16, 16, false};
    return run_product_bf16_sm90(stream, product);
  };
  expect(taken(data, 16, 1), "aligned rows");
  expect(taken(data, 16, sm90::kMostMaps), "as many segments as there are maps");
  expect(!taken(data + 1, 16, 1), "rows that begin at odd addresses");
  expect(!taken(data, 17, 1), "rows an odd distance apart");
  expect(!taken(data, 16, sm90::kMostMaps + 1), "more segments than maps");
  const std::string wrong = stream.finish();
  expect(wrong.empty(), wrong);
}

}  // namespace

int main() {
  if (!announce()) return 0;
  Random random = {20250203};
  std::vector<int> tiers = {80};
  if (TestStream().has_wgmma()) {
    tiers.push_back(90);
    test_order();
    test_clusters();
    test_refusals();
  } else {
    skip("the products by wgmma", "this is no sm_90");
  }
  std::vector<Case> cases;
  for (pl_layout layout : {PL_NT, PL_NN, PL_TN}) {
    cases.push_back({layout, 1, 1, {1}});
    cases.push_back({layout, 131, 70, {65, 17}, -1, true});
    // More steps than stages, and tiles than blocks.
    cases.push_back({layout, 150, 290, {320, 0, 16}, -1, false, 3});
    cases.push_back({layout, 9, 13, {0}, -1, true});
  }
  cases.push_back({PL_NN, 130, 139, {9, 100}, 0, true});
  cases.push_back({PL_NN, 70, 261, {40, 24, 0, 33}, 2});
  for (int tier : tiers) {
    for (const Case& one : cases) test(one, tier, 8, random);
    for (pl_layout layout : {PL_NT, PL_NN, PL_TN})
      test({layout, 67, 135, {77, 16}, layout == PL_NN ? 0 : -1}, tier, 0, random);
  }
  return report();
}
