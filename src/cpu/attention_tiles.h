// The small products of attention, for one instruction set; included where PL_TARGET is defined.
// Each element of a product is summed in the order of the inner index, whatever the number of rows
// taken together, so that a row's bits do not depend on the rows beside it.
#ifdef PL_TARGET

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

// panel[d, key] = x[key, d] for `keys` <= kPanel rows of x; the keys beyond are 0.
inline void transpose_panel(const float* x, int64_t row_stride, int64_t keys, int64_t d,
                            float* panel) {
  if (keys < kPanel) std::memset(panel, 0, size_t(d * kPanel) * sizeof(float));
  for (int64_t first = 0; first < d; first += 16) {
    const int64_t last = first + 16 < d ? first + 16 : d;
    for (int64_t key = 0; key < keys; ++key)
      for (int64_t i = first; i < last; ++i) panel[i * kPanel + key] = x[key * row_stride + i];
  }
}

// s[r, key] = scale * sum_d x[r, d] panel[d, key]
template <int kRows>
void score_rows(const float* x, int64_t row_stride, const float* panel, int64_t d, float scale,
                float* s, int64_t s_stride) {
  Floats sums[kRows][kTileVectors] = {};
  for (int64_t i = 0; i < d; ++i) {
    Floats keys[kTileVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kTileVectors; ++v) keys[v] = load(panel + i * kPanel + v * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Floats value = broadcast(x[r * row_stride + i]);
#pragma GCC unroll 4
      for (int v = 0; v < kTileVectors; ++v) sums[r][v] = fma(value, keys[v], sums[r][v]);
    }
  }
  const Floats scales = broadcast(scale);
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kTileVectors; ++v)
      store(s + r * s_stride + v * kLanes, sums[r][v] * scales);
}

inline void scores(int rows, const float* x, int64_t row_stride, const float* panel, int64_t d,
                   float scale, float* s, int64_t s_stride) {
  switch (rows) {
#define PL_CASE(n) \
  case n:          \
    return score_rows<n>(x, row_stride, panel, d, scale, s, s_stride);
    PL_CASE(1)
    PL_CASE(2)
    PL_CASE(3)
    PL_CASE(4)
#if defined(PL_TARGET_AVX2) || defined(PL_TARGET_AVX512)
    PL_CASE(5)
    PL_CASE(6)
#endif
#if defined(PL_TARGET_AVX512)
    PL_CASE(7)
    PL_CASE(8)
#endif
#undef PL_CASE
  }
}

// What accumulate() multiplies: sums[r, :] = factors[r] * sums[r, :] + sum_k p[r, k] x[k, :].
struct Accumulation {
  const float* p;
  int64_t p_row, p_column;  // strides
  const float* x;
  int64_t x_stride;
  int64_t count;         // of k
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
    PL_CASE(1)
    PL_CASE(2)
    PL_CASE(3)
    PL_CASE(4)
#if defined(PL_TARGET_AVX2) || defined(PL_TARGET_AVX512)
    PL_CASE(5)
    PL_CASE(6)
#endif
#if defined(PL_TARGET_AVX512)
    PL_CASE(7)
    PL_CASE(8)
#endif
#undef PL_CASE
  }
}

PL_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

}  // namespace
}  // namespace polylora::cpu::PL_TARGET

#endif  // PL_TARGET
