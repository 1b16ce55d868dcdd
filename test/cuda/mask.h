// Dropout for a test: the device's arrays that say which row is which, and each factor as
// philox.h numbers it.
#pragma once

#include "cuda/product.h"
#include "cuda_test.h"

namespace polylora::cuda_test {

class Mask {
 public:
  // Samples of five rows each, in no order.
  Mask(TestStream& stream, int64_t rows)
      : samples_(numbers(rows, [](int64_t row) { return 1000 - row / 5; })),
        positions_(numbers(rows, [](int64_t row) { return row % 5; })),
        step_(stream, std::vector<int32_t>{kStep}),
        sample_(stream, samples_),
        position_(stream, positions_) {}

  cuda::Dropout dropout() {
    return {step_.data(),
            sample_.data(),
            position_.data(),
            kModule,
            dropout_threshold(kProbability),
            kKey0,
            kKey1,
            dropout_scale(kProbability)};
  }

  double at(int64_t row, int64_t column) const {
    const Philox4 words =
        philox(dropout_counter(uint32_t(column / 8), kModule, uint32_t(positions_[size_t(row)]),
                               uint32_t(samples_[size_t(row)]), uint32_t(kStep)),
               kKey0, kKey1);
    const uint32_t all[4] = {words.x, words.y, words.z, words.w};
    const uint32_t bits = all[column % 8 / 2] >> (column % 2 * 16) & 0xffff;
    return bits < dropout_threshold(kProbability) ? 0 : double(dropout_scale(kProbability));
  }

 private:
  template <class Of>
  static std::vector<int32_t> numbers(int64_t count, Of of) {
    std::vector<int32_t> values;
    for (int64_t i = 0; i < count; ++i) values.push_back(int32_t(of(i)));
    return values;
  }

  static constexpr int32_t kStep = 7;
  static constexpr uint32_t kModule = 5, kKey0 = 17, kKey1 = 23;
  static constexpr float kProbability = 0.5f;  // what is kept doubles, which is exact

  std::vector<int32_t> samples_, positions_;
  Array<int32_t> step_, sample_, position_;
};

}  // namespace polylora::cuda_test
