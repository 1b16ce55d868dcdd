// Conversions: to bf16 and f16 to nearest, ties to even, NaN stays NaN; float to integer towards
// zero, held to the integer's range, NaN becomes 0; i32 to u8 held to the range. Between equal
// dtypes bits are copied.
#include "cuda/layout.h"
#include "cuda/numbers.h"
#include "cuda/operations.h"

namespace polylora::cuda {
namespace {

template <class Y, class X>
struct Convert {
  __device__ static Y of(X x) { return narrow<Y>(widen(x)); }
};
template <class T>
struct Convert<T, T> {
  __device__ static T of(T x) { return x; }
};
template <class X>
struct Convert<int32_t, X> {
  __device__ static int32_t of(X value) {
    const float x = widen(value);
    return x >= 2147483648.0f    ? 2147483647
           : x >= -2147483648.0f ? int32_t(x)
           : x != x              ? 0
                                 : int32_t(-2147483647 - 1);
  }
};
template <class X>
struct Convert<uint8_t, X> {
  __device__ static uint8_t of(X value) {
    const float x = widen(value);
    return x >= 255.0f ? 255 : x > 0.0f ? uint8_t(x) : 0;
  }
};
template <class Y>
struct Convert<Y, int32_t> {
  __device__ static Y of(int32_t x) { return Y(x); }
};
template <class Y>
struct Convert<Y, uint8_t> {
  __device__ static Y of(uint8_t x) { return Y(x); }
};
template <>
struct Convert<int32_t, int32_t> {
  __device__ static int32_t of(int32_t x) { return x; }
};
template <>
struct Convert<uint8_t, uint8_t> {
  __device__ static uint8_t of(uint8_t x) { return x; }
};
template <>
struct Convert<int32_t, uint8_t> {
  __device__ static int32_t of(uint8_t x) { return x; }
};
template <>
struct Convert<uint8_t, int32_t> {
  __device__ static uint8_t of(int32_t x) { return x >= 255 ? 255 : x > 0 ? uint8_t(x) : 0; }
};

template <class X, class Y>
struct Copy {
  Layout<2> layout;
  const X* x;
  Y* y;
  __device__ void operator()(int64_t i) const {
    y[layout.template offset<0>(i)] = Convert<Y, X>::of(x[layout.template offset<1>(i)]);
  }
};

template <class X, class Y>
void copy(Stream& stream, const pl_copy_args& args) {
  const Layout<2> layout({&args.y, &args.x});
  for_each_element(
      stream, layout.count,
      Copy<X, Y>{layout, static_cast<const X*>(args.x.data), static_cast<Y*>(args.y.data)});
}

void copy_bits(Stream& stream, const pl_copy_args& args) {
  switch (args.x.dtype) {
    case PL_F32:
    case PL_I32:
      return copy<int32_t, int32_t>(stream, args);
    case PL_BF16:
    case PL_F16:
      return copy<bf16, bf16>(stream, args);
    default:
      return copy<uint8_t, uint8_t>(stream, args);
  }
}

}  // namespace

// From one dtype to another: integers become f32 and integers only (src/checks/copy.cc).
void run_copy(Stream& stream, const pl_copy_args& args) {
  const int32_t from = args.x.dtype, to = args.y.dtype;
  if (from == to) return copy_bits(stream, args);
  switch (from) {
    case PL_F32:
      return to == PL_BF16  ? copy<float, bf16>(stream, args)
             : to == PL_F16 ? copy<float, f16>(stream, args)
             : to == PL_I32 ? copy<float, int32_t>(stream, args)
                            : copy<float, uint8_t>(stream, args);
    case PL_BF16:
      return to == PL_F32 ? copy<bf16, float>(stream, args) : copy<bf16, f16>(stream, args);
    case PL_F16:
      return to == PL_F32 ? copy<f16, float>(stream, args) : copy<f16, bf16>(stream, args);
    case PL_I32:
      return to == PL_F32 ? copy<int32_t, float>(stream, args)
                          : copy<int32_t, uint8_t>(stream, args);
    default:
      return to == PL_F32 ? copy<uint8_t, float>(stream, args)
                          : copy<uint8_t, int32_t>(stream, args);
  }
}

}  // namespace polylora::cuda
