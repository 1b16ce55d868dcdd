// Dropout's random draws (philox.h) in vectors. Included where PL_TARGET is defined.
#ifdef PL_TARGET

namespace polylora::cpu::PL_TARGET {
namespace {

// low and high 32 bits of x * multiplier
PL_INLINE void multiply_wide(Ints x, uint32_t multiplier, Ints* low, Ints* high) {
#if defined(PL_TARGET_AVX512)
  const __m512i m = _mm512_set1_epi32(int(multiplier));
  const __m512i even = _mm512_maskz_mul_epu32(0xff, (__m512i)x, m);
  const __m512i odd =
      _mm512_maskz_mul_epu32(0xff, _mm512_maskz_srli_epi64(0xff, (__m512i)x, 32), m);
  *low = (Ints)_mm512_mask_shuffle_epi32(even, 0xaaaa, odd, _MM_PERM_CCAA);
  *high = (Ints)_mm512_mask_shuffle_epi32(odd, 0x5555, even, _MM_PERM_DDBB);
#elif defined(PL_TARGET_AVX2)
  const __m256i m = _mm256_set1_epi32(int(multiplier));
  const __m256i even = _mm256_mul_epu32((__m256i)x, m);
  const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64((__m256i)x, 32), m);
  *low = (Ints)_mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa);
  *high = (Ints)_mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
#else
  for (int i = 0; i < kLanes; ++i) {
    const uint64_t product = uint64_t(uint32_t(x[i])) * multiplier;
    (*low)[i] = int32_t(uint32_t(product));
    (*high)[i] = int32_t(uint32_t(product >> 32));
  }
#endif
}

constexpr int kDraws = 8 * kLanes;  // that one vector of counters gives

// The 16 bits of a group's 8 columns from the 4 words of its lane, in the order of the groups.
PL_INLINE void store_draws(Ints x, Ints y, Ints z, Ints w, uint16_t* draws) {
  int32_t* out = reinterpret_cast<int32_t*>(draws);
#if defined(PL_TARGET_AVX512)
  const __m512i xy0 = _mm512_maskz_unpacklo_epi32(0xffff, (__m512i)x, (__m512i)y);
  const __m512i xy1 = _mm512_maskz_unpackhi_epi32(0xffff, (__m512i)x, (__m512i)y);
  const __m512i zw0 = _mm512_maskz_unpacklo_epi32(0xffff, (__m512i)z, (__m512i)w);
  const __m512i zw1 = _mm512_maskz_unpackhi_epi32(0xffff, (__m512i)z, (__m512i)w);
  store(out, (Ints)_mm512_maskz_unpacklo_epi64(0xff, xy0, zw0));
  store(out + 16, (Ints)_mm512_maskz_unpackhi_epi64(0xff, xy0, zw0));
  store(out + 32, (Ints)_mm512_maskz_unpacklo_epi64(0xff, xy1, zw1));
  store(out + 48, (Ints)_mm512_maskz_unpackhi_epi64(0xff, xy1, zw1));
#elif defined(PL_TARGET_AVX2)
  const __m256i xy0 = _mm256_unpacklo_epi32((__m256i)x, (__m256i)y);
  const __m256i xy1 = _mm256_unpackhi_epi32((__m256i)x, (__m256i)y);
  const __m256i zw0 = _mm256_unpacklo_epi32((__m256i)z, (__m256i)w);
  const __m256i zw1 = _mm256_unpackhi_epi32((__m256i)z, (__m256i)w);
  store(out, (Ints)_mm256_unpacklo_epi64(xy0, zw0));
  store(out + 8, (Ints)_mm256_unpackhi_epi64(xy0, zw0));
  store(out + 16, (Ints)_mm256_unpacklo_epi64(xy1, zw1));
  store(out + 24, (Ints)_mm256_unpackhi_epi64(xy1, zw1));
#else
  for (int i = 0; i < kLanes; ++i) {
    draws[8 * i + 0] = uint16_t(x[i]);
    draws[8 * i + 1] = uint16_t(uint32_t(x[i]) >> 16);
    draws[8 * i + 2] = uint16_t(y[i]);
    draws[8 * i + 3] = uint16_t(uint32_t(y[i]) >> 16);
    draws[8 * i + 4] = uint16_t(z[i]);
    draws[8 * i + 5] = uint16_t(uint32_t(z[i]) >> 16);
    draws[8 * i + 6] = uint16_t(w[i]);
    draws[8 * i + 7] = uint16_t(uint32_t(w[i]) >> 16);
  }
  (void)out;
#endif
}

// The 16 bits of kVectors * kDraws columns from 8 * group on. One vector's rounds wait for each
// other, so that two take hardly longer than one. Where a round's operands are those of the whole
// row, its product is one number: one of the two in each of the first two rounds.
template <int kVectors>
PL_INLINE void dropout_draws(const Dropout& dropout, int64_t row, int64_t group, uint16_t* draws) {
  // store_draws transposes each 128 bits by themselves: lane 4q + j has group kLanes/4 * j + q.
  Ints groups;
  for (int i = 0; i < kLanes; ++i) groups[i] = i % 4 * (kLanes / 4) + i / 4;
  groups = groups + broadcast(int32_t((dropout.module << 16) | uint32_t(group)));
  const auto& keys = dropout.keys;
  const uint64_t first = uint64_t(kPhiloxMultiplier1) * uint32_t(dropout.sample[row]);
  const uint64_t second =
      kPhiloxMultiplier0 *
      uint64_t(uint32_t(first >> 32) ^ uint32_t(dropout.position[row]) ^ keys[0][0]);
  Ints x[kVectors], y[kVectors], z[kVectors], w[kVectors];
#pragma GCC unroll 2
  for (int v = 0; v < kVectors; ++v) {
    Ints low0, high0, low1, high1;
    multiply_wide(groups + broadcast(int32_t(v * kLanes)), kPhiloxMultiplier0, &low0, &high0);
    multiply_wide(high0 ^ broadcast(int32_t(dropout.step ^ keys[0][1])), kPhiloxMultiplier1, &low1,
                  &high1);
    x[v] = high1 ^ broadcast(int32_t(uint32_t(first) ^ keys[1][0]));
    z[v] = low0 ^ broadcast(int32_t(uint32_t(second >> 32) ^ keys[1][1]));
    y[v] = low1;
    w[v] = broadcast(int32_t(uint32_t(second)));
  }
#pragma GCC unroll 8
  for (int round = 2; round < 10; ++round)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      Ints low0, high0, low1, high1;
      multiply_wide(x[v], kPhiloxMultiplier0, &low0, &high0);
      multiply_wide(z[v], kPhiloxMultiplier1, &low1, &high1);
      x[v] = high1 ^ y[v] ^ broadcast(int32_t(keys[round][0]));
      z[v] = high0 ^ w[v] ^ broadcast(int32_t(keys[round][1]));
      y[v] = low1;
      w[v] = low0;
    }
#pragma GCC unroll 2
  for (int v = 0; v < kVectors; ++v) store_draws(x[v], y[v], z[v], w[v], draws + v * kDraws);
}

}  // namespace
}  // namespace polylora::cpu::PL_TARGET

#endif  // PL_TARGET
