// Scratch in bytes of the operations that want any; each is defined beside its operation,
// workspace.cc chooses.
#pragma once

#include <cstdint>

#include "kernels.h"

namespace polylora::cpu {

uint64_t low_rank_backward_workspace(const pl_low_rank_backward_args& args);
uint64_t head_cross_entropy_workspace(const pl_head_cross_entropy_args& args);
uint64_t rms_norm_backward_workspace(const pl_rms_norm_backward_args& args);
uint64_t attention_workspace(const pl_attention_args& args);
uint64_t attention_backward_workspace(const pl_attention_backward_args& args);
uint64_t gradient_norm_workspace(const pl_gradient_norm_args& args);
uint64_t top_k_workspace(const pl_top_k_args& args, int threads);
uint64_t sort_workspace(const pl_sort_args& args);
uint64_t quantile_workspace(const pl_quantile_args& args);
uint64_t sample_workspace(const pl_sample_args& args, int threads);

}  // namespace polylora::cpu
