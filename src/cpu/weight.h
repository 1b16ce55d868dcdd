// The matrix [rows, columns] of a linear layer, resident once, in forward panels: kPanel rows side
// by side, so that a product's inner loop reads it front to back.
//
//   f32:  panels[rows / kPanel][columns][kPanel]
//   bf16: panels[rows / kPanel][columns / 2][kPanel][2], an odd last column paired with zeros
//
// Rows are padded to whole panels with zeros, which nothing ever overwrites.
#pragma once

#include <cstdint>

#include "kernels.h"

struct pl_weight {
  pl_weight_base base;
  void* panels;
};

namespace polylora::cpu {

constexpr int64_t kPanel = 32;

// A bf16 panel is addressed by words of two columns.
inline int64_t panel_words(const pl_weight_options& options) {
  return (options.storage == PL_BF16 ? (options.columns + 1) / 2 : options.columns) * kPanel;
}
inline int64_t panel_count(const pl_weight_options& options) {
  return (options.rows + kPanel - 1) / kPanel;
}

inline const float* panel_floats(const pl_weight& weight, int64_t panel) {
  return static_cast<const float*>(weight.panels) + panel * panel_words(weight.base.options);
}
inline const uint32_t* panel_pairs(const pl_weight& weight, int64_t panel) {
  return static_cast<const uint32_t*>(weight.panels) + panel * panel_words(weight.base.options);
}

inline float bf16_to_float(uint16_t bits) {
  const uint32_t wide = uint32_t(bits) << 16;
  float value;
  __builtin_memcpy(&value, &wide, 4);
  return value;
}

// To nearest, ties to even; a NaN stays one.
inline uint16_t float_to_bf16(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return uint16_t((bits >> 16) | 0x40);
  return uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline float f16_to_float(uint16_t bits) {
  const uint32_t sign = uint32_t(bits & 0x8000) << 16, exponent = (bits >> 10) & 31,
                 fraction = bits & 1023;
  uint32_t wide;
  if (exponent == 0) {
    const float magnitude = float(fraction) * 0x1p-24f;
    __builtin_memcpy(&wide, &magnitude, 4);
  } else if (exponent == 31) {
    wide = 0x7f800000u | (fraction << 13);
  } else {
    wide = ((exponent + 112) << 23) | (fraction << 13);
  }
  wide |= sign;
  float value;
  __builtin_memcpy(&value, &wide, 4);
  return value;
}

// One row as floats; `out` has room for all columns.
void read_weight_row(const pl_weight& weight, int64_t row, float* out);

}  // namespace polylora::cpu
