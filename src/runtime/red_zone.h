// Memory that nobody may touch. AddressSanitizer knows no more of memory that we map ourselves than
// that it is mapped; these tell it which parts of that are blocks. Without the sanitizer there is
// nothing to tell.
#pragma once

#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#define POLYLORA_ADDRESS_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define POLYLORA_ADDRESS_SANITIZER 1
#endif
#endif

#ifdef POLYLORA_ADDRESS_SANITIZER
#include <sanitizer/asan_interface.h>
#endif

namespace polylora {

#ifdef POLYLORA_ADDRESS_SANITIZER
constexpr size_t kRedZone = 64;  // behind every block
inline void forbid(const void* data, size_t bytes) { __asan_poison_memory_region(data, bytes); }
inline void allow(const void* data, size_t bytes) { __asan_unpoison_memory_region(data, bytes); }
#else
constexpr size_t kRedZone = 0;
inline void forbid(const void*, size_t) {}
inline void allow(const void*, size_t) {}
#endif

}  // namespace polylora
