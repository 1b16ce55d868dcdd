// Rows of a weight in and out, and their norms (weight.h has the layout).
#include "cuda/layout.h"
#include "cuda/operations.h"
#include "cuda/reduce.h"
#include "cuda/weight.h"

namespace polylora::cuda {
namespace {

template <class S, class T>
struct Update {
  const S* source;
  int64_t source_row, columns;
  T* storage;
  bf16* operand;  // null unless it lies apart from the storage
  int64_t pitch, row_begin;
  __device__ void operator()(int64_t i) const {
    const int64_t row = i / columns, column = i % columns;
    const float value = widen(source[row * source_row + column]);
    const int64_t at = (row_begin + row) * pitch + column;
    storage[at] = narrow<T>(value);
    if (operand) operand[at] = narrow<bf16>(value);
  }
};

template <class T, class Y>
struct Read {
  const T* storage;
  int64_t pitch, row_begin;
  Y* y;
  int64_t y_row, columns;
  __device__ void operator()(int64_t i) const {
    const int64_t row = i / columns, column = i % columns;
    y[row * y_row + column] = narrow<Y>(widen(storage[(row_begin + row) * pitch + column]));
  }
};

template <class S>
void update(Stream& stream, const pl_weight_update_args& args) {
  const pl_weight& weight = *args.weight;
  const int64_t rows = args.source.shape[0], columns = args.source.shape[1];
  const auto* const source = static_cast<const S*>(args.source.data);
  if (is_bf16(weight))
    for_each_element(
        stream, rows * columns,
        Update<S, bf16>{source, args.source.strides[0], columns, static_cast<bf16*>(weight.storage),
                        nullptr, weight.pitch, args.row_begin});
  else
    for_each_element(stream, rows * columns,
                     Update<S, float>{source, args.source.strides[0], columns,
                                      static_cast<float*>(weight.storage), weight.operand,
                                      weight.pitch, args.row_begin});
}

template <class T>
void read(Stream& stream, const pl_weight_read_args& args) {
  const pl_weight& weight = *args.weight;
  const int64_t rows = args.y.shape[0], columns = args.y.shape[1];
  const auto* const storage = static_cast<const T*>(weight.storage);
  if (args.y.dtype == PL_F32)
    for_each_element(stream, rows * columns,
                     Read<T, float>{storage, weight.pitch, args.row_begin,
                                    static_cast<float*>(args.y.data), args.y.strides[0], columns});
  else
    for_each_element(stream, rows * columns,
                     Read<T, bf16>{storage, weight.pitch, args.row_begin,
                                   static_cast<bf16*>(args.y.data), args.y.strides[0], columns});
}

constexpr int kThreads = 256;

template <class T>
__global__ void __launch_bounds__(kThreads)
    row_norms_kernel(const T* storage, int64_t pitch, int64_t columns, float* y, int64_t y_stride) {
  const int64_t row = blockIdx.x;
  double sum = 0;
  for (int64_t i = threadIdx.x; i < columns; i += kThreads) {
    const double value = double(widen(storage[row * pitch + i]));
    sum += value * value;
  }
  sum = block_sum<kThreads>(sum);
  if (threadIdx.x == 0) y[row * y_stride] = float(sqrt(sum));
}

}  // namespace

void run_weight_update(Stream& stream, const pl_weight_update_args& args) {
  switch (args.source.dtype) {
    case PL_F32:
      return update<float>(stream, args);
    case PL_BF16:
      return update<bf16>(stream, args);
    default:
      return update<f16>(stream, args);
  }
}

void run_weight_read(Stream& stream, const pl_weight_read_args& args) {
  if (is_bf16(*args.weight))
    read<bf16>(stream, args);
  else
    read<float>(stream, args);
}

void run_weight_row_norms(Stream& stream, const pl_weight_row_norms_args& args) {
  const pl_weight& weight = *args.weight;
  const auto& options = weight.base.options;
  auto* const y = static_cast<float*>(args.y.data);
  const LaunchShape shape = {blocks_for(options.rows, 1), kThreads};
  if (is_bf16(weight))
    launch(stream, shape, row_norms_kernel<bf16>, static_cast<const bf16*>(weight.storage),
           weight.pitch, options.columns, y, args.y.strides[0]);
  else
    launch(stream, shape, row_norms_kernel<float>, static_cast<const float*>(weight.storage),
           weight.pitch, options.columns, y, args.y.strides[0]);
}

}  // namespace polylora::cuda
