// y[t] = source[indices[t]], from a tensor or a weight. Overwrites.
#include "cuda/layout.h"
#include "cuda/operations.h"
#include "cuda/weight.h"

namespace polylora::cuda {
namespace {

template <class T>
struct GatherRows {
  const T* source;
  int64_t source_row, limit;
  const int32_t* indices;
  float* y;
  int64_t y_row, columns;
  Failure* failure;

  __device__ void operator()(int64_t i) const {
    const int64_t t = i / columns, column = i % columns;
    const int64_t index = indices[t];
    if (index < 0 || index >= limit) {
      report_index(failure, PL_OPERATION_gather_rows, "indices", t, index, limit);
      return;
    }
    y[t * y_row + column] = widen(source[index * source_row + column]);
  }
};

template <class T>
void gather(Stream& stream, const pl_gather_rows_args& args, const void* source, int64_t row,
            int64_t limit) {
  const int64_t columns = args.y.shape[1];
  for_each_element(stream, args.indices.shape[0] * columns,
                   GatherRows<T>{static_cast<const T*>(source), row, limit,
                                 static_cast<const int32_t*>(args.indices.data),
                                 static_cast<float*>(args.y.data), args.y.strides[0], columns,
                                 stream.failure()});
}

}  // namespace

void run_gather_rows(Stream& stream, const pl_gather_rows_args& args) {
  if (args.weight == nullptr)
    return gather<float>(stream, args, args.source.data, args.source.strides[0],
                         args.source.shape[0]);
  const pl_weight& weight = *args.weight;
  if (is_bf16(weight))
    gather<bf16>(stream, args, weight.storage, weight.pitch, weight.base.options.rows);
  else
    gather<float>(stream, args, weight.storage, weight.pitch, weight.base.options.rows);
}

}  // namespace polylora::cuda
