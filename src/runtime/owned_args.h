// An operation's struct outlives its call in a device's queue: as a copy, with the lists that it
// points to.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "kernels.h"

namespace polylora {

template <class Args>
struct Owned {
  explicit Owned(const Args& args) : args(args) {}
  Args args;
};

template <class Element>
std::vector<Element> copy_list(const Element* list, uint32_t count) {
  return count == 0 ? std::vector<Element>() : std::vector<Element>(list, list + count);
}

template <>
struct Owned<pl_matmul_args> {
  explicit Owned(const pl_matmul_args& from)
      : args(from), segments(copy_list(from.segments, from.segment_count)) {
    args.segments = segments.data();
  }
  pl_matmul_args args;
  std::vector<pl_segment> segments;
};

template <>
struct Owned<pl_adamw_args> {
  explicit Owned(const pl_adamw_args& from)
      : args(from), parameters(copy_list(from.parameters, from.parameter_count)) {
    args.parameters = parameters.data();
  }
  pl_adamw_args args;
  std::vector<pl_adamw_parameter> parameters;
};

template <>
struct Owned<pl_gradient_norm_args> {
  explicit Owned(const pl_gradient_norm_args& from)
      : args(from), gradients(copy_list(from.gradients, from.gradient_count)) {
    args.gradients = gradients.data();
  }
  pl_gradient_norm_args args;
  std::vector<pl_tensor> gradients;
};

// The fields that the struct's writer knew; the others are zero.
template <class Args>
bool known_fields(const Args* args, Args* out) {
  if (!args || args->header.size < sizeof(pl_header)) return false;
  std::memset(static_cast<void*>(out), 0, sizeof *out);
  std::memcpy(static_cast<void*>(out), args,
              args->header.size < sizeof *out ? args->header.size : sizeof *out);
  out->header.size = sizeof *out;
  return true;
}

}  // namespace polylora
