#pragma once

#include <memory>
#include <unordered_set>

#include "binding/device.h"

namespace polylora::binding {

// Tensors' storages and weights that recorded operations name and that are not the recording's own.
using Kept = std::unordered_set<std::shared_ptr<const void>>;

// Operations to be queued again as a whole; keeps alive what they read and write. Ends with its
// device.
class Recording {
 public:
  Recording(std::shared_ptr<Device> device, pl_recording* native, Kept kept);
  ~Recording();
  Recording(const Recording&) = delete;

  // Throws Disposed if the device was closed.
  void replay() const;
  void close();

 private:
  std::shared_ptr<Device> device_;
  pl_recording* native_;
  Kept kept_;
};

struct RecordingHandle {
  static constexpr napi_type_tag kTag = {0x62b8d1f09ac74e35u, 0xd04f7e9a8831c5b6u};
  static constexpr const char* kName = "recording";
  std::unique_ptr<Recording> recording;  // null once disposed
};

napi_value begin_recording(Call& call);
napi_value end_recording(Call& call);
napi_value replay_recording(Call& call);
napi_value dispose_recording(Call& call);

}  // namespace polylora::binding
