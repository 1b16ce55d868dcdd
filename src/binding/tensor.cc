#include "binding/tensor.h"

#include <algorithm>

#include "binding/values.h"

namespace polylora::binding {

namespace {

std::string describe_sizes(const std::vector<uint64_t>& sizes) {
  std::string text = "[";
  for (size_t i = 0; i < sizes.size(); ++i) text += (i ? ", " : "") + std::to_string(sizes[i]);
  return text + "]";
}

void check_rank(const std::vector<uint64_t>& shape) {
  if (shape.size() > PL_MAX_RANK)
    throw Failure("Shape", "the shape " + describe_sizes(shape) + " has " +
                               std::to_string(shape.size()) + " dimensions; at most " +
                               std::to_string(PL_MAX_RANK) + " are allowed");
}

void check_contiguous(const pl_tensor& tensor, const char* doing) {
  if (!is_contiguous(tensor))
    throw Failure("Shape", describe_tensor(tensor) +
                               " is not contiguous; only contiguous tensors can be " + doing);
}

// Devices know no rank 0: a tensor without dimensions goes to them as one of shape [1].
void complete_scalar(pl_tensor* tensor) {
  if (tensor->rank != 0) return;
  tensor->rank = 1;
  tensor->shape[0] = tensor->strides[0] = 1;
}

// The bytes of a typed array or DataView. They stay where they are only until JavaScript runs
// again.
void read_bytes(Call& call, napi_value value, const void** data, size_t* bytes) {
  const napi_env env = call.env;
  bool typed = false, data_view = false;
  check(env, napi_is_typedarray(env, value, &typed));
  check(env, napi_is_dataview(env, value, &data_view));
  if (!typed && !data_view)
    throw Failure("Argument", "bytes is " + describe_value(env, value) +
                                  ", must be a typed array or a DataView");
  napi_value buffer;
  void* start = nullptr;
  size_t length = 0, offset = 0;
  const auto examine = [&] {
    if (data_view) {
      check(env, napi_get_dataview_info(env, value, &length, &start, &buffer, &offset));
      return;
    }
    // An unknown kind leaves it as it is.
    napi_typedarray_type type = napi_typedarray_type(-1);
    check(env, napi_get_typedarray_info(env, value, &type, &length, &start, &buffer, &offset));
    static constexpr size_t kWidth[] = {1, 1, 1, 2, 2, 4,
                                        4, 4, 8, 8, 8};  // in the order of napi_typedarray_type
    if (size_t(type) >= sizeof kWidth / sizeof *kWidth)
      throw Failure("Argument", "bytes is an unknown kind of typed array");
    length *= kWidth[type];
  };
  examine();
  bool plain = false, detached = false;
  check(env, napi_is_arraybuffer(env, buffer, &plain));
  if (!plain)
    throw Failure("Argument",
                  "bytes lies in a SharedArrayBuffer, which may change while it is copied");
  check(env, napi_is_detached_arraybuffer(env, buffer, &detached));
  if (detached) throw Failure("Argument", "bytes lies in a detached ArrayBuffer");
  if (call.environment.is_resizable(env, buffer))
    throw Failure("Argument", "bytes lies in a resizable ArrayBuffer");
  examine();
  *data = start;
  *bytes = length;
}

// Holds the buffer that the stream writes to. The tensor may go: its memory is released in stream
// order.
struct ReadPromise final : Promise {
  napi_value value(napi_env env) override {
    napi_value result;
    check(env, napi_get_reference_value(env, buffer, &result));
    check(env, napi_delete_reference(env, buffer));
    buffer = nullptr;
    return result;
  }
  std::shared_ptr<Device> device;
  napi_ref buffer = nullptr;
  napi_env env = nullptr;
  ~ReadPromise() override {
    if (buffer) napi_delete_reference(env, buffer);
  }
};

}  // namespace

Storage::Storage(std::shared_ptr<Device> device, uint64_t bytes)
    : device_(std::move(device)),
      bytes_(bytes),
      recording_(device_->open_recording ? device_->recording_number : 0) {
  throw_unless_ok(device_->table().allocate(device_->stream(), bytes, &data_));
  device_->environment().count_memory(int64_t(bytes_));
}

Storage::~Storage() {
  if (!device_->closed()) device_->table().release(device_->stream(), data_);
  device_->environment().count_memory(-int64_t(bytes_));
}

void TensorHandle::check_alive(const char* field) const {
  if (!storage) throw Failure("Disposed", std::string(field) + ": the tensor is disposed");
  if (storage->device()->closed())
    throw Failure("Disposed", std::string(field) + ": the tensor's device is closed");
}

uint64_t element_count(const pl_tensor& tensor) {
  uint64_t count = 1;
  for (int i = 0; i < tensor.rank; ++i) count *= uint64_t(tensor.shape[i]);
  return count;
}

bool is_contiguous(const pl_tensor& tensor) {
  if (element_count(tensor) == 0) return true;
  int64_t stride = 1;
  for (int i = tensor.rank - 1; i >= 0; --i) {
    if (tensor.shape[i] != 1 && tensor.strides[i] != stride) return false;
    stride *= tensor.shape[i];
  }
  return true;
}

std::string describe_tensor(const pl_tensor& tensor) {
  return std::string(dtype_name(tensor.dtype)) + " tensor " +
         describe_sizes(std::vector<uint64_t>(tensor.shape, tensor.shape + tensor.rank));
}

napi_value allocate(Call& call) {
  const std::shared_ptr<Device> device = unwrap<DeviceHandle>(call.env, call[0], "device").device;
  const int32_t dtype = read_dtype(call.env, call[1], "dtype");
  const std::vector<uint64_t> shape = read_sizes(call.env, call[2], "shape");
  check_rank(shape);
  uint64_t bytes;
  if (!multiply_sizes(shape, dtype_bytes(dtype), &bytes))
    throw Failure(
        "Shape", "a tensor of shape " + describe_sizes(shape) + " would have more than 2^53 bytes");
  device->stream();
  auto handle = std::make_unique<TensorHandle>();
  handle->storage = std::make_shared<Storage>(device, bytes);
  handle->view.data = handle->storage->data();
  handle->view.dtype = dtype;
  handle->view.rank = int32_t(shape.size());
  int64_t stride = 1;
  for (size_t i = shape.size(); i-- > 0;) {
    handle->view.shape[i] = int64_t(shape[i]);
    handle->view.strides[i] = stride;
    stride *= int64_t(bytes == 0 ? 1 : shape[i]);
  }
  complete_scalar(&handle->view);
  call.environment.report_memory_later();
  return wrap(call.env, std::move(handle));
}

napi_value view(Call& call) {
  const TensorHandle& tensor = unwrap<TensorHandle>(call.env, call[0], "tensor");
  const uint64_t offset = read_size(call.env, call[1], "offset");
  const std::vector<uint64_t> shape = read_sizes(call.env, call[2], "shape");
  const std::vector<uint64_t> strides = read_sizes(call.env, call[3], "strides");
  tensor.check_alive("tensor");
  check_rank(shape);
  if (strides.size() != shape.size())
    throw Failure("Shape", "the shape " + describe_sizes(shape) + " and the strides " +
                               describe_sizes(strides) + " have different numbers of dimensions");
  const uint64_t size = dtype_bytes(tensor.view.dtype);
  const Storage& storage = *tensor.storage;
  const uint64_t start = uint64_t(static_cast<unsigned char*>(tensor.view.data) -
                                  static_cast<unsigned char*>(storage.data())) /
                         size;
  const uint64_t total = storage.bytes() / size;
  // One past the last element, from the start of the storage. Offsets of a view without elements
  // must lie within, too.
  uint64_t end = start;
  bool fits = !__builtin_add_overflow(end, offset, &end) && end <= total;
  uint64_t count;
  if (!multiply_sizes(shape, 1, &count))
    throw Failure("Shape", "the shape " + describe_sizes(shape) + " has more than 2^53 elements");
  if (count > 0) {
    for (size_t i = 0; i < shape.size(); ++i) {
      uint64_t reach;
      fits = fits && !__builtin_mul_overflow(shape[i] - 1, strides[i], &reach) &&
             !__builtin_add_overflow(end, reach, &end);
    }
    fits = fits && end < total;
  }
  if (!fits)
    throw Failure("Shape", "a view with offset " + std::to_string(offset) + ", shape " +
                               describe_sizes(shape) + " and strides " + describe_sizes(strides) +
                               " does not lie within the " + std::to_string(total) +
                               " elements of the storage of " + describe_tensor(tensor.view));
  auto handle = std::make_unique<TensorHandle>();
  handle->storage = tensor.storage;
  handle->view.data = static_cast<unsigned char*>(tensor.view.data) + offset * size;
  handle->view.dtype = tensor.view.dtype;
  handle->view.rank = int32_t(shape.size());
  for (size_t i = 0; i < shape.size(); ++i) {
    handle->view.shape[i] = int64_t(shape[i]);
    handle->view.strides[i] = int64_t(strides[i]);
  }
  complete_scalar(&handle->view);
  return wrap(call.env, std::move(handle));
}

napi_value dispose_tensor(Call& call) {
  TensorHandle& tensor = unwrap<TensorHandle>(call.env, call[0], "tensor");
  tensor.storage.reset();
  call.environment.report_memory_later();
  return call.undefined();
}

napi_value write_tensor(Call& call) {
  const TensorHandle& tensor = unwrap<TensorHandle>(call.env, call[0], "tensor");
  const void* data = nullptr;
  size_t bytes = 0;
  read_bytes(call, call[1], &data, &bytes);
  tensor.check_alive("tensor");
  check_contiguous(tensor.view, "written");
  const uint64_t expected = element_count(tensor.view) * dtype_bytes(tensor.view.dtype);
  if (bytes != expected)
    throw Failure("Shape", describe_tensor(tensor.view) + " has " + std::to_string(expected) +
                               " bytes, but " + std::to_string(bytes) + " were given");
  Device& device = *tensor.storage->device();
  throw_unless_ok(device.table().copy_from_host(device.stream(), tensor.view.data, data, bytes));
  return call.undefined();
}

napi_value read_tensor(Call& call) {
  const TensorHandle& tensor = unwrap<TensorHandle>(call.env, call[0], "tensor");
  tensor.check_alive("tensor");
  check_contiguous(tensor.view, "read");
  const pl_tensor source = tensor.view;
  const std::shared_ptr<Device> owner = tensor.storage->device();
  owner->refuse_while_recording("reading a tensor");
  const uint64_t bytes = element_count(source) * dtype_bytes(source.dtype);
  void* data = nullptr;
  napi_value buffer = call.environment.new_array_buffer(call.env, bytes, &data);
  auto read = std::make_unique<ReadPromise>();
  read->device = owner;
  read->env = call.env;
  check(call.env, napi_create_reference(call.env, buffer, 1, &read->buffer));
  Device& device = *owner;
  napi_value result;
  Promise* promise = call.environment.expect(std::move(read), &result);
  pl_status status = device.table().copy_to_host(device.stream(), data, source.data, bytes);
  if (status.code != PL_OK) {
    Environment::settle_with_status(promise, &status);
    return result;
  }
  status = device.table().callback(device.stream(), Environment::settle_with_status, promise);
  if (status.code != PL_OK) {
    // The copy is queued, and nobody will say when it has run.
    promise->status = status;
    call.environment.abandon(promise);
  }
  return result;
}

}  // namespace polylora::binding
