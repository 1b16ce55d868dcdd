#include "binding/device.h"

#include <cstring>

#include "binding/backends.h"
#include "binding/recording.h"
#include "binding/values.h"
#include "runtime/heap.h"
#include "runtime/recorder.h"

namespace polylora::binding {

namespace {

// Keeps the device alive until its promise is settled.
struct DevicePromise final : Promise {
  explicit DevicePromise(std::shared_ptr<Device> device) : device(std::move(device)) {}
  std::shared_ptr<Device> device;
};

pl_device_options read_options(napi_env env, napi_value value) {
  pl_device_options options{};
  options.size = sizeof options;
  if (is_nullish(env, value)) return options;
  if (!is_object(env, value))
    throw Failure("Argument", "options is " + describe_value(env, value) + ", must be an object");
  check_keys(env, value, {"index", "threads", "instructionSet", "memoryBudget", "recordings"},
             "options");
  napi_value field = property(env, value, "index");
  if (!is_nullish(env, field)) options.index = int32_t(read_integer(env, field, "index", 0, 1023));
  field = property(env, value, "threads");
  if (!is_nullish(env, field))
    options.threads = int32_t(read_integer(env, field, "threads", 1, 1024));
  field = property(env, value, "instructionSet");
  if (!is_nullish(env, field)) {
    const std::string name = read_string(env, field, "instructionSet");
    if (name.empty() || name.size() >= sizeof options.instruction_set ||
        name.find('\0') != std::string::npos)
      throw Failure("Argument", "instructionSet is " + describe_value(env, field) +
                                    ", must be portable, avx2, avx512 or avx512-bf16");
    std::memcpy(options.instruction_set, name.c_str(), name.size());
  }
  field = property(env, value, "memoryBudget");
  if (!is_nullish(env, field)) {
    options.memory_budget = read_size(env, field, "memoryBudget");
    if (options.memory_budget == 0)
      throw Failure("Argument", "memoryBudget is 0, must be a number of bytes above 0");
  }
  // JavaScript's own; checked here with the others.
  field = property(env, value, "recordings");
  if (!is_nullish(env, field)) read_flag(env, field, "recordings");
  return options;
}

}  // namespace

Device::Device(Environment& environment, const pl_device_table* table, pl_stream* stream)
    : environment_(environment.shared_from_this()), table_(table), stream_(stream) {
  environment_->devices().insert(this);
}

Device::~Device() {
  if (pl_stream* stream = begin_close()) environment_->close_stream(table_, stream, nullptr);
}

void Device::use(const std::function<void(const pl_device_table&, pl_stream*)>& body) {
  std::lock_guard<std::mutex> lock(use_mutex_);
  if (closed_) throw Failure("Disposed", "the device was closed");
  if (environment_->worker().cancelled()) throw Failure("Device", "the environment is ending");
  body(*table_, stream_);
}

pl_stream* Device::stream() const {
  if (closed_) throw Failure("Disposed", "the device is closed");
  return stream_;
}

void Device::refuse_while_recording(const char* what) {
  if (!open_recording) return;
  recording_refused = true;
  throw_unless_ok(not_recordable(what));
}

pl_stream* Device::begin_close() {
  std::lock_guard<std::mutex> lock(use_mutex_);
  if (closed_) return nullptr;
  open_recording.reset();
  while (!recordings_.empty()) (*recordings_.begin())->close();
  closed_ = true;
  environment_->devices().erase(this);
  return stream_;
}

void Device::close_now() {
  if (pl_stream* stream = begin_close()) table_->close(stream);
}

napi_value open_device(Call& call) {
  const std::string kind = read_string(call.env, call[0], "kind");
  const pl_device_options options = read_options(call.env, call[1]);
  std::string known;
  for (const Backend& backend : known_backends()) {
    known += (known.empty() ? "" : ", ") + backend.kind;
    if (kind != backend.kind) continue;
    if (!backend.table)
      throw Failure("Device", "there is no " + kind + " device here: " + backend.reason);
    const pl_device_table* table = backend.table;
    pl_stream* stream = nullptr;
    throw_unless_ok(table->open(&options, &stream));
    auto handle = std::make_unique<DeviceHandle>();
    handle->device = std::make_shared<Device>(call.environment, table, stream);
    return wrap(call.env, std::move(handle));
  }
  throw Failure("Argument", "there is no device kind " + describe_value(call.env, call[0]) +
                                "; known are " + known);
}

napi_value close_device(Call& call) {
  const std::shared_ptr<Device> device = unwrap<DeviceHandle>(call.env, call[0], "device").device;
  device->stream();
  napi_value result;
  Promise* promise = call.environment.expect(std::make_unique<DevicePromise>(device), &result);
  call.environment.close_stream(&device->table(), device->begin_close(), promise);
  return result;
}

napi_value describe_device(Call& call) {
  Device& device = *unwrap<DeviceHandle>(call.env, call[0], "device").device;
  pl_device_info info{};
  info.size = sizeof info;
  device.table().describe(device.stream(), &info);
  napi_value result;
  check(call.env, napi_create_object(call.env, &result));
  set(call.env, result, "kind", make_string(call.env, device.table().kind));
  set(call.env, result, "name", make_string(call.env, info.name));
  set(call.env, result, "threads", make_number(call.env, info.threads));
  set(call.env, result, "instructionSet", make_string(call.env, info.instruction_set));
  set(call.env, result, "memoryBudget", make_number(call.env, double(info.memory_budget)));
  set(call.env, result, "memoryUsed", make_number(call.env, double(info.memory_used)));
  set(call.env, result, "memoryReserved", make_number(call.env, double(info.memory_reserved)));
  set(call.env, result, "memoryPeak", make_number(call.env, double(info.memory_peak)));
  set(call.env, result, "queueDepth", make_number(call.env, double(info.queue_depth)));
  set(call.env, result, "replays", make_number(call.env, double(info.replays)));
  set(call.env, result, "graphReplays", make_number(call.env, double(info.graph_replays)));
  return result;
}

napi_value synchronize(Call& call) {
  const std::shared_ptr<Device> device = unwrap<DeviceHandle>(call.env, call[0], "device").device;
  pl_stream* stream = device->stream();
  device->refuse_while_recording("waiting for the device");
  napi_value result;
  Promise* promise = call.environment.expect(std::make_unique<DevicePromise>(device), &result);
  const pl_status status =
      device->table().callback(stream, Environment::settle_with_status, promise);
  if (status.code != PL_OK) Environment::settle_with_status(promise, &status);
  return result;
}

napi_value profile(Call& call) {
  Device& device = *unwrap<DeviceHandle>(call.env, call[0], "device").device;
  const bool on = read_flag(call.env, call[1], "on");
  pl_operation_time times[PL_OPERATION_COUNT];
  device.table().profile(device.stream(), on, times);
  static const char* const names[] = {
#define PL_ENTRY(name) #name,
      PL_OPERATIONS(PL_ENTRY)
#undef PL_ENTRY
  };
  napi_value list;
  check(call.env, napi_create_array(call.env, &list));
  uint32_t index = 0;
  for (int i = 0; i < PL_OPERATION_COUNT; ++i) {
    if (times[i].count == 0) continue;
    napi_value entry;
    check(call.env, napi_create_object(call.env, &entry));
    set(call.env, entry, "operation", make_string(call.env, names[i]));
    set(call.env, entry, "count", make_number(call.env, double(times[i].count)));
    set(call.env, entry, "seconds", make_number(call.env, double(times[i].nanoseconds) * 1e-9));
    check(call.env, napi_set_element(call.env, list, index++, entry));
  }
  return list;
}

napi_value trim(Call& call) {
  Device& device = *unwrap<DeviceHandle>(call.env, call[0], "device").device;
  device.table().trim(device.stream());
  return call.undefined();
}

napi_value inject_allocation_fault(Call& call) {
  const uint64_t nth = read_size(call.env, call[0], "nth");
  return make_number(call.env, double(Heap::inject_fault(nth)));
}

napi_value held_bytes(Call& call) { return make_number(call.env, double(Heap::held())); }

}  // namespace polylora::binding
