#pragma once

#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <unordered_set>

#include "binding/call.h"
#include "binding/handle.h"
#include "io/transfer.h"

namespace polylora::binding {

class Recording;

// An open stream. The JavaScript thread closes it and uses it freely; the file thread goes through
// use().
class Device final : public io::DeviceAccess {
 public:
  Device(Environment& environment, const pl_device_table* table, pl_stream* stream);
  ~Device() override;

  void use(const std::function<void(const pl_device_table&, pl_stream*)>& body) override;

  const pl_device_table& table() const { return *table_; }
  bool closed() const { return closed_; }
  // Throws Disposed.
  pl_stream* stream() const;
  Environment& environment() { return *environment_; }

  // Those that can be replayed; they are released when the device is closed.
  std::set<Recording*>& recordings() { return recordings_; }
  // While recording: what the operations name (recording.h).
  std::unique_ptr<std::unordered_set<std::shared_ptr<const void>>> open_recording;
  uint64_t recording_number = 0;  // of the one under way, or the last
  // While recording, for what would have to wait: throws, and spoils the recording, since a promise
  // may hide that.
  void refuse_while_recording(const char* what);
  bool recording_refused = false;

  // No new use begins after this. Returns the stream for the caller to close, null if somebody else
  // does.
  pl_stream* begin_close();
  // Waits for what runs.
  void close_now();

 private:
  std::shared_ptr<Environment> environment_;
  const pl_device_table* table_;
  pl_stream* stream_;
  std::mutex use_mutex_;
  std::set<Recording*> recordings_;
  bool closed_ = false;  // written on the JavaScript thread, under the mutex
};

struct DeviceHandle {
  static constexpr napi_type_tag kTag = {0x9d1c5f8e2b7a4c01u, 0xa8e3b6d04f721c95u};
  static constexpr const char* kName = "device";
  std::shared_ptr<Device> device;
};

napi_value open_device(Call& call);
napi_value close_device(Call& call);
napi_value describe_device(Call& call);
napi_value synchronize(Call& call);
napi_value profile(Call& call);
napi_value trim(Call& call);
napi_value inject_allocation_fault(Call& call);
napi_value held_bytes(Call& call);

}  // namespace polylora::binding
