// Transposition of a square of vectors held in registers. Included where PL_TARGET is defined,
// after cpu/vector.h.
#ifdef PL_TARGET

namespace polylora::cpu::PL_TARGET {
namespace {

PL_INLINE void transpose(Floats (&rows)[kLanes]) {
#if defined(PL_TARGET_AVX512)
  Floats pairs[16], fours[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    pairs[i] = _mm512_maskz_unpacklo_ps(0xffff, rows[i], rows[i + 1]);
    pairs[i + 1] = _mm512_maskz_unpackhi_ps(0xffff, rows[i], rows[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4)
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      const __m512d low = (__m512d)pairs[i + j], high = (__m512d)pairs[i + j + 2];
      fours[i + 2 * j] = (Floats)_mm512_maskz_unpacklo_pd(0xff, low, high);
      fours[i + 2 * j + 1] = (Floats)_mm512_maskz_unpackhi_pd(0xff, low, high);
    }
    // fours[4q + j] holds, in lane of 128 bits p, element 4p + j of rows 4q .. 4q + 3.
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const Floats a = _mm512_maskz_shuffle_f32x4(0xffff, fours[j], fours[4 + j], 0x88);
    const Floats b = _mm512_maskz_shuffle_f32x4(0xffff, fours[8 + j], fours[12 + j], 0x88);
    const Floats c = _mm512_maskz_shuffle_f32x4(0xffff, fours[j], fours[4 + j], 0xdd);
    const Floats d = _mm512_maskz_shuffle_f32x4(0xffff, fours[8 + j], fours[12 + j], 0xdd);
    rows[j] = _mm512_maskz_shuffle_f32x4(0xffff, a, b, 0x88);
    rows[8 + j] = _mm512_maskz_shuffle_f32x4(0xffff, a, b, 0xdd);
    rows[4 + j] = _mm512_maskz_shuffle_f32x4(0xffff, c, d, 0x88);
    rows[12 + j] = _mm512_maskz_shuffle_f32x4(0xffff, c, d, 0xdd);
  }
#elif defined(PL_TARGET_AVX2)
  Floats pairs[8], fours[8];
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    pairs[i] = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
    pairs[i + 1] = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4)
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      fours[i + 2 * j] = _mm256_shuffle_ps(pairs[i + j], pairs[i + j + 2], 0x44);
      fours[i + 2 * j + 1] = _mm256_shuffle_ps(pairs[i + j], pairs[i + j + 2], 0xee);
    }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    rows[j] = _mm256_permute2f128_ps(fours[j], fours[4 + j], 0x20);
    rows[4 + j] = _mm256_permute2f128_ps(fours[j], fours[4 + j], 0x31);
  }
#else
  const Floats a = rows[0], b = rows[1], c = rows[2], d = rows[3];
  for (int i = 0; i < 4; ++i) rows[i] = Floats{a[i], b[i], c[i], d[i]};
#endif
}

}  // namespace
}  // namespace polylora::cpu::PL_TARGET

#endif  // PL_TARGET
