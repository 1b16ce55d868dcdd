#include <algorithm>
#include <cmath>
#include <cstring>

#include "cpu/layout.h"
#include "cpu/operations.h"

namespace polylora::cpu {

namespace {

template <class T>
bool one_byte_repeated(T value) {
  unsigned char bytes[sizeof(T)];
  std::memcpy(bytes, &value, sizeof value);
  return std::count(bytes, bytes + sizeof bytes, bytes[0]) == int64_t(sizeof bytes);
}

template <class T>
void fill(Pool& pool, const pl_tensor& y, T value) {
  const Layout<1> layout({&y});
  const bool repeated = one_byte_repeated(value);
  T* const data = static_cast<T*>(y.data);
  const int64_t stride = layout.inner_stride(0);
  parallel_spans(pool, layout, [&](int64_t row, int64_t begin, int64_t end) {
    T* const p = data + layout.offset(0, row);
    if (stride == 1 && repeated)
      std::memset(p + begin, *reinterpret_cast<const unsigned char*>(&value),
                  size_t(end - begin) * sizeof(T));
    else if (stride == 1)
      for (int64_t i = begin; i < end; ++i) p[i] = value;
    else
      for (int64_t i = begin; i < end; ++i) p[i * stride] = value;
  });
}

uint32_t float_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

// To `digits` of significand, ties to even, straight from double: rounding through float could
// round twice.
double round_significand(double value, int digits, int lowest_exponent) {
  if (value == 0 || !std::isfinite(value)) return value;
  int exponent;
  std::frexp(value, &exponent);
  const int unit = std::max(exponent - digits, lowest_exponent);
  return std::ldexp(std::nearbyint(std::ldexp(value, -unit)), unit);
}

uint16_t bf16_bits(double value) {
  if (std::isnan(value)) return 0x7fc0;
  // The float is exact, or an infinity.
  return uint16_t(float_bits(float(round_significand(value, 8, -133))) >> 16);
}

uint16_t f16_bits(double value) {
  if (std::isnan(value)) return 0x7e00;
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const double rounded = std::fabs(round_significand(value, 11, -24));
  if (rounded >= 65536) return sign | 0x7c00;
  if (rounded < 0x1p-14) return sign | uint16_t(rounded * 0x1p24);
  int exponent;
  const double fraction = std::frexp(rounded, &exponent);  // [0.5, 1)
  return sign | uint16_t((exponent + 14) << 10) | (uint16_t(fraction * 2048) & 0x3ff);
}

}  // namespace

void run_fill(Pool& pool, const pl_fill_args& args) {
  switch (args.y.dtype) {
    case PL_F32:
      return fill(pool, args.y, float(args.value));
    case PL_BF16:
      return fill(pool, args.y, bf16_bits(args.value));
    case PL_F16:
      return fill(pool, args.y, f16_bits(args.value));
    case PL_I32:
      return fill(pool, args.y, int32_t(args.value));
    case PL_U8:
      return fill(pool, args.y, uint8_t(args.value));
    default:
      throw KernelError("fill: dtype " + std::to_string(args.y.dtype));
  }
}

}  // namespace polylora::cpu
