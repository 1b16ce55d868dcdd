// Which vector instructions the kernels may use. Chosen once, when the device opens; can be forced
// down, never up.
#pragma once

#include <cstdint>

namespace polylora::cpu {

enum class InstructionSet : int32_t { portable = 0, avx2 = 1, avx512 = 2, avx512_bf16 = 3 };

// What this processor and its operating system support.
InstructionSet detect_instruction_set();

// "portable", "avx2", "avx512", "avx512-bf16"; false if the name is none of these.
bool parse_instruction_set(const char* name, InstructionSet* out);
const char* instruction_set_name(InstructionSet set);

}  // namespace polylora::cpu
