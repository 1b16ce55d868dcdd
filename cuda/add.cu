// y = alpha * a + beta * b: two rounded products and a rounded sum, whatever the strides.
#include "cuda/layout.h"
#include "cuda/numbers.h"
#include "cuda/operations.h"

namespace polylora::cuda {
namespace {

struct AddFour {
  const float *a, *b;
  float alpha, beta;
  float* y;
  __device__ void operator()(int64_t i) const {
    const float4 x = load4(a + 4 * i), z = load4(b + 4 * i);
    store4(y + 4 * i, {alpha * x.x + beta * z.x, alpha * x.y + beta * z.y, alpha * x.z + beta * z.z,
                       alpha * x.w + beta * z.w});
  }
};

struct Add {
  Layout<3> layout;
  const float *a, *b;
  float alpha, beta;
  float* y;
  __device__ void operator()(int64_t i) const {
    y[layout.offset<0>(i)] = alpha * a[layout.offset<1>(i)] + beta * b[layout.offset<2>(i)];
  }
};

}  // namespace

void run_add(Stream& stream, const pl_add_args& args) {
  const Layout<3> layout({&args.y, &args.a, &args.b});
  const auto *a = static_cast<const float*>(args.a.data),
             *b = static_cast<const float*>(args.b.data);
  auto* const y = static_cast<float*>(args.y.data);
  if (layout.is_contiguous() && layout.count % 4 == 0 && rows_are_aligned(a, 0) &&
      rows_are_aligned(b, 0) && rows_are_aligned(y, 0))
    for_each_element(stream, layout.count / 4, AddFour{a, b, args.alpha, args.beta, y});
  else
    for_each_element(stream, layout.count, Add{layout, a, b, args.alpha, args.beta, y});
}

}  // namespace polylora::cuda
