#include <cmath>

#include "cuda/layout.h"
#include "cuda/numbers.h"
#include "cuda/operations.h"

namespace polylora::cuda {
namespace {

template <class T>
struct Fill {
  Layout<1> layout;
  T* y;
  T value;
  __device__ void operator()(int64_t i) const { y[layout.template offset<0>(i)] = value; }
};

// To odd: the last bit of the float says whether anything was cut off, so that rounding the float
// further rounds the double once.
float round_to_odd(double value) {
  float result = float(value);
  if (double(result) == value || !std::isfinite(value)) return result;
  if (std::fabs(double(result)) > std::fabs(value)) result = std::nextafterf(result, 0.0f);
  return float_of(bits_of(result) | 1);
}

template <class T>
void fill(Stream& stream, const pl_tensor& y, T value) {
  const Layout<1> layout({&y});
  for_each_element(stream, layout.count, Fill<T>{layout, static_cast<T*>(y.data), value});
}

}  // namespace

void run_fill(Stream& stream, const pl_fill_args& args) {
  switch (args.y.dtype) {
    case PL_F32:
      return fill(stream, args.y, float(args.value));
    case PL_BF16:
      return fill(stream, args.y, narrow<bf16>(round_to_odd(args.value)));
    case PL_F16:
      return fill(stream, args.y, narrow<f16>(round_to_odd(args.value)));
    case PL_I32:
      return fill(stream, args.y, int32_t(args.value));
    default:
      return fill(stream, args.y, uint8_t(args.value));
  }
}

}  // namespace polylora::cuda
