// What the checks of attention share.
#pragma once

#include "checks/check.h"

namespace polylora::check {

constexpr int64_t kMostHeadSize = 256;

// Every key-value head serves as many query heads as the others, and a head's size is one that
// kernels take.
inline bool check_heads(Check& check, int64_t heads, int64_t key_heads, int64_t size) {
  if (!check.ok()) return false;
  if (key_heads < 1 || heads < 1 || heads % key_heads != 0)
    return check.fail(PL_SHAPE, "q has %lld heads, must be a multiple of the %lld key-value heads",
                      static_cast<long long>(heads), static_cast<long long>(key_heads));
  return check.in_range("the size of a head", double(size), 1, double(kMostHeadSize));
}

}  // namespace polylora::check
