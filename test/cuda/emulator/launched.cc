// Which kernels have run: POLYLORA_EMULATOR_LAUNCHED names a file that gets a line for each,
// "OFFSET BINARY", the offset in hexadecimal as nm has it. By that scripts/launched-kernels.mjs
// finds those that no test runs.
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <unordered_set>

#include "emulator.h"

namespace polylora::emulator {

void note_launched(const void* kernel) {
  static const char* const path = std::getenv("POLYLORA_EMULATOR_LAUNCHED");
  if (!path) return;
  static std::mutex mutex;
  static std::unordered_set<const void*> noted;
  std::lock_guard<std::mutex> lock(mutex);
  Dl_info binary;
  if (!noted.insert(kernel).second || !dladdr(kernel, &binary)) return;
  FILE* const file = std::fopen(path, "a");
  if (!file) return;
  std::fprintf(
      file, "%zx %s\n",
      size_t(static_cast<const char*>(kernel) - static_cast<const char*>(binary.dli_fbase)),
      binary.dli_fname);
  std::fclose(file);
}

}  // namespace polylora::emulator
