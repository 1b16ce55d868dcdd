// The small products of attention, for one instruction set; included where PL_TARGET is defined.
// Each element of a product is summed in the order of the inner index, whatever the number of rows
// taken together, so that a row's bits do not depend on the rows beside it.
#ifdef PL_TARGET
#include "cpu/transpose.h"
#include "cpu/vector_math.h"

namespace polylora::cpu::PL_TARGET {
namespace {

#if defined(PL_TARGET_AVX512)
constexpr int kTileRows = 8;  // rows whose sums are held in registers together
#elif defined(PL_TARGET_AVX2)
constexpr int kTileRows = 6;
#else
constexpr int kTileRows = 4;
#endif
constexpr int kTileVectors = 2;                    // vectors of each row's sums
constexpr int64_t kPanel = kTileVectors * kLanes;  // keys of a transposed panel
constexpr int64_t kTile = 8 * kTileRows;  // queries, and keys, of a tile; a multiple of kPanel
static_assert(kTile % kPanel == 0 && kTileRows <= kLanes,
              "tiles are whole panels, a vector holds a group of rows");

PL_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// panel[d, key] = x[key, d] for `keys` <= kPanel rows of x; the keys beyond are 0.
inline void transpose_panel(const float* x, int64_t row_stride, int64_t keys, int64_t d,
                            float* panel) {
  if (keys < kPanel) std::memset(panel, 0, size_t(d * kPanel) * sizeof(float));
  int64_t key = 0;
  for (; key + kLanes <= keys; key += kLanes) {
    const float* const rows = x + key * row_stride;
    int64_t i = 0;
    for (; i + 4 <= d; i += 4)
      transpose_quarters(rows + i, row_stride, panel + i * kPanel + key, kPanel);
    for (; i < d; ++i)
      for (int64_t lane = 0; lane < kLanes; ++lane)
        panel[i * kPanel + key + lane] = rows[lane * row_stride + i];
  }
  for (; key < keys; ++key)
    for (int64_t i = 0; i < d; ++i) panel[i * kPanel + key] = x[key * row_stride + i];
}

// s[r, key] = scale * sum_d x[r, d] panel[d, key] for the first kVectors vectors of a panel's keys.
template <int kRows, int kVectors>
void score_rows(const float* x, int64_t row_stride, const float* panel, int64_t d, float scale,
                float* s, int64_t s_stride) {
  Floats sums[kRows][kVectors] = {};
  for (int64_t i = 0; i < d; ++i) {
    Floats keys[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) keys[v] = load(panel + i * kPanel + v * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Floats value = broadcast(x[r * row_stride + i]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sums[r][v] = fma(value, keys[v], sums[r][v]);
    }
  }
  const Floats scales = broadcast(scale);
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) store(s + r * s_stride + v * kLanes, sums[r][v] * scales);
}

#if defined(PL_TARGET_AVX512)
#define PL_ROW_CASES(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8)
#elif defined(PL_TARGET_AVX2)
#define PL_ROW_CASES(X) X(1) X(2) X(3) X(4) X(5) X(6)
#else
#define PL_ROW_CASES(X) X(1) X(2) X(3) X(4)
#endif

// Scores of a group of rows with the first `keys` keys of panels that follow one another, rounded
// up to whole vectors: returns that number.
inline int64_t scores(int rows, const float* x, int64_t row_stride, const float* panels,
                      int64_t keys, int64_t d, float scale, float* s, int64_t s_stride) {
  int64_t covered = 0;
  for (; covered < keys; panels += kPanel * d) {
    const bool whole = keys - covered > kLanes;
    switch (rows) {
#define PL_CASE(n)                                                                              \
  case n:                                                                                       \
    whole ? score_rows<n, kTileVectors>(x, row_stride, panels, d, scale, s + covered, s_stride) \
          : score_rows<n, 1>(x, row_stride, panels, d, scale, s + covered, s_stride);           \
    break;
      PL_ROW_CASES(PL_CASE)
#undef PL_CASE
    }
    covered += whole ? kPanel : kLanes;
  }
  return covered;
}

// What accumulate() multiplies: sums[r, :] = factors[r] * sums[r, :] + sum_k p[r, k] x[k, :]. If
// `first`, sums are what they were before any, 0.
struct Accumulation {
  const float* p;
  int64_t p_row, p_column;  // strides
  const float* x;
  int64_t x_stride;
  int64_t count;  // of k
  bool first;
  const float* factors;  // null: all 1
  float* sums;
  int64_t sums_stride;  // a multiple of kLanes, d at least
};

// kVectors vectors of columns from `column` on; the last one has `rest` columns.
template <int kRows, int kVectors>
inline void accumulate_columns(const Accumulation& a, int64_t column, int rest) {
  Floats sums[kRows][kVectors];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      sums[r][v] = zeros();
      if (a.first) continue;
      sums[r][v] = load(a.sums + r * a.sums_stride + column + v * kLanes);
      if (a.factors) sums[r][v] = sums[r][v] * broadcast(a.factors[r]);
    }
  const float* x = a.x + column;
  const float* p = a.p;
  const int64_t count = a.count, x_stride = a.x_stride, p_row = a.p_row, p_column = a.p_column;
  if (rest == kLanes) {
    for (int64_t k = 0; k < count; ++k, x += x_stride, p += p_column) {
      Floats xs[kVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) xs[v] = load(x + v * kLanes);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const Floats value = broadcast(p[r * p_row]);
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) sums[r][v] = fma(value, xs[v], sums[r][v]);
      }
    }
  } else {
    for (int64_t k = 0; k < count; ++k, x += x_stride, p += p_column) {
      Floats xs[kVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors - 1; ++v) xs[v] = load(x + v * kLanes);
      xs[kVectors - 1] = load_partial(x + (kVectors - 1) * kLanes, rest);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const Floats value = broadcast(p[r * p_row]);
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) sums[r][v] = fma(value, xs[v], sums[r][v]);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v)
      store(a.sums + r * a.sums_stride + column + v * kLanes, sums[r][v]);
}

