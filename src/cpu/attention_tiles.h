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

PL_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// 2^x for x <= 0 to about 1.5e-7 of the result, 1 for 0, 0 from -127 down, NaN for NaN.
PL_INLINE Floats exp2_below_zero(Floats x) {
  x = maximum(broadcast(-127.0f), x);  // the second operand, if that is NaN
#if defined(PL_TARGET_AVX512)
  const Floats whole = _mm512_maskz_roundscale_ps(0xffff, x, 8);  // to nearest
#else
  const Ints n = to_ints(x);
  const Floats whole = to_floats(n);
#endif
  // 1 + r q(r) is 2^r on |r| <= 1/2 with the smallest relative error, 9.2e-8.
  const Floats r = x - whole;
  Floats q = broadcast(0x1.5bba14p-10f);
  q = fma(q, r, broadcast(0x1.3cea88p-7f));
  q = fma(q, r, broadcast(0x1.c6b752p-5f));
  q = fma(q, r, broadcast(0x1.ebf9bcp-3f));
  q = fma(q, r, broadcast(0x1.62e42ap-1f));
  const Floats p = fma(q, r, broadcast(1.0f));
#if defined(PL_TARGET_AVX512)
  const __mmask16 zero = _mm512_cmp_ps_mask(x, broadcast(-127.0f), _CMP_EQ_OQ);
  return _mm512_maskz_scalef_ps(__mmask16(~zero), p, whole);
#else
  return p * as_floats((n + broadcast(int32_t(127))) << 23);  // the factor is 0 for n = -127
#endif
}

// Sixteen bytes of kLanes / 4 rows side by side, then four such vectors transposed within their
// quarters: columns of kLanes rows. The lanes of quarter j come from rows 4 j to 4 j + 3.
#if defined(PL_TARGET_AVX512)
PL_INLINE __m512 quarters(const float* x, int64_t row_stride) {
  __m512 rows = _mm512_castps128_ps512(_mm_loadu_ps(x));
  rows = _mm512_maskz_insertf32x4(0xffff, rows, _mm_loadu_ps(x + 4 * row_stride), 1);
  rows = _mm512_maskz_insertf32x4(0xffff, rows, _mm_loadu_ps(x + 8 * row_stride), 2);
  return _mm512_maskz_insertf32x4(0xffff, rows, _mm_loadu_ps(x + 12 * row_stride), 3);
}
PL_INLINE void transpose_quarters(const float* x, int64_t row_stride, float* y, int64_t y_stride) {
  const __m512 r0 = quarters(x, row_stride), r1 = quarters(x + row_stride, row_stride);
  const __m512 r2 = quarters(x + 2 * row_stride, row_stride),
               r3 = quarters(x + 3 * row_stride, row_stride);
  const __m512 low01 = _mm512_maskz_unpacklo_ps(0xffff, r0, r1),
               high01 = _mm512_maskz_unpackhi_ps(0xffff, r0, r1);
  const __m512 low23 = _mm512_maskz_unpacklo_ps(0xffff, r2, r3),
               high23 = _mm512_maskz_unpackhi_ps(0xffff, r2, r3);
  store(y, _mm512_maskz_shuffle_ps(0xffff, low01, low23, 0x44));
  store(y + y_stride, _mm512_maskz_shuffle_ps(0xffff, low01, low23, 0xee));
  store(y + 2 * y_stride, _mm512_maskz_shuffle_ps(0xffff, high01, high23, 0x44));
  store(y + 3 * y_stride, _mm512_maskz_shuffle_ps(0xffff, high01, high23, 0xee));
}
#elif defined(PL_TARGET_AVX2)
PL_INLINE __m256 quarters(const float* x, int64_t row_stride) {
  return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(x)),
                              _mm_loadu_ps(x + 4 * row_stride), 1);
}
PL_INLINE void transpose_quarters(const float* x, int64_t row_stride, float* y, int64_t y_stride) {
  const __m256 r0 = quarters(x, row_stride), r1 = quarters(x + row_stride, row_stride);
  const __m256 r2 = quarters(x + 2 * row_stride, row_stride),
               r3 = quarters(x + 3 * row_stride, row_stride);
  const __m256 low01 = _mm256_unpacklo_ps(r0, r1), high01 = _mm256_unpackhi_ps(r0, r1);
  const __m256 low23 = _mm256_unpacklo_ps(r2, r3), high23 = _mm256_unpackhi_ps(r2, r3);
  store(y, _mm256_shuffle_ps(low01, low23, 0x44));
  store(y + y_stride, _mm256_shuffle_ps(low01, low23, 0xee));
  store(y + 2 * y_stride, _mm256_shuffle_ps(high01, high23, 0x44));
  store(y + 3 * y_stride, _mm256_shuffle_ps(high01, high23, 0xee));
}
#else
PL_INLINE void transpose_quarters(const float* x, int64_t row_stride, float* y, int64_t y_stride) {
  for (int i = 0; i < 4; ++i)
    store(y + i * y_stride,
          Floats{x[i], x[row_stride + i], x[2 * row_stride + i], x[3 * row_stride + i]});
}
#endif

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

}  // namespace
}  // namespace polylora::cpu::PL_TARGET

#endif  // PL_TARGET
