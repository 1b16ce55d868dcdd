#include "cpu/head_cross_entropy.h"
#include "cpu/operations.h"

namespace polylora::cpu {

uint64_t workspace_of(pl_operation operation, const void* args, int threads) {
  (void)threads;
  switch (operation) {
    case PL_OPERATION_head_cross_entropy:
      return head_cross_entropy_workspace(*static_cast<const pl_head_cross_entropy_args*>(args));
    default:
      return 0;
  }
}

}  // namespace polylora::cpu
