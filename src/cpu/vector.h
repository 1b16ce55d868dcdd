// The vectors of one instruction set: Floats and Ints of kLanes elements. Included by
// cpu/for_each_target.h once for each target. +, -, *, / and comparisons are the compiler's; a
// comparison gives Ints of 0 or -1. The number of lanes, and so the order of every sum made here,
// depends on the instruction set alone.
#ifdef PL_TARGET

namespace polylora::cpu::PL_TARGET {
namespace {

#define PL_INLINE static inline __attribute__((always_inline, unused))

#if defined(PL_TARGET_AVX512)
constexpr int kLanes = 16;
#elif defined(PL_TARGET_AVX2)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float Floats __attribute__((vector_size(kLanes * 4)));
typedef int32_t Ints __attribute__((vector_size(kLanes * 4)));
// The same without alignment, for memory.
typedef float FloatsInMemory __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));
typedef int32_t IntsInMemory __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));

PL_INLINE Floats zeros() { return Floats{}; }
PL_INLINE Floats broadcast(float x) { return x - Floats{}; }  // x - (+0) is x, for -0 and NaN too
PL_INLINE Ints broadcast(int32_t x) { return x + Ints{}; }
PL_INLINE Floats load(const float* p) { return *reinterpret_cast<const FloatsInMemory*>(p); }
PL_INLINE Ints load(const int32_t* p) { return *reinterpret_cast<const IntsInMemory*>(p); }
PL_INLINE void store(float* p, Floats x) { *reinterpret_cast<FloatsInMemory*>(p) = x; }
PL_INLINE void store(int32_t* p, Ints x) { *reinterpret_cast<IntsInMemory*>(p) = x; }
PL_INLINE Floats as_floats(Ints x) { return reinterpret_cast<Floats>(x); }
PL_INLINE Ints as_ints(Floats x) { return reinterpret_cast<Ints>(x); }
PL_INLINE Floats select(Ints condition, Floats yes, Floats no) { return condition ? yes : no; }
PL_INLINE Ints lane_index() {
  Ints lanes;
  for (int i = 0; i < kLanes; ++i) lanes[i] = i;
  return lanes;
}
PL_INLINE Floats absolute(Floats x) {
  return as_floats(as_ints(x) & broadcast(int32_t(0x7fffffff)));
}

// The masked forms with every lane on are the plain instructions; GCC 12 warns about its own
// headers at the others.
#if defined(PL_TARGET_AVX512)

PL_INLINE Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
// x86's rule: the second operand where one is NaN.
PL_INLINE Floats maximum(Floats a, Floats b) { return _mm512_maskz_max_ps(0xffff, a, b); }
PL_INLINE Floats minimum(Floats a, Floats b) { return _mm512_maskz_min_ps(0xffff, a, b); }
PL_INLINE Floats square_root(Floats x) { return _mm512_maskz_sqrt_ps(0xffff, x); }
PL_INLINE Ints to_ints(Floats x) {
  return (Ints)_mm512_maskz_cvtps_epi32(0xffff, x);
}  // to nearest, ties to even
PL_INLINE Floats to_floats(Ints x) { return _mm512_maskz_cvtepi32_ps(0xffff, (__m512i)x); }
// Of a comparison's result.
PL_INLINE bool any(Ints condition) {
  return _mm512_test_epi32_mask((__m512i)condition, (__m512i)condition) != 0;
}
// The first n lanes, 0 <= n <= kLanes; the others are 0 and are not touched in memory.
PL_INLINE Floats load_partial(const float* p, int n) {
  return _mm512_maskz_loadu_ps(__mmask16((1u << n) - 1), p);
}
PL_INLINE void store_partial(float* p, Floats x, int n) {
  _mm512_mask_storeu_ps(p, __mmask16((1u << n) - 1), x);
}

#elif defined(PL_TARGET_AVX2)

