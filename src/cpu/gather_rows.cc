#include <cstring>

#include "cpu/indices.h"
#include "cpu/operations.h"
#include "cpu/weight.h"

namespace polylora::cpu {

void run_gather_rows(Pool& pool, const pl_gather_rows_args& args) {
  const int64_t count = args.indices.shape[0], columns = args.y.shape[1];
  const int64_t limit = args.weight ? args.weight->base.options.rows : args.source.shape[0];
  require_indices("gather_rows", "indices", args.indices, limit);
  const int32_t* indices = ints_of(args.indices);
  float* y = static_cast<float*>(args.y.data);
  if (columns == 0) return;
  pool.parallel_ranges(count, 16, [&](int64_t begin, int64_t end, Worker&) {
    for (int64_t t = begin; t < end; ++t) {
      float* out = y + t * args.y.strides[0];
      if (args.weight)
        read_weight_row(*args.weight, indices[t], out);
      else
        std::memcpy(
            out, static_cast<const float*>(args.source.data) + indices[t] * args.source.strides[0],
            size_t(columns) * 4);
    }
  });
}

}  // namespace polylora::cpu
