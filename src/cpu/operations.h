// One function an operation, run on the stream's thread: `void run_<operation>(Pool&, const
// pl_<operation>_args&)`, each in the file of its name (a backward beside its forward). device.cc
// puts them behind the table.
#pragma once

#include "cpu/pool.h"
#include "kernels.h"

namespace polylora::cpu {

#define PL_ENTRY(name) void run_##name(Pool& pool, const pl_##name##_args& args);
PL_OPERATIONS(PL_ENTRY)
#undef PL_ENTRY

// Scratch in bytes for the operations that want any; may depend on shapes and threads.
uint64_t workspace_of(pl_operation operation, const void* args, int threads);

// The matrix of a linear layer, packed for the products (weight.h). Created and destroyed by the
// device.
pl_weight* create_weight(const pl_weight_options& options, void* memory);
void destroy_weight(pl_weight* weight);
uint64_t weight_bytes(const pl_weight_options& options);  // of `memory`, zero-filled at creation

}  // namespace polylora::cpu