PL_INLINE Floats fma(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
PL_INLINE Floats maximum(Floats a, Floats b) { return _mm256_max_ps(a, b); }
PL_INLINE Floats minimum(Floats a, Floats b) { return _mm256_min_ps(a, b); }
PL_INLINE Floats square_root(Floats x) { return _mm256_sqrt_ps(x); }
PL_INLINE Ints to_ints(Floats x) { return (Ints)_mm256_cvtps_epi32(x); }
PL_INLINE Floats to_floats(Ints x) { return _mm256_cvtepi32_ps((__m256i)x); }
PL_INLINE bool any(Ints condition) { return _mm256_movemask_ps((__m256)condition) != 0; }
PL_INLINE Floats load_partial(const float* p, int n) {
  return _mm256_maskload_ps(p, (__m256i)(lane_index() < broadcast(int32_t(n))));
}
PL_INLINE void store_partial(float* p, Floats x, int n) {
  _mm256_maskstore_ps(p, (__m256i)(lane_index() < broadcast(int32_t(n))), x);
}

#else

PL_INLINE Floats fma(Floats a, Floats b, Floats c) { return a * b + c; }  // rounds twice
PL_INLINE Floats maximum(Floats a, Floats b) { return a > b ? a : b; }
PL_INLINE Floats minimum(Floats a, Floats b) { return a < b ? a : b; }
PL_INLINE Floats square_root(Floats x) {
  for (int i = 0; i < kLanes; ++i) x[i] = __builtin_sqrtf(x[i]);
  return x;
}
PL_INLINE Ints to_ints(Floats x) {
  // Adding and taking away 1.5 * 2^23 rounds to nearest, ties to even, for |x| < 2^22.
  const Floats shift = broadcast(12582912.0f);
  return as_ints(x + shift) - as_ints(shift);
}
PL_INLINE Floats to_floats(Ints x) { return __builtin_convertvector(x, Floats); }
PL_INLINE bool any(Ints condition) {
  return (condition[0] | condition[1] | condition[2] | condition[3]) != 0;
}
PL_INLINE Floats load_partial(const float* p, int n) {
  return Floats{n > 0 ? p[0] : 0.0f, n > 1 ? p[1] : 0.0f, n > 2 ? p[2] : 0.0f, n > 3 ? p[3] : 0.0f};
}
PL_INLINE void store_partial(float* p, Floats x, int n) {
  if (n > 0) p[0] = x[0];
  if (n > 1) p[1] = x[1];
  if (n > 2) p[2] = x[2];
  if (n > 3) p[3] = x[3];
}

#endif

// What is left of a row of `left` > 0 elements, kLanes at most.
PL_INLINE Floats load_some(const float* p, int64_t left) {
  return left >= kLanes ? load(p) : load_partial(p, int(left));
}
PL_INLINE void store_some(float* p, Floats x, int64_t left) {
  if (left >= kLanes)
    store(p, x);
  else
    store_partial(p, x, int(left));
}

// The upper half is folded onto the lower until one lane is left: a fixed tree.
PL_INLINE float sum(Floats x) {
#if defined(PL_TARGET_AVX512)
  const __m256 x8 = _mm256_add_ps(_mm512_maskz_extractf32x8_ps(0xff, x, 0),
                                  _mm512_maskz_extractf32x8_ps(0xff, x, 1));
#elif defined(PL_TARGET_AVX2)
  const __m256 x8 = x;
#endif
#if defined(PL_TARGET_AVX512) || defined(PL_TARGET_AVX2)
  const __m128 x4 = _mm_add_ps(_mm256_castps256_ps128(x8), _mm256_extractf128_ps(x8, 1));
  const __m128 x2 = _mm_add_ps(x4, _mm_movehl_ps(x4, x4));
  return _mm_cvtss_f32(_mm_add_ss(x2, _mm_movehdup_ps(x2)));
#else
  return (x[0] + x[2]) + (x[1] + x[3]);
#endif
}

// Of lanes that are numbers.
PL_INLINE float largest(Floats x) {
#if defined(PL_TARGET_AVX512)
  const __m256 x8 = _mm256_max_ps(_mm512_maskz_extractf32x8_ps(0xff, x, 0),
                                  _mm512_maskz_extractf32x8_ps(0xff, x, 1));
#elif defined(PL_TARGET_AVX2)
  const __m256 x8 = x;
#endif
#if defined(PL_TARGET_AVX512) || defined(PL_TARGET_AVX2)
  const __m128 x4 = _mm_max_ps(_mm256_castps256_ps128(x8), _mm256_extractf128_ps(x8, 1));
  const __m128 x2 = _mm_max_ps(x4, _mm_movehl_ps(x4, x4));
  return _mm_cvtss_f32(_mm_max_ss(x2, _mm_movehdup_ps(x2)));
#else
  const float low = x[0] > x[2] ? x[0] : x[2], high = x[1] > x[3] ? x[1] : x[3];
  return low > high ? low : high;
#endif
}

}  // namespace
}  // namespace polylora::cpu::PL_TARGET

#endif  // PL_TARGET
