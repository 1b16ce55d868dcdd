// What is measured on a GPU: each case a few operations that are queued together, with the
// arithmetic and the bytes that it cannot do without. benchmark/cuda/peers.py has the same cases by
// the same names.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "table_device.h"

namespace polylora::benchmark {

struct Prepared {
  std::vector<std::function<void()>> operations;
  std::vector<pl_tensor> outputs;  // contiguous floats
  // Farthest that an output may be from the CPU's, over the largest of its values. Both sides round
  // the operands of products to bf16, 2^-9 each; they sum in another order.
  double tolerance = 1.0 / 128;
};

struct Case {
  std::string kind;            // what peers look up
  std::vector<int64_t> sizes;  // what it means by them
  double operations, bytes;    // of float arithmetic; read and written at least
  std::function<Prepared(Device&)> prepare;

  // kind:size,size,...
  std::string name() const {
    std::string name = kind + ":";
    for (size_t i = 0; i < sizes.size(); ++i) name += (i ? "," : "") + std::to_string(sizes[i]);
    return name;
  }
};

// The cases of the record, or `small` ones of ragged sizes, which a check or an emulator can take.
std::vector<Case> all_cases(bool small);

}  // namespace polylora::benchmark
