// cache[row_sequence[t], row_position[t]] = x[t]. Of rows that name the same place the last one
// stays.
#include "cuda/attention.h"
#include "cuda/operations.h"

namespace polylora::cuda {
namespace {

constexpr int kThreads = 128;

// A block takes one row; it looks whether a later one replaces it.
__global__ void __launch_bounds__(kThreads)
    cache_append_kernel(Heads x, int64_t rows, int heads, int d, const int32_t* row_sequence,
                        const int32_t* row_position, Heads cache, int64_t cache_sequence,
                        int64_t sequences, int64_t length, Failure* failure) {
  const int64_t t = blockIdx.x, sequence = row_sequence[t], position = row_position[t];
  // The same for all threads of the block, as what follows.
  if (sequence < 0 || sequence >= sequences || position < 0 || position >= length) {
    if (threadIdx.x > 0) return;
    if (sequence < 0 || sequence >= sequences)
      report_index(failure, PL_OPERATION_cache_append, "row_sequence", t, sequence, sequences);
    else
      report_index(failure, PL_OPERATION_cache_append, "row_position", t, position, length);
    return;
  }
  int is_replaced = 0;
  for (int64_t i = t + 1 + threadIdx.x; i < rows; i += kThreads)
    is_replaced |= row_sequence[i] == sequence && row_position[i] == position;
  if (__syncthreads_or(is_replaced)) return;
  float* const to = cache.data + sequence * cache_sequence;
  for (int i = threadIdx.x; i < heads * d; i += kThreads) {
    const int h = i / d, column = i % d;
    to[position * cache.row + h * cache.head + column] = x.at(t, h)[column];
  }
}

}  // namespace

void run_cache_append(Stream& stream, const pl_cache_append_args& args) {
  const pl_tensor& cache = args.cache;
  launch(stream, {blocks_for(args.x.shape[0], 1), kThreads}, cache_append_kernel, heads_of(args.x),
         args.x.shape[0], int(args.x.shape[1]), int(args.x.shape[2]),
         static_cast<const int32_t*>(args.row_sequence.data),
         static_cast<const int32_t*>(args.row_position.data),
         Heads{static_cast<float*>(cache.data), cache.strides[1], cache.strides[2], false},
         cache.strides[0], cache.shape[0], cache.shape[1], stream.failure());
}

}  // namespace polylora::cuda
