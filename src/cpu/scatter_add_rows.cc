#include "cpu/indices.h"
#include "cpu/operations.h"
#include "cpu/rows.h"

#define PL_TARGET_FILE "cpu/scatter_add_rows.cc"
#include "cpu/for_each_target.h"

#ifdef PL_TARGET

namespace polylora::cpu::PL_TARGET {
namespace {

// Columns [begin, end) of all rows, in the order of the rows.
void scatter_add(const Rows& x, const int32_t* indices, const Rows& y, int64_t begin, int64_t end) {
  for (int64_t t = 0; t < x.count; ++t) {
    const float* const from = x.at(t);
    float* const to = y.at(indices[t]);
    for (int64_t i = begin; i < end; i += kLanes)
      store_some(to + i, load_some(to + i, end - i) + load_some(from + i, end - i), end - i);
  }
}

}  // namespace
}  // namespace polylora::cpu::PL_TARGET

#else

namespace polylora::cpu {

void run_scatter_add_rows(Pool& pool, const pl_scatter_add_rows_args& args) {
  const Rows x = rows_of(args.x), y = rows_of(args.y);
  require_indices("scatter_add_rows", "indices", args.indices, args.y.shape[0]);
  const auto scatter_add = PL_SELECT(pool, scatter_add);
  constexpr int64_t kColumns =
      128;  // each piece owns these columns of every row: no two pieces meet
  pool.parallel_ranges(x.length, kColumns, [&](int64_t begin, int64_t end, Worker&) {
    scatter_add(x, ints_of(args.indices), y, begin, end);
  });
}

}  // namespace polylora::cpu

#endif
