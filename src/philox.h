// Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") and the one
// numbering of its counters, shared by every device: whoever asks for the same (seed, step, sample,
// position, module, column) gets the same bits.
#pragma once

#include <cstdint>

#ifndef PL_HOST_DEVICE
#define PL_HOST_DEVICE inline
#endif

namespace polylora {

struct Philox4 {
  uint32_t x, y, z, w;
};

constexpr uint32_t kPhiloxMultiplier0 = 0xD2511F53u, kPhiloxMultiplier1 = 0xCD9E8D57u;
constexpr uint32_t kPhiloxWeyl0 = 0x9E3779B9u, kPhiloxWeyl1 = 0xBB67AE85u;

PL_HOST_DEVICE Philox4 philox(Philox4 counter, uint32_t key0, uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t(kPhiloxMultiplier0) * counter.x;
    const uint64_t p1 = uint64_t(kPhiloxMultiplier1) * counter.z;
    counter = {uint32_t(p1 >> 32) ^ counter.y ^ key0, uint32_t(p1),
               uint32_t(p0 >> 32) ^ counter.w ^ key1, uint32_t(p0)};
    key0 += kPhiloxWeyl0;
    key1 += kPhiloxWeyl1;
  }
  return counter;
}

// Dropout: one call serves the eight columns 8g .. 8g+7; column 8g + 2i is the low half of word i,
// 8g + 2i + 1 the high half. A column is dropped if its 16 bits are below dropout_threshold(p).
// Modules and groups are below 2^16.
PL_HOST_DEVICE Philox4 dropout_counter(uint32_t group, uint32_t module, uint32_t position,
                                       uint32_t sample, uint32_t step) {
  return {(module << 16) | group, position, sample, step};
}

PL_HOST_DEVICE uint32_t dropout_threshold(float probability) {
  return uint32_t(probability * 65536.0f + 0.5f);
}
PL_HOST_DEVICE float dropout_scale(float probability) {
  return 65536.0f / (65536.0f - float(dropout_threshold(probability)));
}

// pl_random: elements 4g .. 4g+3 of a subsequence are the four words of counter (g low, g high,
// subsequence low, high).
PL_HOST_DEVICE Philox4 random_counter(uint64_t group, uint64_t subsequence) {
  return {uint32_t(group), uint32_t(group >> 32), uint32_t(subsequence),
          uint32_t(subsequence >> 32)};
}

// [0, 1) with 24 bits
PL_HOST_DEVICE float philox_unit(uint32_t word) { return float(word >> 8) * 0x1p-24f; }

}  // namespace polylora
