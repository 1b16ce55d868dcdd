#pragma once

#include <cstdint>

#include "kernels.h"

namespace polylora::cpu {

uint64_t head_cross_entropy_workspace(const pl_head_cross_entropy_args& args);

}  // namespace polylora::cpu
