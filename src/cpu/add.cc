#include "cpu/layout.h"
#include "cpu/operations.h"

#define PL_TARGET_FILE "cpu/add.cc"
#include "cpu/for_each_target.h"

#ifdef PL_TARGET

namespace polylora::cpu::PL_TARGET {
namespace {

// Two rounded products and a rounded sum everywhere: the bits do not depend on the strides.
void add(const float* a, int64_t a_stride, float alpha, const float* b, int64_t b_stride,
         float beta, float* y, int64_t y_stride, int64_t n) {
  int64_t i = 0;
  if (a_stride == 1 && b_stride == 1 && y_stride == 1) {
    const Floats alphas = broadcast(alpha), betas = broadcast(beta);
    for (; i + kLanes <= n; i += kLanes) store(y + i, alphas * load(a + i) + betas * load(b + i));
  }
  for (; i < n; ++i) y[i * y_stride] = alpha * a[i * a_stride] + beta * b[i * b_stride];
}

}  // namespace
}  // namespace polylora::cpu::PL_TARGET

#else

namespace polylora::cpu {

void run_add(Pool& pool, const pl_add_args& args) {
  const Layout<3> layout({&args.y, &args.a, &args.b});
  float* const y = static_cast<float*>(args.y.data);
  const float* const a = static_cast<const float*>(args.a.data);
  const float* const b = static_cast<const float*>(args.b.data);
  const int64_t y_stride = layout.inner_stride(0), a_stride = layout.inner_stride(1),
                b_stride = layout.inner_stride(2);
  const auto add = PL_SELECT(pool, add);
  parallel_spans(pool, layout, [&](int64_t row, int64_t begin, int64_t end) {
    add(a + layout.offset(1, row) + begin * a_stride, a_stride, args.alpha,
        b + layout.offset(2, row) + begin * b_stride, b_stride, args.beta,
        y + layout.offset(0, row) + begin * y_stride, y_stride, end - begin);
  });
}

}  // namespace polylora::cpu

#endif