template <int kRows>
inline void accumulate_rows(const Accumulation& a, int64_t d) {
  int64_t column = 0;
  for (; column + kLanes < d; column += kTileVectors * kLanes) {
    const int64_t rest = d - column - kLanes;
    accumulate_columns<kRows, 2>(a, column, rest < kLanes ? int(rest) : kLanes);
  }
  if (column < d) accumulate_columns<kRows, 1>(a, column, int(d - column));
}

inline void accumulate(int rows, const Accumulation& a, int64_t d) {
  switch (rows) {
#define PL_CASE(n) \
  case n:          \
    return accumulate_rows<n>(a, d);
    PL_ROW_CASES(PL_CASE)
#undef PL_CASE
  }
}
#undef PL_ROW_CASES

constexpr float kLog2E = 1.44269504f, kLn2 = 0.693147181f;

// Scores of a group of rows, times log2 e, become 2^(score - largest); those of keys that a row
// does not see, 0. The scores cover `keys` keys, a multiple of kLanes, of which row r sees the
// first seen[r]. largest_seen and totals, which are kept by lanes, are of all keys so far.
// factors[r] is what older sums must be multiplied by: kLanes of them.
inline void softmax_rows(int rows, float* s, int64_t s_stride, int64_t keys, const int64_t* seen,
                         float* largest_seen, Floats* totals, float* factors) {
  float before[kLanes] = {}, now[kLanes] = {};
  for (int r = 0; r < rows; ++r) {
    float* const row = s + r * s_stride;
    for (int64_t i = (seen[r] < 0 ? 0 : seen[r]) / kLanes * kLanes; i < keys; i += kLanes)
      store(row + i, select(lane_index() < broadcast(int32_t(seen[r] - i)), load(row + i),
                            broadcast(-__builtin_inff())));
    before[r] = largest_seen[r];
    Floats most = broadcast(before[r]);
    for (int64_t i = 0; i < keys; i += kLanes) most = maximum(load(row + i), most);
    now[r] = largest(most);
  }
  store(factors, exp2_below_zero(load(before) - load(now)));
  for (int r = 0; r < rows; ++r) {
    float* const row = s + r * s_stride;
    const Floats shift = broadcast(now[r]);
    Floats total = totals[r] * broadcast(factors[r]);
    for (int64_t i = 0; i < keys; i += kLanes) {
      const Floats p = exp2_below_zero(load(row + i) - shift);
      store(row + i, p);
      total = total + p;
    }
    totals[r] = total;
    largest_seen[r] = now[r];
  }
}

}  // namespace
}  // namespace polylora::cpu::PL_TARGET

#endif  // PL_TARGET
