#include <cmath>

#include "cpu/indices.h"
#include "cpu/operations.h"
#include "cpu/rows.h"

#define PL_TARGET_FILE "cpu/log_probability.cc"
#include "cpu/for_each_target.h"

#ifdef PL_TARGET
#include "cpu/exponentials.h"

namespace polylora::cpu::PL_TARGET {
namespace {

double sum_of_exponentials_below(const float* x, int64_t n, float* most) {
  *most = largest_of(x, n, 1.0f);
  return sum_of_exponentials(x, n, 1.0f, *most, nullptr);
}

}  // namespace
}  // namespace polylora::cpu::PL_TARGET

#else

namespace polylora::cpu {

void run_log_probability(Pool& pool, const pl_log_probability_args& args) {
  const Rows x = rows_of(args.x);
  require_indices("log_probability", "labels", args.labels, x.length);
  const int32_t* const labels = ints_of(args.labels);
  float* const y = static_cast<float*>(args.y.data);
  const auto sum = PL_SELECT(pool, sum_of_exponentials_below);
  pool.parallel_ranges(x.count, rows_per_piece(x.length), [&](int64_t begin, int64_t end, Worker&) {
    for (int64_t t = begin; t < end; ++t) {
      float most;
      const double total = sum(x.at(t), x.length, &most);
      y[t] = float(double(x.at(t)[labels[t]]) - double(most) - std::log(total));
    }
  });
}

}  // namespace polylora::cpu

#endif
