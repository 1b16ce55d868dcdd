// Selection by radix: three passes count the leading bits of all elements, each pass within the
// bucket that the one before chose. Exact, and only integers are summed.
#include <cmath>
#include <cstring>

#include "cpu/operations.h"
#include "cpu/rows.h"
#include "cpu/workspace.h"

namespace polylora::cpu {

namespace {

constexpr int kBits[] = {11, 11, 10};
constexpr int kBuckets = 1 << 11;
constexpr int64_t kBlocks = 64;  // histograms made apart

// A number whose unsigned order is the order of the floats; NaN of either sign comes last.
uint32_t key_of(float value, bool absolute) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  if (absolute) bits &= 0x7fffffff;
  if ((bits & 0x7fffffff) > 0x7f800000) return 0xffffffff;
  return bits & 0x80000000 ? ~bits : bits | 0x80000000;
}

float value_of(uint32_t key) {
  if (key == 0xffffffff) return std::nanf("");
  const uint32_t bits = key & 0x80000000 ? key & 0x7fffffff : ~key;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace

uint64_t quantile_workspace(const pl_quantile_args&) {
  return uint64_t(kBlocks) * kBuckets * sizeof(int64_t);
}

void run_quantile(Pool& pool, const pl_quantile_args& args) {
  const float* const x = static_cast<const float*>(args.x.data);
  const int64_t n = elements_of(args.x), grain = (n + kBlocks - 1) / kBlocks;
  const bool absolute = args.absolute != 0;
  int64_t* const histograms = static_cast<int64_t*>(args.header.workspace);
  int64_t rank = int64_t(std::floor(args.q * double(n - 1)));
  if (rank > n - 1) rank = n - 1;
  uint32_t prefix = 0;
  int known = 0;  // leading bits of the answer
  for (const int bits : kBits) {
    const int shift = 32 - known - bits;
    pool.parallel(kBlocks, [&](int64_t block, Worker&) {
      int64_t* const counts = histograms + block * kBuckets;
      std::memset(counts, 0, kBuckets * sizeof(int64_t));
      const int64_t end = (block + 1) * grain < n ? (block + 1) * grain : n;
      for (int64_t i = block * grain; i < end; ++i) {
        const uint32_t key = key_of(x[i], absolute);
        if (known == 0 || key >> (32 - known) == prefix)
          ++counts[(key >> shift) & ((1u << bits) - 1)];
      }
    });
    uint32_t bucket = 0;
    for (;; ++bucket) {
      int64_t count = 0;
      for (int64_t block = 0; block < kBlocks; ++block)
        count += histograms[block * kBuckets + bucket];
      if (rank < count) break;
      rank -= count;
    }
    prefix = prefix << bits | bucket;
    known += bits;
  }
  *static_cast<float*>(args.y.data) = value_of(prefix);
}

}  // namespace polylora::cpu
