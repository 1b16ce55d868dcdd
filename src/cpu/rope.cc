#include "cpu/indices.h"
#include "cpu/operations.h"
#include "cpu/rows.h"

#define PL_TARGET_FILE "cpu/rope.cc"
#include "cpu/for_each_target.h"

#ifdef PL_TARGET

namespace polylora::cpu::PL_TARGET {
namespace {

// One row and head: x and y hold 2 * half elements.
void rotate(const float* x, const float* cosines, const float* sines, float sign, float* y,
            int64_t half) {
  const Floats signs = broadcast(sign);
  for (int64_t i = 0; i < half; i += kLanes) {
    const int64_t left = half - i;
    const Floats a = load_some(x + i, left), b = load_some(x + half + i, left);
    const Floats cosine = load_some(cosines + i, left), sine = signs * load_some(sines + i, left);
    store_some(y + i, a * cosine - b * sine, left);
    store_some(y + half + i, b * cosine + a * sine, left);
  }
}

}  // namespace
}  // namespace polylora::cpu::PL_TARGET

#else

namespace polylora::cpu {

void run_rope(Pool& pool, const pl_rope_args& args) {
  const int64_t rows = args.x.shape[0], heads = args.x.shape[1], half = args.x.shape[2] / 2;
  require_indices("rope", "positions", args.positions, args.cosines.shape[0]);
  const int32_t* const positions = ints_of(args.positions);
  const float* const x = static_cast<const float*>(args.x.data);
  const float* const cosines = static_cast<const float*>(args.cosines.data);
  const float* const sines = static_cast<const float*>(args.sines.data);
  float* const y = static_cast<float*>(args.y.data);
  const float sign = args.inverse ? -1.0f : 1.0f;
  const auto rotate = PL_SELECT(pool, rotate);
  pool.parallel_ranges(rows, rows_per_piece(heads * half * 2),
                       [&](int64_t begin, int64_t end, Worker&) {
                         for (int64_t t = begin; t < end; ++t)
                           for (int64_t h = 0; h < heads; ++h)
                             rotate(x + t * args.x.strides[0] + h * args.x.strides[1],
                                    cosines + positions[t] * args.cosines.strides[0],
                                    sines + positions[t] * args.sines.strides[0], sign,
                                    y + t * args.y.strides[0] + h * args.y.strides[1], half);
                       });
}

}  // namespace polylora::cpu

#endif
