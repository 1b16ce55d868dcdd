#include "binding/run.h"

#include <algorithm>
#include <cstring>
#include <unordered_map>

#include "binding/recording.h"
#include "binding/schema.h"
#include "binding/tensor.h"
#include "binding/values.h"
#include "binding/weight.h"

namespace polylora::binding {

namespace {

constexpr size_t kMostBytes = std::max({
#define PL_ENTRY(name) sizeof(pl_##name##_args),
    PL_OPERATIONS(PL_ENTRY)
#undef PL_ENTRY
});
constexpr uint32_t kMostElements = 1 << 16;

// Where a field lies, for messages: dropout, or element `index` of segments.
struct Parent {
  const Field* field = nullptr;
  int64_t index = -1;
};

// The struct of one call. Reading runs JavaScript, which may dispose of anything; so it first notes
// which handle goes where, and looks into the handles when all is read.
class Reader {
 public:
  Reader(Call& call, const OperationSchema& operation)
      : env_(call.env),
        operation_(operation),
        schemas_(call.environment.schemas()),
        keys_(call.environment.keys(call.env)) {
    std::memset(args_, 0, operation.size);
    header().size = uint32_t(operation.size);
    places_.reserve(24);
  }

  void read(napi_value object) {
    if (!is_object(env_, object))
      throw Failure("Argument", operation_.name + ": args is " + describe_value(env_, object) +
                                    ", must be an object");
    read_fields(object, operation_.fields, args_, Parent());
  }

  // No JavaScript runs from here on. Throws if a handle is disposed or belongs to another device.
  void resolve(const Device& device) {
    for (const Place& place : places_) {
      if (place.tensor) {
        const TensorHandle& tensor = *place.tensor;
        if (!tensor.storage || tensor.storage->device().get() != &device) refuse_handle(place);
        std::memcpy(place.out, &tensor.view, sizeof tensor.view);
      } else {
        const WeightHandle& weight = *place.weight;
        if (!weight.weight || weight.weight->device().get() != &device) refuse_handle(place);
        pl_weight* native = weight.weight->native();
        std::memcpy(place.out, &native, sizeof native);
      }
    }
  }

  // Of what is resolved, all that is not the recording's own.
  void keep(uint64_t recording, Kept* kept) const {
    for (const Place& place : places_) {
      if (place.weight)
        kept->insert(place.weight->weight);
      else if (place.tensor->storage->recording() != recording)
        kept->insert(place.tensor->storage);
    }
  }

  const void* args() const { return args_; }
  pl_header& header() { return *reinterpret_cast<pl_header*>(args_); }

 private:
  struct Place {
    const Field* field;
    Parent parent;
    const TensorHandle* tensor;  // or
    const WeightHandle* weight;
    void* out;  // a pl_tensor or a pl_weight*
  };

  std::string name_of(const Field& field, const Parent& parent) const {
    std::string name = operation_.name + ": ";
    if (parent.field) name += parent.field->name;
    if (parent.index >= 0) name += "[" + std::to_string(parent.index) + "]";
    return &field == parent.field ? name : name + (parent.field ? "." : "") + field.name;
  }

  [[noreturn]] void refuse_handle(const Place& place) const {
    const std::string name = name_of(*place.field, place.parent);
    if (place.tensor)
      place.tensor->check_alive(name.c_str());
    else
      place.weight->check_alive(name.c_str());
    throw Failure("Argument", name + " belongs to another device");
  }

  template <class Handle>
  const Handle* handle_of(napi_value value, const Field& field, const Parent& parent) {
    if (const Handle* handle = try_unwrap<Handle>(env_, value)) return handle;
    throw Failure("Argument", name_of(field, parent) + " is " + describe_value(env_, value) +
                                  ", must be a " + Handle::kName);
  }

