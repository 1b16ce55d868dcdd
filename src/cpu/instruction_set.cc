#include "cpu/instruction_set.h"

#include <cstring>

namespace polylora::cpu {

namespace {
constexpr const char* kNames[] = {"portable", "avx2", "avx512", "avx512-bf16"};
}

InstructionSet detect_instruction_set() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
    return InstructionSet::portable;
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl"))
    return InstructionSet::avx2;
  return __builtin_cpu_supports("avx512bf16") ? InstructionSet::avx512_bf16
                                              : InstructionSet::avx512;
#else
  return InstructionSet::portable;
#endif
}

bool parse_instruction_set(const char* name, InstructionSet* out) {
  for (int i = 0; i < 4; ++i)
    if (std::strcmp(name, kNames[i]) == 0) {
      *out = InstructionSet(i);
      return true;
    }
  return false;
}

const char* instruction_set_name(InstructionSet set) { return kNames[int(set)]; }

}  // namespace polylora::cpu
