// The kinds of devices: the CPU is part of the addon, CUDA a library beside it that is opened where
// a driver is.
#pragma once

#include <string>
#include <vector>

#include "binding/call.h"
#include "kernels.h"

namespace polylora::binding {

struct Backend {
  std::string kind;
  const pl_device_table* table;  // null: it is not there
  std::string file, reason;      // where it came from, or why it is not there
};

// In a fixed order; looked for once, on first use.
std::vector<Backend> known_backends();

napi_value backends(Call& call);
// Opens the library of a device at an absolute path and adds its kind, which it returns. Only
// code that can already load addons can call it: no option or variable leads here.
napi_value add_backend(Call& call);

}  // namespace polylora::binding