  void read_fields(napi_value object, const std::vector<Field>& fields, unsigned char* out,
                   const Parent& parent) {
    uint32_t found = 0;
    for (const Field& field : fields) {
      napi_value value;
      check(env_, napi_get_property(env_, object, element(env_, keys_, field.key), &value));
      napi_valuetype type;
      check(env_, napi_typeof(env_, value, &type));
      if (type != napi_undefined) ++found;
      if (type == napi_undefined || type == napi_null)
        leave_out(field, parent);
      else
        read_field(value, field, out, parent);
    }
    const napi_value names = own_keys(env_, object);
    uint32_t count = UINT32_MAX;
    if (names) check(env_, napi_get_array_length(env_, names, &count));
    // More names than fields found: some are unknown, or there with the value undefined.
    if (count > found) check_unknown(object, fields, parent);
  }

  void check_unknown(napi_value object, const std::vector<Field>& fields, const Parent& parent) {
    std::vector<std::string> allowed;
    for (const Field& field : fields) allowed.push_back(field.name);
    check_keys(env_, object, allowed,
               parent.field ? name_of(*parent.field, parent) : operation_.name);
  }

  void leave_out(const Field& field, const Parent& parent) {
    switch (field.kind) {
      case FieldKind::optional_tensor:
      case FieldKind::optional_weight:
      case FieldKind::flag:
      case FieldKind::dropout:
        return;
      default:
        throw Failure("Argument", name_of(field, parent) + " is missing");
    }
  }

  template <class T>
  static void store(unsigned char* out, const Field& field, T value) {
    std::memcpy(out + field.offset, &value, sizeof value);
  }

  void read_field(napi_value value, const Field& field, unsigned char* out, const Parent& parent) {
    switch (field.kind) {
      case FieldKind::tensor:
      case FieldKind::optional_tensor:
        places_.push_back({&field, parent, handle_of<TensorHandle>(value, field, parent), nullptr,
                           out + field.offset});
        return;
      case FieldKind::weight:
      case FieldKind::optional_weight:
        places_.push_back({&field, parent, nullptr, handle_of<WeightHandle>(value, field, parent),
                           out + field.offset});
        return;
      case FieldKind::dropout:
        if (!is_object(env_, value)) refuse(value, field, parent, "an object");
        return read_fields(value, schemas_.dropout, out + field.offset, Parent{&field, -1});
      case FieldKind::segments:
        return read_list(value, field, out, &segments_, &schemas_.segment);
      case FieldKind::parameters:
        return read_list(value, field, out, &parameters_, &schemas_.parameter);
      case FieldKind::tensors:
        return read_list(value, field, out, &tensors_, nullptr);
      default:
        return read_scalar(value, field, out, parent);
    }
  }

  void read_scalar(napi_value value, const Field& field, unsigned char* out, const Parent& parent) {
    double number = 0;
    // The common case first; the slow readers exist for their messages.
    const bool is_number = napi_get_value_double(env_, value, &number) == napi_ok;
    switch (field.kind) {
      case FieldKind::float32:
      case FieldKind::float64:
        if (!is_number) refuse(value, field, parent, "a number");
        return field.kind == FieldKind::float32 ? store(out, field, float(number))
                                                : store(out, field, number);
      case FieldKind::uint32:
        return store(out, field,
                     uint32_t(read_integer(env_, value, name_of(field, parent), 0, UINT32_MAX)));
      case FieldKind::int64:
        return store(out, field, int64_t(read_size(env_, value, name_of(field, parent))));
      case FieldKind::uint64:
        return store(out, field, read_uint64(env_, value, name_of(field, parent)));
      case FieldKind::flag:
        return store(out, field, int32_t(read_flag(env_, value, name_of(field, parent))));
      case FieldKind::layout:
        return read_choice(value, field, out, parent, {"nt", "nn", "tn"});
      default:
        return read_choice(value, field, out, parent, {"uniform", "normal"});
    }
  }

  // The place of a string in a list is the enumeration's value.
  void read_choice(napi_value value, const Field& field, unsigned char* out, const Parent& parent,
                   std::initializer_list<const char*> choices) {
    char text[16] = "";
    size_t length = 0;
    int32_t index = 0;
    std::string list;
    if (napi_get_value_string_utf8(env_, value, text, sizeof text, &length) == napi_ok)
      for (const char* choice : choices) {
        if (std::strcmp(choice, text) == 0) return store(out, field, index);
        ++index;
      }
    for (const char* choice : choices) list += (list.empty() ? "" : " or ") + std::string(choice);
    refuse(value, field, parent, list);
  }

