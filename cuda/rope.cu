// Rotates split halves: (a, b) -> (a cos - b sin, b cos + a sin), or back. Overwrites; y may be x.
#include "cuda/layout.h"
#include "cuda/operations.h"

namespace polylora::cuda {
namespace {

struct Rope {
  const float* x;
  int64_t x_row, x_head;
  const int32_t* positions;
  int64_t position_limit;
  const float *cosines, *sines;
  int64_t cosine_row, sine_row;
  float sign;
  float* y;
  int64_t y_row, y_head;
  int64_t heads, half;
  Failure* failure;

  __device__ void operator()(int64_t index) const {
    const int64_t i = index % half, h = index / half % heads, t = index / half / heads;
    const int64_t position = positions[t];
    if (position < 0 || position >= position_limit) {
      report_index(failure, PL_OPERATION_rope, "positions", t, position, position_limit);
      return;
    }
    const float cosine = cosines[position * cosine_row + i];
    const float sine = sign * sines[position * sine_row + i];
    const float* const from = x + t * x_row + h * x_head + i;
    float* const to = y + t * y_row + h * y_head + i;
    const float a = from[0], b = from[half];
    to[0] = a * cosine - b * sine;
    to[half] = b * cosine + a * sine;
  }
};

}  // namespace

void run_rope(Stream& stream, const pl_rope_args& args) {
  const int64_t rows = args.x.shape[0], heads = args.x.shape[1], half = args.x.shape[2] / 2;
  if (rows == 0 || heads == 0 || half == 0) return;
  for_each_element(
      stream, rows * heads * half,
      Rope{static_cast<const float*>(args.x.data), args.x.strides[0], args.x.strides[1],
           static_cast<const int32_t*>(args.positions.data), args.cosines.shape[0],
           static_cast<const float*>(args.cosines.data), static_cast<const float*>(args.sines.data),
           args.cosines.strides[0], args.sines.strides[0], args.inverse ? -1.0f : 1.0f,
           static_cast<float*>(args.y.data), args.y.strides[0], args.y.strides[1], heads, half,
           stream.failure()});
}

}  // namespace polylora::cuda
