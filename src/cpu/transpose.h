// Transposition in registers, for one instruction set; included where PL_TARGET is defined.
#ifdef PL_TARGET

namespace polylora::cpu::PL_TARGET {
namespace {

// y[i * y_stride + j] = x[j * row_stride + i] for i < 4 and j < kLanes.
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

}  // namespace
}  // namespace polylora::cpu::PL_TARGET

#endif  // PL_TARGET
