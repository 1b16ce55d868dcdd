#include "binding/recording.h"

#include "binding/values.h"

namespace polylora::binding {

Recording::Recording(std::shared_ptr<Device> device, pl_recording* native, Kept kept)
    : device_(std::move(device)), native_(native), kept_(std::move(kept)) {
  device_->recordings().insert(this);
}

Recording::~Recording() { close(); }

void Recording::replay() const {
  if (!native_) throw Failure("Disposed", "the recording's device is closed");
  throw_unless_ok(device_->table().recording_replay(device_->stream(), native_));
}

void Recording::close() {
  if (!native_) return;
  device_->recordings().erase(this);
  device_->table().recording_release(device_->stream(), native_);
  native_ = nullptr;
  kept_.clear();
}

// False: this device has no recordings.
napi_value begin_recording(Call& call) {
  Device& device = *unwrap<DeviceHandle>(call.env, call[0], "device").device;
  pl_stream* stream = device.stream();
  const bool has = device.table().recording_begin != nullptr;
  if (has) {
    throw_unless_ok(device.table().recording_begin(stream));
    device.open_recording = std::make_unique<Kept>();
    ++device.recording_number;
    device.recording_refused = false;
  }
  napi_value result;
  check(call.env, napi_get_boolean(call.env, has, &result));
  return result;
}

// Undefined if what was recorded is dropped, or something in it was refused.
napi_value end_recording(Call& call) {
  const std::shared_ptr<Device> device = unwrap<DeviceHandle>(call.env, call[0], "device").device;
  const bool keeps = read_flag(call.env, call[1], "keeps");
  pl_stream* stream = device->stream();
  const std::unique_ptr<Kept> kept = std::move(device->open_recording);
  if (!keeps || device->recording_refused) {
    throw_unless_ok(device->table().recording_end(stream, nullptr));
    return call.undefined();
  }
  pl_recording* native = nullptr;
  throw_unless_ok(device->table().recording_end(stream, &native));
  auto handle = std::make_unique<RecordingHandle>();
  handle->recording = std::make_unique<Recording>(device, native, std::move(*kept));
  return wrap(call.env, std::move(handle));
}

napi_value replay_recording(Call& call) {
  const RecordingHandle& handle = unwrap<RecordingHandle>(call.env, call[0], "recording");
  if (!handle.recording) throw Failure("Disposed", "the recording is disposed");
  handle.recording->replay();
  return call.undefined();
}

napi_value dispose_recording(Call& call) {
  unwrap<RecordingHandle>(call.env, call[0], "recording").recording.reset();
  call.environment.report_memory_later();
  return call.undefined();
}

}  // namespace polylora::binding
