// One launcher an operation: `void run_<operation>(Stream&, const pl_<operation>_args&)`, in the
// file of its name (a backward beside its forward), and where it wants scratch
// `uint64_t workspace_<operation>(const Stream&, const pl_<operation>_args&)`, in bytes.
//
// A launcher only enqueues: launch() and cudaMemsetAsync or cudaMemcpyAsync between device memory.
// It does not allocate, wait, or read device data. What it is given has passed
// pl_check_<operation>; the struct and its lists are gone when it returns, so a kernel gets what it
// needs by value.
//
// table.cu puts the launchers behind the table. An operation without one is unsupported: nothing
// else has to be edited to add one.
#pragma once

#include "cuda/stream.h"
#include "kernels.h"

namespace polylora::cuda {

// Not hidden, so that table.cu can refer to those that are missing; the library exports none.
#define PL_LAUNCHER __attribute__((visibility("default")))
#define PL_ENTRY(name)                                                       \
  PL_LAUNCHER void run_##name(Stream& stream, const pl_##name##_args& args); \
  PL_LAUNCHER uint64_t workspace_##name(const Stream& stream, const pl_##name##_args& args);
PL_OPERATIONS(PL_ENTRY)
#undef PL_ENTRY

}  // namespace polylora::cuda
