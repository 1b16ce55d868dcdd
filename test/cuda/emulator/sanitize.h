// Memory that nobody may touch, for AddressSanitizer; in other builds nothing is left of it.
#pragma once

#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace polylora::emulator {

#if defined(__SANITIZE_ADDRESS__)
inline void allow(const void* address, size_t bytes) {
  __asan_unpoison_memory_region(address, bytes);
}
inline void forbid(const void* address, size_t bytes) {
  __asan_poison_memory_region(address, bytes);
}
constexpr bool kSanitized = true;
#else
inline void allow(const void*, size_t) {}
inline void forbid(const void*, size_t) {}
constexpr bool kSanitized = false;
#endif

}  // namespace polylora::emulator
