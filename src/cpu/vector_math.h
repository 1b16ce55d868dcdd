// Exponentials and log of the vectors of one instruction set. Included, like cpu/vector.h, where
// PL_TARGET is defined; the same argument gives the same bits in every lane.
#ifdef PL_TARGET

namespace polylora::cpu::PL_TARGET {
namespace {

// Below 1.5 ulp (2 where the result is denormal); exp(-infinity) is 0, overflow is infinity, NaN
// stays NaN.
PL_INLINE Floats exp(Floats x) {
  // maximum and minimum return their second operand if it is NaN. Beyond the bounds the result is
  // 0 or infinity by the two factors below.
  x = maximum(broadcast(-110.0f), x);
  x = minimum(broadcast(90.0f), x);
  const Ints n = to_ints(x * broadcast(1.44269504f));
  const Floats whole = to_floats(n);
  // ln 2 in two parts, the first with few enough bits for whole * part to be exact.
  Floats r = fma(whole, broadcast(-0.693359375f), x);
  r = fma(whole, broadcast(2.12194440e-4f), r);
  // exp(r) = 1 + r + r^2 q(r) on |r| <= ln 2 / 2 (minimax, relative error 4e-9).
  Floats q = broadcast(1.9875691500e-4f);
  q = fma(q, r, broadcast(1.3981999507e-3f));
  q = fma(q, r, broadcast(8.3334519073e-3f));
  q = fma(q, r, broadcast(4.1665795894e-2f));
  q = fma(q, r, broadcast(1.6666665459e-1f));
  q = fma(q, r, broadcast(5.0000001201e-1f));
  const Floats p = fma(q, r * r, r) + broadcast(1.0f);
  // 2^n as two factors, as n reaches from -159 to 130.
  const Ints half = n >> 1;
  const Ints bias = broadcast(int32_t(127));
  return p * as_floats((half + bias) << 23) * as_floats((n - half + bias) << 23);
}

// 2^(whole + r) for a whole number in [-127, 0] and |r| <= 1/2 or little more, to about 1.5e-7;
// exactly 1 for 0 and 0 for -127.
PL_INLINE Floats power_of_two(Floats whole, Floats r) {
  // 1 + r q(r) is 2^r with the smallest relative error, 9.2e-8.
  Floats q = broadcast(0x1.5bba14p-10f);
  q = fma(q, r, broadcast(0x1.3cea88p-7f));
  q = fma(q, r, broadcast(0x1.c6b752p-5f));
  q = fma(q, r, broadcast(0x1.ebf9bcp-3f));
  q = fma(q, r, broadcast(0x1.62e42ap-1f));
  const Floats p = fma(q, r, broadcast(1.0f));
  return p * as_floats((to_ints(whole) + broadcast(int32_t(127))) << 23);
}

// To the nearest whole number, for numbers that an Ints can hold.
PL_INLINE Floats round_to_whole(Floats x) {
#if defined(PL_TARGET_AVX512)
  return _mm512_maskz_roundscale_ps(0xffff, x, 8);
#else
  return to_floats(to_ints(x));
#endif
}

// 2^x for x <= 0; 0 from about -126.5 down, NaN stays NaN. Cheaper than exp: for softmaxes, in
// whose sums 2^-126 is nothing.
PL_INLINE Floats exp2_below_zero(Floats x) {
  x = maximum(broadcast(-127.0f), x);  // the second operand, if that is NaN
  const Floats whole = round_to_whole(x);
  return power_of_two(whole, x - whole);
}

// e^x for x <= 0, likewise; 0 from about -87.7 down.
PL_INLINE Floats exp_below_zero(Floats x) {
  x = maximum(broadcast(-88.0f), x);
  const Floats whole = round_to_whole(x * broadcast(1.44269502f));
  // ln 2 in two parts, as in exp().
  Floats r = fma(whole, broadcast(-0.693359375f), x);
  r = fma(whole, broadcast(2.12194440e-4f), r);
  return power_of_two(whole, r * broadcast(1.44269502f));
}

// Natural logarithm, below 1.5 ulp; log(0) is -infinity, negative numbers and NaN give NaN.
PL_INLINE Floats log(Floats x) {
  const Floats tiny = broadcast(1.17549435e-38f);
  const Ints small = x < tiny;                                      // 0 and denormals too
  const Floats positive = select(x > zeros(), x, broadcast(1.0f));  // the others are chosen below
  const Floats scaled = select(small, positive * broadcast(8388608.0f), positive);
  // scaled = 2^e m with m in [sqrt(1/2), sqrt(2))
  const Ints bits = as_ints(scaled) - broadcast(int32_t(0x3f3504f3));
  const Ints exponent = bits >> 23;
  const Floats m =
      as_floats((bits & broadcast(int32_t(0x007fffff))) + broadcast(int32_t(0x3f3504f3)));
  const Floats e = to_floats(exponent - (small & broadcast(int32_t(23))));
  const Floats f = m - broadcast(1.0f);
  // log(1 + f) = f - f^2/2 + f^3 q(f)
  Floats q = broadcast(7.0376836292e-2f);
  q = fma(q, f, broadcast(-1.1514610310e-1f));
  q = fma(q, f, broadcast(1.1676998740e-1f));
  q = fma(q, f, broadcast(-1.2420140846e-1f));
  q = fma(q, f, broadcast(1.4249322787e-1f));
  q = fma(q, f, broadcast(-1.6668057665e-1f));
  q = fma(q, f, broadcast(2.0000714765e-1f));
  q = fma(q, f, broadcast(-2.4999993993e-1f));
  q = fma(q, f, broadcast(3.3333331174e-1f));
  const Floats square = f * f;
  Floats tail = fma(e, broadcast(-2.12194440e-4f), f * square * q);
  tail = fma(square, broadcast(-0.5f), tail);
  const Floats result = fma(e, broadcast(0.693359375f), f + tail);
  const Floats infinity = broadcast(__builtin_inff());
  return select(x > zeros(), select(x == infinity, infinity, result),
                select(x == zeros(), -infinity, broadcast(__builtin_nanf(""))));
}

}  // namespace
}  // namespace polylora::cpu::PL_TARGET

#endif  // PL_TARGET
