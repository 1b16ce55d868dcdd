#pragma once

#include <memory>

#include "binding/device.h"

namespace polylora::binding {

// Memory of a device, given back with the last handle that refers to it: work that is queued still
// sees it, because memory is released in the order of the stream.
class Storage {
 public:
  Storage(std::shared_ptr<Device> device, uint64_t bytes);
  ~Storage();
  Storage(const Storage&) = delete;

  const std::shared_ptr<Device>& device() const { return device_; }
  void* data() const { return data_; }
  uint64_t bytes() const { return bytes_; }
  // Which recording its memory belongs to; 0: none.
  uint64_t recording() const { return recording_; }

 private:
  std::shared_ptr<Device> device_;
  uint64_t bytes_;
  uint64_t recording_;
  void* data_ = nullptr;
};

struct TensorHandle {
  static constexpr napi_type_tag kTag = {0x4be0a97c61d34f12u, 0x8c5d2e91b07f63a4u};
  static constexpr const char* kName = "tensor";

  std::shared_ptr<Storage> storage;  // null once disposed
  pl_tensor view{};

  // Throws Disposed, for a closed device too.
  void check_alive(const char* field) const;
};

uint64_t element_count(const pl_tensor& tensor);
bool is_contiguous(const pl_tensor& tensor);
std::string describe_tensor(const pl_tensor& tensor);  // "f32 tensor [2, 3]"

napi_value allocate(Call& call);
napi_value view(Call& call);
napi_value dispose_tensor(Call& call);
napi_value write_tensor(Call& call);
napi_value read_tensor(Call& call);

}  // namespace polylora::binding
