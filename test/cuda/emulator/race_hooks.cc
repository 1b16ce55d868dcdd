// What the compiler calls before every access of a kernel in race mode.
#include "race.h"

#ifdef POLYLORA_EMULATOR_RACE

using polylora::emulator::race::access;

#define PL_PLACE reinterpret_cast<uintptr_t>(__builtin_return_address(0))
#define PL_ACCESS(name, bytes, is_write) \
  extern "C" void name(void* address) { access(address, bytes, is_write, PL_PLACE); }
PL_ACCESS(__tsan_read1, 1, false)
PL_ACCESS(__tsan_read2, 2, false)
PL_ACCESS(__tsan_read4, 4, false)
PL_ACCESS(__tsan_read8, 8, false)
PL_ACCESS(__tsan_read16, 16, false)
PL_ACCESS(__tsan_write1, 1, true)
PL_ACCESS(__tsan_write2, 2, true)
PL_ACCESS(__tsan_write4, 4, true)
PL_ACCESS(__tsan_write8, 8, true)
PL_ACCESS(__tsan_write16, 16, true)
PL_ACCESS(__tsan_unaligned_read2, 2, false)
PL_ACCESS(__tsan_unaligned_read4, 4, false)
PL_ACCESS(__tsan_unaligned_read8, 8, false)
PL_ACCESS(__tsan_unaligned_read16, 16, false)
PL_ACCESS(__tsan_unaligned_write2, 2, true)
PL_ACCESS(__tsan_unaligned_write4, 4, true)
PL_ACCESS(__tsan_unaligned_write8, 8, true)
PL_ACCESS(__tsan_unaligned_write16, 16, true)
PL_ACCESS(__tsan_vptr_update, 8, true)
#undef PL_ACCESS

extern "C" void __tsan_read_range(void* address, size_t bytes) {
  access(address, bytes, false, PL_PLACE);
}
extern "C" void __tsan_write_range(void* address, size_t bytes) {
  access(address, bytes, true, PL_PLACE);
}
// The guard of a launcher's static object; kernels have none.
extern "C" unsigned char __tsan_atomic8_load(const volatile unsigned char* address, int) {
  return __atomic_load_n(address, __ATOMIC_ACQUIRE);
}
extern "C" void __tsan_init() {}
extern "C" void __tsan_func_entry(void*) {}
extern "C" void __tsan_func_exit() {}

#endif
