#include "cpu/operations.h"
#include "cpu/rows.h"

#define PL_TARGET_FILE "cpu/column_sum.cc"
#include "cpu/for_each_target.h"

#ifdef PL_TARGET

namespace polylora::cpu::PL_TARGET {
namespace {

constexpr int64_t kColumnSumRows = 64;
constexpr int64_t kColumnSumColumns = 128;

// sums[0, kVectors * kLanes) += the rows' first columns.
template <int kVectors>
void add_rows(const Rows& x, int64_t first, int64_t last, int64_t column, float* sums) {
  Floats block[kVectors] = {};
  for (int64_t t = first; t < last; ++t) {
    const float* const row = x.at(t) + column;
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) block[v] = block[v] + load(row + v * kLanes);
  }
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) store(sums + v * kLanes, load(sums + v * kLanes) + block[v]);
}

// y[begin, end) += the sums of the columns. Blocks of rows are summed apart and added in order,
// which keeps the rounding error of a long column near that of a short one.
void column_sum(const Rows& x, float* y, int64_t begin, int64_t end) {
  float total[kColumnSumColumns] = {};
  for (int64_t first = 0; first < x.count; first += kColumnSumRows) {
    const int64_t last = first + kColumnSumRows < x.count ? first + kColumnSumRows : x.count;
    int64_t i = begin;
    for (; i + 8 * kLanes <= end; i += 8 * kLanes)
      add_rows<8>(x, first, last, i, total + (i - begin));
    for (; i + kLanes <= end; i += kLanes) add_rows<1>(x, first, last, i, total + (i - begin));
    for (; i < end; ++i) {
      float block = 0;
      for (int64_t t = first; t < last; ++t) block += x.at(t)[i];
      total[i - begin] += block;
    }
  }
  for (int64_t i = begin; i < end; ++i) y[i] += total[i - begin];
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
