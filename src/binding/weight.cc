#include "binding/weight.h"

#include "binding/values.h"

namespace polylora::binding {

Weight::Weight(std::shared_ptr<Device> device, const pl_weight_options& options)
    : device_(std::move(device)), options_(options) {
  throw_unless_ok(device_->table().weight_create(device_->stream(), &options_, &native_));
  device_->table().weight_describe(native_, &options_, &bytes_);
  device_->environment().count_memory(int64_t(bytes_));
}

Weight::~Weight() {
  if (!device_->closed()) device_->table().weight_release(device_->stream(), native_);
  device_->environment().count_memory(-int64_t(bytes_));
}

void WeightHandle::check_alive(const char* field) const {
  if (!weight) throw Failure("Disposed", std::string(field) + ": the weight is disposed");
  if (weight->device()->closed())
    throw Failure("Disposed", std::string(field) + ": the weight's device is closed");
}

napi_value create_weight(Call& call) {
  const napi_env env = call.env;
  const std::shared_ptr<Device> device = unwrap<DeviceHandle>(env, call[0], "device").device;
  if (!is_object(env, call[1]))
    throw Failure("Argument", "options is " + describe_value(env, call[1]) + ", must be an object");
  check_keys(env, call[1], {"rows", "columns", "storage", "compute"}, "options");
  pl_weight_options options{};
  options.size = sizeof options;
  options.rows = int64_t(read_size(env, property(env, call[1], "rows"), "rows"));
  options.columns = int64_t(read_size(env, property(env, call[1], "columns"), "columns"));
  options.storage = read_dtype(env, property(env, call[1], "storage"), "storage");
  options.compute = read_dtype(env, property(env, call[1], "compute"), "compute");
  auto handle = std::make_unique<WeightHandle>();
  handle->weight = std::make_shared<Weight>(device, options);
  call.environment.report_memory_later();
  return wrap(env, std::move(handle));
}

napi_value dispose_weight(Call& call) {
  WeightHandle& weight = unwrap<WeightHandle>(call.env, call[0], "weight");
  weight.weight.reset();
  call.environment.report_memory_later();
  return call.undefined();
}

}  // namespace polylora::binding