  [[noreturn]] void refuse(napi_value value, const Field& field, const Parent& parent,
                           const std::string& allowed) {
    throw Failure("Argument", name_of(field, parent) + " is " + describe_value(env_, value) +
                                  ", must be " + allowed);
  }

  // Without `fields` the elements are tensors.
  template <class Element>
  void read_list(napi_value value, const Field& field, unsigned char* out,
                 std::vector<Element>* list, const std::vector<Field>* fields) {
    const std::string name = name_of(field, Parent());
    const uint32_t count = read_array(env_, value, name);
    if (count > kMostElements)
      throw Failure("Argument", name + " has " + std::to_string(count) + " elements; at most " +
                                    std::to_string(kMostElements) + " are allowed");
    // Its size is settled now, so that places may point into it.
    list->assign(count, Element{});
    for (uint32_t i = 0; i < count; ++i) {
      const Parent parent{&field, i};
      const napi_value item = element(env_, value, i);
      unsigned char* place = reinterpret_cast<unsigned char*>(&(*list)[i]);
      if (!fields) {
        places_.push_back(
            {&field, parent, handle_of<TensorHandle>(item, field, parent), nullptr, place});
        continue;
      }
      if (!is_object(env_, item)) refuse(item, field, parent, "an object");
      read_fields(item, *fields, place, parent);
    }
    const Element* first = list->data();
    std::memcpy(out + field.offset, &first, sizeof first);
    std::memcpy(out + field.count_offset, &count, sizeof count);
  }

  const napi_env env_;
  const OperationSchema& operation_;
  const Schemas& schemas_;
  const napi_value keys_;
  alignas(16) unsigned char args_[kMostBytes];
  std::vector<Place> places_;
  std::vector<pl_segment> segments_;
  std::vector<pl_adamw_parameter> parameters_;
  std::vector<pl_tensor> tensors_;
};

const OperationSchema& find_operation(Call& call, napi_value value) {
  char name[48] = "";
  size_t length = 0;
  if (napi_get_value_string_utf8(call.env, value, name, sizeof name, &length) == napi_ok)
    for (const OperationSchema& operation : call.environment.schemas().operations)
      if (operation.name.size() == length && std::memcmp(operation.name.data(), name, length) == 0)
        return operation;
  throw Failure("Argument", "there is no operation " + describe_value(call.env, value));
}

// Scratch of one operation: given back as soon as the operation is queued, since that is in stream
// order.
class Workspace {
 public:
  Workspace(const pl_device_table& table, pl_stream* stream, pl_operation operation,
            const void* args, pl_header* header)
      : table_(table), stream_(stream) {
    header->workspace_bytes = table.workspace(stream, operation, args);
    if (header->workspace_bytes == 0) return;
    throw_unless_ok(table.allocate(stream, header->workspace_bytes, &data_));
    header->workspace = data_;
  }
  ~Workspace() {
    if (data_) table_.release(stream_, data_);
  }
  Workspace(const Workspace&) = delete;

 private:
  const pl_device_table& table_;
  pl_stream* stream_;
  void* data_ = nullptr;
};

}  // namespace

napi_value run(Call& call) {
  const Device& device = *unwrap<DeviceHandle>(call.env, call[0], "device").device;
  const OperationSchema& operation = find_operation(call, call[1]);
  Reader reader(call, operation);
  reader.read(call[2]);
  pl_stream* stream = device.stream();
  reader.resolve(device);
  throw_unless_ok(operation.check(reader.args()));
  if (device.open_recording) reader.keep(device.recording_number, device.open_recording.get());
  const Workspace workspace(device.table(), stream, operation.operation, reader.args(),
                            &reader.header());
  throw_unless_ok(operation.enqueue(device.table(), stream, reader.args()));
  return nullptr;
}

}  // namespace polylora::binding
