#include "cpu/operations.h"
#include "cpu/rows.h"

#define PL_TARGET_FILE "cpu/column_sum.cc"
#include "cpu/for_each_target.h"

#ifdef PL_TARGET

namespace polylora::cpu::PL_TARGET {
namespace {

constexpr int64_t kColumnSumRows = 64;
constexpr int64_t kColumnSumColumns = 128;

// y[begin, end) += the sums of the columns. Blocks of rows are summed apart and added in order,
// which keeps the rounding error of a long column near that of a short one.
void column_sum(const Rows& x, float* y, int64_t begin, int64_t end) {
  const int64_t n = end - begin;
  float total[kColumnSumColumns] = {};
  for (int64_t first = 0; first < x.count; first += kColumnSumRows) {
    const int64_t last = first + kColumnSumRows < x.count ? first + kColumnSumRows : x.count;
    float block[kColumnSumColumns] = {};
    for (int64_t t = first; t < last; ++t) {
      const float* const row = x.at(t) + begin;
      int64_t i = 0;
      for (; i + kLanes <= n; i += kLanes) store(block + i, load(block + i) + load(row + i));
      for (; i < n; ++i) block[i] += row[i];
    }
    for (int64_t i = 0; i < n; ++i) total[i] += block[i];
  }
  for (int64_t i = 0; i < n; ++i) y[begin + i] += total[i];
}

}  // namespace
}  // namespace polylora::cpu::PL_TARGET

#else

namespace polylora::cpu {

void run_column_sum(Pool& pool, const pl_column_sum_args& args) {
  const Rows x = rows_of(args.x);
  const auto column_sum = PL_SELECT(pool, column_sum);
  pool.parallel_ranges(x.length, portable::kColumnSumColumns,
                       [&](int64_t begin, int64_t end, Worker&) {
                         column_sum(x, static_cast<float*>(args.y.data), begin, end);
                       });
}

}  // namespace polylora::cpu

#endif
