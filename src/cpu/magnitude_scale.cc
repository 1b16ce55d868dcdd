#include <cmath>

#include "cpu/operations.h"
#include "cpu/rows.h"

namespace polylora::cpu {

void run_magnitude_scale(Pool& pool, const pl_magnitude_scale_args& args) {
  const int64_t n = args.b.shape[0], r = args.b.shape[1];
  const auto at = [](const pl_tensor& tensor, int64_t row) {
    return static_cast<float*>(tensor.data) + row * tensor.strides[0];
  };
  pool.parallel_ranges(n, rows_per_piece(r + 1), [&](int64_t begin, int64_t end, Worker&) {
    for (int64_t i = begin; i < end; ++i) {
      const double base = double(*at(args.base_norm, i));
      // W and s B A can nearly cancel: the sum keeps double's digits.
      double square = base * base;
      for (int64_t j = 0; j < r; ++j) square += double(at(args.u, i)[j]) * double(at(args.b, i)[j]);
      const double norm = std::sqrt(square > 0 ? square : 0.0);
      *at(args.norm, i) = float(norm);
      *at(args.scale, i) = float(double(*at(args.magnitude, i)) / norm);
    }
  });
}

}  // namespace polylora::cpu
