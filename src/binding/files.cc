#include "binding/files.h"

#include <algorithm>
#include <unordered_set>

#include "binding/tensor.h"
#include "binding/values.h"
#include "binding/weight.h"
#include "io/transfer.h"

namespace polylora::binding {

namespace {

struct FileHandle {
  static constexpr napi_type_tag kTag = {0x6a58e1f3c09b4d27u, 0x93d7b40f5e81c2a6u};
  static constexpr const char* kName = "safetensors file";
  std::shared_ptr<const io::OpenSafetensors> file;  // null once closed
};

struct LockHandle {
  static constexpr napi_type_tag kTag = {0xd20c7b95e6f84a31u, 0xa16f3e8c49d0b57eu};
  static constexpr const char* kName = "file lock";
  // The environment holds the lock: a forgotten handle does not give it up.
  std::list<io::File>::iterator lock;
  bool held = true;
};

// Work on the file thread. `work` fills in the promise; what it captures lives until JavaScript has
// heard.
class FilePromise : public Promise {
 public:
  // Settles with what `work` throws, or as it left the promise.
  static napi_value start(Call& call, std::unique_ptr<FilePromise> promise) {
    napi_value result;
    FilePromise* self = call.environment.expect(std::move(promise), &result);
    Environment& environment = call.environment;
    const auto job = [self, &environment] {
      try {
        if (environment.worker().cancelled()) throw Failure("Device", "the environment is ending");
        self->work(environment.files());
      } catch (const Failure& failure) {
        self->failure = std::make_unique<Failure>(failure);
      } catch (const std::bad_alloc&) {
        self->status.code = PL_OUT_OF_MEMORY;
        std::snprintf(self->status.message, sizeof self->status.message,
                      "the system refused memory");
      } catch (const std::exception& error) {
        self->status.code = PL_DEVICE;
        std::snprintf(self->status.message, sizeof self->status.message, "%s", error.what());
      }
      Environment::settle(self);
    };
    try {
      environment.worker().push(job);
    } catch (const std::exception& error) {
      self->failure = std::make_unique<Failure>(
          "Device", std::string("the file thread could not be started: ") + error.what());
      Environment::settle(self);
    }
    return result;
  }

 protected:
  virtual void work(io::FileSystem& files) = 0;
};

struct OpenPromise final : FilePromise {
  std::string path;
  std::shared_ptr<const io::OpenSafetensors> file;

  void work(io::FileSystem& files) override {
    file = std::make_shared<const io::OpenSafetensors>(io::open_safetensors(files, path));
  }
  napi_value value(napi_env env) override {
    auto handle = std::make_unique<FileHandle>();
    handle->file = std::move(file);
    return wrap(env, std::move(handle));
  }
};

struct ReadPromise final : FilePromise {
  std::shared_ptr<const io::OpenSafetensors> file;
  const io::SafetensorsEntry* entry = nullptr;
  std::shared_ptr<Storage> storage;
  pl_tensor target{};

  void work(io::FileSystem& files) override {
    io::read_into_tensor(files, *file, *entry, *storage->device(), target);
  }
};

struct ReadWeightPromise final : FilePromise {
  std::shared_ptr<const io::OpenSafetensors> file;
  const io::SafetensorsEntry* entry = nullptr;
  std::shared_ptr<Weight> weight;
  uint64_t row_begin = 0;

  void work(io::FileSystem& files) override {
    io::read_into_weight(files, *file, *entry, *weight->device(), weight->native(), entry->shape[0],
                         entry->shape[1], row_begin);
  }
};

struct WritePromise final : FilePromise {
  std::string path;
  std::vector<std::pair<std::string, std::string>> metadata;
  std::vector<io::Source> sources;
  std::vector<std::shared_ptr<Storage>> storages;
  std::vector<std::shared_ptr<Weight>> weights;
  uint64_t bytes = 0;

  void work(io::FileSystem& files) override {
    bytes = io::write_safetensors(files, path, metadata, std::move(sources));
  }
  napi_value value(napi_env env) override { return make_number(env, double(bytes)); }
};

struct ExchangePromise final : FilePromise {
  std::string a, b;
  bool done = false;

