#include <cstring>

#include "cpu/indices.h"
#include "cpu/operations.h"
#include "cpu/rows.h"

namespace polylora::cpu {

void run_cache_append(Pool& pool, const pl_cache_append_args& args) {
  const pl_tensor& cache = args.cache;
  const int64_t rows = args.x.shape[0], heads = args.x.shape[1], length = args.x.shape[2];
  require_indices("cache_append", "row_sequence", args.row_sequence, cache.shape[0]);
  require_indices("cache_append", "row_position", args.row_position, cache.shape[1]);
  const int32_t* const sequence = ints_of(args.row_sequence);
  const int32_t* const position = ints_of(args.row_position);
  const float* const x = static_cast<const float*>(args.x.data);
  float* const data = static_cast<float*>(cache.data);
  if (rows == 0 || length == 0) return;
  // Two rows may name the same place; by head, each piece writes them in the order of the rows.
  pool.parallel(heads, [&](int64_t h, Worker&) {
    for (int64_t t = 0; t < rows; ++t)
      std::memcpy(data + sequence[t] * cache.strides[0] + position[t] * cache.strides[1] +
                      h * cache.strides[2],
                  x + t * args.x.strides[0] + h * args.x.strides[1],
                  size_t(length) * sizeof(float));
  });
}

}  // namespace polylora::cpu
