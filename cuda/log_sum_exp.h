// The log of a row's sum of exponentials, in one read.
#pragma once

#include "cuda/reduce.h"

namespace polylora::cuda {

// total * exp(most), of the elements that a thread has seen.
struct RunningSum {
  float most = -INFINITY;
  float total = 0;
  int64_t at = 0;  // of the largest, the first of several

  // Elements come in the order of their index. NaN makes the total NaN and is not the largest.
  __device__ void add(float x, int64_t index) {
    if (x > most) {
      total = fmaf(total, expf(most - x), 1.0f);
      most = x;
      at = index;
    } else if (x != -INFINITY) {
      total += expf(x - most);
    }
  }
};

struct SumOfExponentials {
  float most;    // the largest element, NaN passed over
  double total;  // of exp(x - most)
};

// Of all threads of the block, each of which gets it.
template <int kThreads>
__device__ inline SumOfExponentials merge_block(const RunningSum& mine) {
  const float most = block_max<kThreads>(mine.most);
  const double total = mine.total == 0 ? 0.0 : double(mine.total) * double(expf(mine.most - most));
  return {most, block_sum<kThreads>(total)};
}

}  // namespace polylora::cuda
