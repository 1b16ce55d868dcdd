#include "cpu/workspace.h"

#include "cpu/operations.h"

namespace polylora::cpu {

uint64_t workspace_of(pl_operation operation, const void* args, int threads) {
  switch (operation) {
    case PL_OPERATION_low_rank_backward:
      return low_rank_backward_workspace(*static_cast<const pl_low_rank_backward_args*>(args));
    case PL_OPERATION_head_cross_entropy:
      return head_cross_entropy_workspace(*static_cast<const pl_head_cross_entropy_args*>(args));
    case PL_OPERATION_rms_norm_backward:
      return rms_norm_backward_workspace(*static_cast<const pl_rms_norm_backward_args*>(args));
    case PL_OPERATION_attention:
      return attention_workspace(*static_cast<const pl_attention_args*>(args));
    case PL_OPERATION_attention_backward:
      return attention_backward_workspace(*static_cast<const pl_attention_backward_args*>(args));
    case PL_OPERATION_gradient_norm:
      return gradient_norm_workspace(*static_cast<const pl_gradient_norm_args*>(args));
    case PL_OPERATION_top_k:
      return top_k_workspace(*static_cast<const pl_top_k_args*>(args), threads);
    case PL_OPERATION_sort:
      return sort_workspace(*static_cast<const pl_sort_args*>(args));
    case PL_OPERATION_quantile:
      return quantile_workspace(*static_cast<const pl_quantile_args*>(args));
    case PL_OPERATION_sample:
      return sample_workspace(*static_cast<const pl_sample_args*>(args), threads);
    default:
      return 0;
  }
}

}  // namespace polylora::cpu
