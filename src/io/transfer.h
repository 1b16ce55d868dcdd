// Safetensors in and out of a device, a piece at a time: no tensor is ever held as a whole. For a
// thread that may wait.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "io/file.h"
#include "io/safetensors_header.h"
#include "kernels.h"

namespace polylora::io {

// A device that may be closed on another thread between two uses.
class DeviceAccess {
 public:
  virtual ~DeviceAccess() = default;
  // Calls body while the device stays open; throws Failure "Disposed" if it is closed, or "Device"
  // if the work is cancelled.
  virtual void use(const std::function<void(const pl_device_table&, pl_stream*)>& body) = 0;
};

struct OpenSafetensors {
  std::string path;
  File file;
  SafetensorsHeader header;
};

OpenSafetensors open_safetensors(FileSystem& files, const std::string& path);

// Whether the file's dtype can be read into, or a source written as, `dtype`: float kinds among
// each other, and any dtype as itself. Throws DType naming `what`.
void check_conversion(const std::string& what, int32_t from, int32_t to);

int32_t dtype_of_name(const std::string& dtype);  // PL_NONE if the device has no such dtype
const char* name_of_dtype(int32_t dtype);         // as safetensors spells it
uint64_t bytes_of_dtype(int32_t dtype);

// Into a contiguous tensor with the entry's number of elements.
void read_into_tensor(FileSystem& files, const OpenSafetensors& source,
                      const SafetensorsEntry& entry, DeviceAccess& device, const pl_tensor& target);

// A [n, columns] entry into rows row_begin ... of a weight. Both were checked to fit.
void read_into_weight(FileSystem& files, const OpenSafetensors& source,
                      const SafetensorsEntry& entry, DeviceAccess& device, pl_weight* weight,
                      uint64_t rows, uint64_t columns, uint64_t row_begin);

// What a file is made of: a contiguous tensor, or a whole weight.
struct Source {
  std::string name;
  int32_t dtype;  // in the file
  std::vector<uint64_t> shape;
  DeviceAccess* device;
  pl_tensor tensor;   // if weight is null
  pl_weight* weight;  // [rows, columns]
  uint64_t rows, columns;
};

// Returns the size of the file.
uint64_t write_safetensors(FileSystem& files, const std::string& path,
                           const std::vector<std::pair<std::string, std::string>>& metadata,
                           std::vector<Source> sources);

}  // namespace polylora::io
