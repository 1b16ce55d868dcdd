// What the binding throws to JavaScript as a typed error.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "kernels.h"

namespace polylora {

// One of "Argument", "Shape", "DType", "Disposed", "OutOfMemory", "Device", "Format", "Io".
using FailureCode = const char*;

struct Failure {
  FailureCode code;
  std::string message;
  std::vector<std::pair<const char*, std::string>> details;
  std::vector<std::pair<const char*, double>> numbers;

  Failure(FailureCode code, std::string message) : code(code), message(std::move(message)) {}
  Failure& with(const char* name, std::string value) {
    details.emplace_back(name, std::move(value));
    return *this;
  }
  Failure& with(const char* name, double value) {
    numbers.emplace_back(name, value);
    return *this;
  }
};

inline FailureCode failure_code(int32_t code) {
  switch (code) {
    case PL_SHAPE:
      return "Shape";
    case PL_DTYPE:
      return "DType";
    case PL_OUT_OF_MEMORY:
      return "OutOfMemory";
    case PL_DEVICE:
    case PL_UNSUPPORTED:
      return "Device";
    default:
      return "Argument";
  }
}

inline void throw_unless_ok(const pl_status& status) {
  if (status.code == PL_OK) return;
  Failure failure(failure_code(status.code), status.message);
  if (status.code == PL_UNSUPPORTED) failure.with("unsupported", 1);
  throw failure;
}

}  // namespace polylora
