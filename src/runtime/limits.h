// What this process may use: the least of the machine, the affinity mask and its control groups (v1
// and v2).
#pragma once

#include <cstdint>

namespace polylora {

// Processors, at least 1.
int available_processors();

// Bytes that can still be had, 0 if nothing is known.
uint64_t available_memory();

}  // namespace polylora