  void work(io::FileSystem& files) override { done = files.exchange(a, b); }
  napi_value value(napi_env env) override {
    napi_value result;
    check(env, napi_get_boolean(env, done, &result));
    return result;
  }
};

std::shared_ptr<const io::OpenSafetensors> open_file(const FileHandle& handle) {
  if (!handle.file) throw Failure("Disposed", "the file is closed");
  return handle.file;
}

const io::SafetensorsEntry& find_entry(const io::OpenSafetensors& file, const std::string& name) {
  for (const io::SafetensorsEntry& entry : file.header.entries)
    if (entry.name == name) return entry;
  throw Failure("Format", file.path + " has no tensor " + io::json_string(name))
      .with("file", file.path);
}

// The entry's dtype as the device's; throws naming the tensor if there is none.
int32_t entry_dtype(const io::OpenSafetensors& file, const io::SafetensorsEntry& entry) {
  const int32_t dtype = io::dtype_of_name(entry.dtype);
  if (dtype == PL_NONE)
    throw Failure("DType", file.path + ": tensor " + io::json_string(entry.name) + " has dtype " +
                               entry.dtype + "; F32, BF16, F16, I32 and U8 can be read")
        .with("file", file.path);
  return dtype;
}

std::string describe_entry(const io::OpenSafetensors& file, const io::SafetensorsEntry& entry) {
  std::string text = file.path + ": tensor " + io::json_string(entry.name) + " [";
  for (size_t i = 0; i < entry.shape.size(); ++i)
    text += (i ? ", " : "") + std::to_string(entry.shape[i]);
  return text + "]";
}

}  // namespace

napi_value open_safetensors(Call& call) {
  auto promise = std::make_unique<OpenPromise>();
  promise->path = read_path(call.env, call[0], "path");
  return FilePromise::start(call, std::move(promise));
}

napi_value safetensors_entries(Call& call) {
  const napi_env env = call.env;
  const auto file = open_file(unwrap<FileHandle>(env, call[0], "file"));
  napi_value result, entries, metadata;
  check(env, napi_create_object(env, &result));
  check(env, napi_create_array_with_length(env, file->header.entries.size(), &entries));
  check(env, napi_create_array_with_length(env, file->header.metadata.size(), &metadata));
  uint32_t index = 0;
  for (const io::SafetensorsEntry& entry : file->header.entries) {
    napi_handle_scope scope;
    check(env, napi_open_handle_scope(env, &scope));
    napi_value item, shape;
    check(env, napi_create_object(env, &item));
    check(env, napi_create_array_with_length(env, entry.shape.size(), &shape));
    for (size_t i = 0; i < entry.shape.size(); ++i)
      check(env,
            napi_set_element(env, shape, uint32_t(i), make_number(env, double(entry.shape[i]))));
    set(env, item, "name", make_string(env, entry.name));
    set(env, item, "dtype", make_string(env, entry.dtype));
    set(env, item, "shape", shape);
    set(env, item, "begin", make_number(env, double(entry.begin)));
    set(env, item, "end", make_number(env, double(entry.end)));
    check(env, napi_set_element(env, entries, index++, item));
    check(env, napi_close_handle_scope(env, scope));
  }
  index = 0;
  for (const auto& [key, value] : file->header.metadata) {
    napi_value pair;
    check(env, napi_create_array_with_length(env, 2, &pair));
    check(env, napi_set_element(env, pair, 0, make_string(env, key)));
    check(env, napi_set_element(env, pair, 1, make_string(env, value)));
    check(env, napi_set_element(env, metadata, index++, pair));
  }
  set(env, result, "entries", entries);
  set(env, result, "metadata", metadata);
  return result;
}

napi_value read_safetensors(Call& call) {
  const FileHandle& handle = unwrap<FileHandle>(call.env, call[0], "file");
  const std::string name = read_string(call.env, call[1], "name");
  const TensorHandle& tensor = unwrap<TensorHandle>(call.env, call[2], "tensor");
  auto promise = std::make_unique<ReadPromise>();
  promise->file = open_file(handle);
  tensor.check_alive("tensor");
  const io::SafetensorsEntry& entry = find_entry(*promise->file, name);
  const int32_t dtype = entry_dtype(*promise->file, entry);
  io::check_conversion(describe_entry(*promise->file, entry), dtype, tensor.view.dtype);
  if (!is_contiguous(tensor.view))
    throw Failure("Shape", describe_tensor(tensor.view) +
                               " is not contiguous; only contiguous tensors can be read into");
  const uint64_t count = (entry.end - entry.begin) / io::bytes_of_dtype(dtype);
  if (count != element_count(tensor.view))
    throw Failure("Shape", describe_entry(*promise->file, entry) + " has " + std::to_string(count) +
                               " elements, but " + describe_tensor(tensor.view) + " has " +
                               std::to_string(element_count(tensor.view)));
  promise->entry = &entry;
  promise->storage = tensor.storage;
  promise->target = tensor.view;
  return FilePromise::start(call, std::move(promise));
}

napi_value read_safetensors_weight(Call& call) {
  const FileHandle& handle = unwrap<FileHandle>(call.env, call[0], "file");
  const std::string name = read_string(call.env, call[1], "name");
  const WeightHandle& weight = unwrap<WeightHandle>(call.env, call[2], "weight");
  const uint64_t row_begin = read_size(call.env, call[3], "rowBegin");
  auto promise = std::make_unique<ReadWeightPromise>();
  promise->file = open_file(handle);
  weight.check_alive("weight");
  const io::SafetensorsEntry& entry = find_entry(*promise->file, name);
  const int32_t dtype = entry_dtype(*promise->file, entry);
  const std::string what = describe_entry(*promise->file, entry);
  io::check_conversion(what, dtype, PL_F32);
  const pl_weight_options& options = weight.weight->options();
  const uint64_t rows = uint64_t(options.rows), columns = uint64_t(options.columns);
  if (entry.shape.size() != 2 || entry.shape[1] != columns || row_begin > rows ||
      entry.shape[0] > rows - row_begin)
    throw Failure("Shape", what + " does not fit into rows from " + std::to_string(row_begin) +
                               " of a weight [" + std::to_string(rows) + ", " +
                               std::to_string(columns) + "]");
  promise->entry = &entry;
  promise->weight = weight.weight;
  promise->row_begin = row_begin;
  return FilePromise::start(call, std::move(promise));
}

napi_value close_safetensors(Call& call) {
  unwrap<FileHandle>(call.env, call[0], "file").file.reset();
  return call.undefined();
}

napi_value write_safetensors(Call& call) {
  const napi_env env = call.env;
  struct Item {
    std::string name;
    int32_t dtype;
    std::vector<uint64_t> shape;
    const TensorHandle* tensor;
    const WeightHandle* weight;
  };
  auto promise = std::make_unique<WritePromise>();
  promise->path = read_path(env, call[0], "path");
  const uint32_t pairs = read_array(env, call[1], "metadata");
  for (uint32_t i = 0; i < pairs; ++i) {
    const std::string field = "metadata[" + std::to_string(i) + "]";
    const napi_value pair = element(env, call[1], i);
    if (read_array(env, pair, field) != 2)
      throw Failure("Argument", field + " must be a pair of strings");
    std::string key = read_string(env, element(env, pair, 0), field + "[0]");
    promise->metadata.emplace_back(std::move(key),
                                   read_string(env, element(env, pair, 1), field + "[1]"));
  }
  std::vector<Item> items;
  const uint32_t count = read_array(env, call[2], "entries");
  for (uint32_t i = 0; i < count; ++i) {
    const std::string field = "entries[" + std::to_string(i) + "]";
    const napi_value value = element(env, call[2], i);
    if (!is_object(env, value))
      throw Failure("Argument",
                    field + " is " + describe_value(env, value) + ", must be an object");
    check_keys(env, value, {"name", "dtype", "shape", "source"}, field);
    Item item{};
    item.name = read_string(env, property(env, value, "name"), field + ".name");
    item.dtype = read_dtype(env, property(env, value, "dtype"), field + ".dtype");
    item.shape = read_sizes(env, property(env, value, "shape"), field + ".shape");
    const napi_value source = property(env, value, "source");
    item.tensor = try_unwrap<TensorHandle>(env, source);
    if (!item.tensor) item.weight = try_unwrap<WeightHandle>(env, source);
    if (!item.tensor && !item.weight)
      throw Failure("Argument", field + ".source is " + describe_value(env, source) +
                                    ", must be a tensor or a weight");
    items.push_back(std::move(item));
  }

  std::unordered_set<std::string> keys, names = {"__metadata__"};
  for (const auto& pair : promise->metadata)
    if (!keys.insert(pair.first).second)
      throw Failure("Argument", "metadata has the key " + io::json_string(pair.first) + " twice");
  for (const Item& item : items) {
    const std::string quoted = io::json_string(item.name);
    if (!names.insert(item.name).second)
      throw Failure("Argument",
                    "entries have the name " + quoted +
                        (item.name == "__metadata__" ? ", which is reserved" : " twice"));
    uint64_t elements, bytes;
    if (!multiply_sizes(item.shape, 1, &elements) ||
        !multiply_sizes(item.shape, dtype_bytes(item.dtype), &bytes))
      throw Failure("Shape", "entry " + quoted + " would have more than 2^53 bytes");
    io::Source source{};
    source.name = item.name;
    source.dtype = item.dtype;
    source.shape = item.shape;
    uint64_t has;
    if (item.tensor) {
      item.tensor->check_alive(quoted.c_str());
      if (!is_contiguous(item.tensor->view))
        throw Failure("Shape", "entry " + quoted + ": " + describe_tensor(item.tensor->view) +
                                   " is not contiguous; only contiguous tensors can be written");
      io::check_conversion("entry " + quoted, item.tensor->view.dtype, item.dtype);
      has = element_count(item.tensor->view);
      source.tensor = item.tensor->view;
      source.device = item.tensor->storage->device().get();
      promise->storages.push_back(item.tensor->storage);
    } else {
      item.weight->check_alive(quoted.c_str());
      const Weight& weight = *item.weight->weight;
      io::check_conversion("entry " + quoted, PL_F32, item.dtype);
      source.weight = weight.native();
      source.rows = uint64_t(weight.options().rows);
      source.columns = uint64_t(weight.options().columns);
      has = source.rows * source.columns;
      source.device = weight.device().get();
      promise->weights.push_back(item.weight->weight);
    }
    if (has != elements)
      throw Failure("Shape", "entry " + quoted + " has a shape of " + std::to_string(elements) +
                                 " elements, but its source has " + std::to_string(has));
    promise->sources.push_back(std::move(source));
  }
  return FilePromise::start(call, std::move(promise));
}

napi_value exchange_paths(Call& call) {
  auto promise = std::make_unique<ExchangePromise>();
  promise->a = read_path(call.env, call[0], "a");
  promise->b = read_path(call.env, call[1], "b");
  return FilePromise::start(call, std::move(promise));
}

napi_value inject_file_fault(Call& call) {
  const napi_env env = call.env;
  io::Fault fault;
  if (!is_nullish(env, call[0])) {
    if (!is_object(env, call[0]))
      throw Failure("Argument", "fault is " + describe_value(env, call[0]) + ", must be an object");
    fault.call = read_string(env, property(env, call[0], "call"), "call");
    fault.nth = read_size(env, property(env, call[0], "nth"), "nth");
    fault.error = read_string(env, property(env, call[0], "error"), "error");
  }
  call.environment.files().inject(std::move(fault));
  return call.undefined();
}

napi_value lock_file(Call& call) {
  const std::string path = read_path(call.env, call[0], "path");
  io::File file = io::lock_file(path);
  if (!file.is_open()) {
    napi_value null;
    check(call.env, napi_get_null(call.env, &null));
    return null;
  }
  auto handle = std::make_unique<LockHandle>();
  std::list<io::File>& locks = call.environment.locks;
  locks.push_front(std::move(file));
  handle->lock = locks.begin();
  try {
    return wrap(call.env, std::move(handle));
  } catch (...) {
    locks.pop_front();
    throw;
  }
}

napi_value unlock_file(Call& call) {
  LockHandle& handle = unwrap<LockHandle>(call.env, call[0], "lock");
  if (handle.held) call.environment.locks.erase(handle.lock);
  handle.held = false;
  return call.undefined();
}

}  // namespace polylora::binding
