#include <cstring>

#include "cpu/indices.h"
#include "cpu/operations.h"
#include "cpu/workspace.h"

namespace polylora::cpu {

namespace {

// Least significant digit first; three digits of ten bits make the 30 bits of a key.
constexpr int kDigitBits = 10, kDigits = 3;
constexpr int32_t kDigitValues = 1 << kDigitBits;

}  // namespace

// The other half of the two orders between which the passes go to and fro.
uint64_t sort_workspace(const pl_sort_args& args) {
  return uint64_t(args.keys.shape[0]) * sizeof(int32_t);
}

void run_sort(Pool&, const pl_sort_args& args) {
  const int64_t n = args.keys.shape[0];
  const bool counted = args.counts.dtype != PL_NONE;
  require_indices("sort", "keys", args.keys, counted ? args.counts.shape[0] : int64_t(1) << 30);
  const int32_t* const keys = ints_of(args.keys);
  if (counted) {
    int32_t* const counts = static_cast<int32_t*>(args.counts.data);
    std::memset(counts, 0, size_t(args.counts.shape[0]) * sizeof(int32_t));
    for (int64_t i = 0; i < n; ++i) ++counts[keys[i]];
  }

  // After an odd number of passes the last one must have written to `order`.
  int32_t* to = static_cast<int32_t*>(args.order.data);
  int32_t* from = static_cast<int32_t*>(args.header.workspace);
  for (int64_t i = 0; i < n; ++i) from[i] = int32_t(i);
  for (int digit = 0; digit < kDigits; ++digit) {
    const int shift = digit * kDigitBits;
    int64_t starts[kDigitValues + 1] = {};
    for (int64_t i = 0; i < n; ++i) ++starts[((keys[i] >> shift) & (kDigitValues - 1)) + 1];
    for (int32_t value = 0; value < kDigitValues; ++value) starts[value + 1] += starts[value];
    for (int64_t i = 0; i < n; ++i)
      to[starts[(keys[from[i]] >> shift) & (kDigitValues - 1)]++] = from[i];
    int32_t* const swapped = to;
    to = from;
    from = swapped;
  }
  static_assert(kDigits % 2 == 1, "the last pass writes to order");
}

}  // namespace polylora::cpu
