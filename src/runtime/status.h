// pl_status with a message in printf's manner.
#pragma once

#include <cstdint>
#include <string>

#include "kernels.h"

namespace polylora {

inline pl_status ok_status() {
  pl_status status;
  status.code = PL_OK;
  status.message[0] = 0;
  return status;
}

pl_status make_status(pl_code code, const char* format, ...) __attribute__((format(printf, 2, 3)));

// "3.2 GiB"; whole bytes below 1 KiB.
std::string format_bytes(uint64_t bytes);

}  // namespace polylora
