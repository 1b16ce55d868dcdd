#include "io/transfer.h"

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <memory>
#include <mutex>

#include "runtime/failure.h"

namespace polylora::io {

namespace {

// Small enough to stay in the cache on its way, large enough that calls do not count.
constexpr uint64_t kPiece = uint64_t(4) << 20;

struct Name {
  int32_t dtype;
  const char* name;
  uint64_t bytes;
};
constexpr Name kNames[] = {{PL_F32, "F32", 4},
                           {PL_BF16, "BF16", 2},
                           {PL_F16, "F16", 2},
                           {PL_I32, "I32", 4},
                           {PL_U8, "U8", 1}};

bool is_float(int32_t dtype) { return dtype == PL_F32 || dtype == PL_BF16 || dtype == PL_F16; }

pl_tensor contiguous(void* data, int32_t dtype, std::initializer_list<uint64_t> shape) {
  pl_tensor tensor{};
  tensor.data = data;
  tensor.dtype = dtype;
  tensor.rank = int32_t(shape.size());
  int64_t stride = 1;
  int axis = tensor.rank;
  for (auto size = shape.end(); size != shape.begin();) {
    --size;
    tensor.shape[--axis] = int64_t(*size);
    tensor.strides[axis] = stride;
    stride *= int64_t(std::max<uint64_t>(*size, 1));
  }
  return tensor;
}

// Counts the pieces that the stream has finished. Every callback that was queued comes, so that
// waiting for all of them ends; the destructor does, because they point here.
class Progress {
 public:
  explicit Progress(DeviceAccess& device) : device_(device) {}
  ~Progress() { wait(issued_); }

  // Within a use of the device.
  void mark(const pl_device_table& table, pl_stream* stream) {
    throw_unless_ok(table.callback(stream, finished, this));
    ++issued_;
  }
  // Until at most `ahead` marks are outstanding; throws the stream's first failure.
  void keep_to(uint64_t ahead) {
    wait(issued_ > ahead ? issued_ - ahead : 0);
    std::lock_guard<std::mutex> lock(mutex_);
    throw_unless_ok(status_);
  }

 private:
  static void finished(void* user, const pl_status* status) {
    Progress& self = *static_cast<Progress*>(user);
    std::lock_guard<std::mutex> lock(self.mutex_);
    if (self.status_.code == PL_OK) self.status_ = *status;
    ++self.done_;
    self.wake_.notify_all();
  }
  void wait(uint64_t count) {
    std::unique_lock<std::mutex> lock(mutex_);
    wake_.wait(lock, [&] { return done_ >= count; });
  }

  DeviceAccess& device_;
  uint64_t issued_ = 0;  // this thread's
  std::mutex mutex_;
  std::condition_variable wake_;
  uint64_t done_ = 0;
  pl_status status_{};
};

// Memory on the device for one piece: taken and given back within one use, in stream order.
class Staging {
 public:
  Staging(const pl_device_table& table, pl_stream* stream, uint64_t bytes)
      : table_(table), stream_(stream) {
    throw_unless_ok(table.allocate(stream, bytes, &data_));
  }
  ~Staging() { table_.release(stream_, data_); }
  Staging(const Staging&) = delete;
  void* data() const { return data_; }

 private:
  const pl_device_table& table_;
  pl_stream* stream_;
  void* data_ = nullptr;
};

void* at(const pl_tensor& tensor, uint64_t element) {
  return static_cast<unsigned char*>(tensor.data) + element * bytes_of_dtype(tensor.dtype);
}

void copy(const pl_device_table& table, pl_stream* stream, const pl_tensor& x, const pl_tensor& y) {
  pl_copy_args args{};
  args.header.size = sizeof args;
  args.x = x;
  args.y = y;
  throw_unless_ok(pl_check_copy(&args));
  throw_unless_ok(table.copy(stream, &args));
}

}  // namespace

int32_t dtype_of_name(const std::string& dtype) {
  for (const Name& known : kNames)
    if (dtype == known.name) return known.dtype;
  return PL_NONE;
}

const char* name_of_dtype(int32_t dtype) {
  for (const Name& known : kNames)
    if (dtype == known.dtype) return known.name;
  return "?";
}

uint64_t bytes_of_dtype(int32_t dtype) {
  for (const Name& known : kNames)
    if (dtype == known.dtype) return known.bytes;
  return 0;
}

void check_conversion(const std::string& what, int32_t from, int32_t to) {
  if (from == to || (is_float(from) && is_float(to))) return;
  throw Failure("DType", what + ": " + name_of_dtype(from) + " cannot be converted to " +
                             name_of_dtype(to) + "; F32, BF16 and F16 can, among each other");
}

OpenSafetensors open_safetensors(FileSystem& files, const std::string& path) {
  OpenSafetensors out;
  out.path = path;
  uint64_t size = 0;
  out.file = files.open_to_read(path, &size);
  if (size < 8)
    throw Failure("Format", path + " is not a valid safetensors file: it has " +
                                std::to_string(size) +
                                " bytes, fewer than the 8 of the header's size")
        .with("file", path);
  unsigned char first[8];
  files.read(out.file, path, first, sizeof first, 0);
  std::string text(size_t(parse_header_size(path, first, size)), '\0');
  files.read(out.file, path, text.data(), text.size(), 8);
  out.header = parse_header(path, text, size);
  return out;
}

void read_into_tensor(FileSystem& files, const OpenSafetensors& source,
                      const SafetensorsEntry& entry, DeviceAccess& device,
                      const pl_tensor& target) {
  const int32_t dtype = dtype_of_name(entry.dtype);
  const uint64_t size = bytes_of_dtype(dtype), total = (entry.end - entry.begin) / size;
  const uint64_t piece = std::min(total, kPiece / size);
  std::vector<unsigned char> host(size_t(piece * size));
  Progress progress(device);
  for (uint64_t begin = 0; begin < total; begin += piece) {
    const uint64_t count = std::min(piece, total - begin);
    files.read(source.file, source.path, host.data(), size_t(count * size),
               entry.begin + begin * size);
    device.use([&](const pl_device_table& table, pl_stream* stream) {
      if (dtype == target.dtype) {
        throw_unless_ok(table.copy_from_host(stream, at(target, begin), host.data(), count * size));
      } else {
        Staging staging(table, stream, count * size);
        throw_unless_ok(table.copy_from_host(stream, staging.data(), host.data(), count * size));
        copy(table, stream, contiguous(staging.data(), dtype, {count}),
             contiguous(at(target, begin), target.dtype, {count}));
      }
      progress.mark(table, stream);
    });
    progress.keep_to(1);
  }
  progress.keep_to(0);
}

void read_into_weight(FileSystem& files, const OpenSafetensors& source,
                      const SafetensorsEntry& entry, DeviceAccess& device, pl_weight* weight,
                      uint64_t rows, uint64_t columns, uint64_t row_begin) {
  const int32_t dtype = dtype_of_name(entry.dtype);
  const uint64_t row_bytes = columns * bytes_of_dtype(dtype);
  const uint64_t piece = std::min(rows, std::max<uint64_t>(kPiece / row_bytes, 1));
  std::vector<unsigned char> host(size_t(piece * row_bytes));
  Progress progress(device);
  for (uint64_t begin = 0; begin < rows; begin += piece) {
    const uint64_t count = std::min(piece, rows - begin);
    files.read(source.file, source.path, host.data(), size_t(count * row_bytes),
               entry.begin + begin * row_bytes);
    device.use([&](const pl_device_table& table, pl_stream* stream) {
      Staging staging(table, stream, count * row_bytes);
      throw_unless_ok(table.copy_from_host(stream, staging.data(), host.data(), count * row_bytes));
      pl_weight_update_args args{};
      args.header.size = sizeof args;
      args.weight = weight;
      args.source = contiguous(staging.data(), dtype, {count, columns});
      args.row_begin = int64_t(row_begin + begin);
      throw_unless_ok(pl_check_weight_update(&args));
      throw_unless_ok(table.weight_update(stream, &args));
      progress.mark(table, stream);
    });
    progress.keep_to(1);
  }
  progress.keep_to(0);
}

namespace {

uint64_t elements_of(const Source& source) {
  uint64_t count = 1;
  for (const uint64_t size : source.shape) count *= size;
  return count;
}

std::string header_text(const std::vector<std::pair<std::string, std::string>>& metadata,
                        const std::vector<Source>& sources, uint64_t* buffer_bytes) {
  std::string text = "{";
  if (!metadata.empty()) {
    text += "\"__metadata__\":{";
    for (size_t i = 0; i < metadata.size(); ++i)
      text +=
          (i ? "," : "") + json_string(metadata[i].first) + ":" + json_string(metadata[i].second);
    text += "}";
  }
  uint64_t offset = 0;
  for (const Source& source : sources) {
    const uint64_t end = offset + elements_of(source) * bytes_of_dtype(source.dtype);
    if (text.size() > 1) text += ",";
    text += json_string(source.name) + ":{\"dtype\":\"" + name_of_dtype(source.dtype) +
            "\",\"shape\":[";
    for (size_t i = 0; i < source.shape.size(); ++i)
      text += (i ? "," : "") + std::to_string(source.shape[i]);
    text += "],\"data_offsets\":[" + std::to_string(offset) + "," + std::to_string(end) + "]}";
    offset = end;
  }
  text += "}";
  text.append((8 - text.size() % 8) % 8, ' ');
  *buffer_bytes = offset;
  return text;
}

// Rows [begin, begin + count) of a source, where a tensor counts as rows of one element.
void stage_rows(const pl_device_table& table, pl_stream* stream, const Source& source,
                uint64_t begin, uint64_t count, void* host) {
  const uint64_t columns = source.weight ? source.columns : 1,
                 bytes = count * columns * bytes_of_dtype(source.dtype);
  if (!source.weight && source.tensor.dtype == source.dtype) {
    throw_unless_ok(table.copy_to_host(stream, host, at(source.tensor, begin), bytes));
    return;
  }
  Staging staging(table, stream, bytes);
  const pl_tensor y = contiguous(staging.data(), source.dtype, {count, columns});
  if (!source.weight) {
    copy(table, stream, contiguous(at(source.tensor, begin), source.tensor.dtype, {count, 1}), y);
  } else {
    pl_weight_read_args args{};
    args.header.size = sizeof args;
    args.weight = source.weight;
    args.row_begin = int64_t(begin);
    args.y = y;
    if (source.dtype == PL_F16) {
      // Weights are read as f32 or bf16.
      Staging wide(table, stream, count * columns * 4);
      args.y = contiguous(wide.data(), PL_F32, {count, columns});
      throw_unless_ok(pl_check_weight_read(&args));
      throw_unless_ok(table.weight_read(stream, &args));
      copy(table, stream, args.y, y);
    } else {
      throw_unless_ok(pl_check_weight_read(&args));
      throw_unless_ok(table.weight_read(stream, &args));
    }
  }
  throw_unless_ok(table.copy_to_host(stream, host, staging.data(), bytes));
}

void write_source(FileSystem& files, const File& file, const std::string& path,
                  const Source& source) {
  const uint64_t rows = source.weight ? source.rows : elements_of(source);
  const uint64_t row_bytes = (source.weight ? source.columns : 1) * bytes_of_dtype(source.dtype);
  const uint64_t piece = std::min(rows, std::max<uint64_t>(kPiece / row_bytes, 1));
  auto host = std::make_unique<std::vector<unsigned char>>(size_t(piece * row_bytes));
  for (uint64_t begin = 0; begin < rows; begin += piece) {
    const uint64_t count = std::min(piece, rows - begin);
    Progress progress(*source.device);
    source.device->use([&](const pl_device_table& table, pl_stream* stream) {
      stage_rows(table, stream, source, begin, count, host->data());
      try {
        progress.mark(table, stream);
      } catch (...) {
        // A copy to `host` is queued, and nobody will say when it has run.
        static_cast<void>(host.release());
        throw;
      }
    });
    progress.keep_to(0);
    files.write(file, path, host->data(), size_t(count * row_bytes));
  }
}

}  // namespace

uint64_t write_safetensors(FileSystem& files, const std::string& path,
                           const std::vector<std::pair<std::string, std::string>>& metadata,
                           std::vector<Source> sources) {
  std::stable_sort(sources.begin(), sources.end(), [](const Source& a, const Source& b) {
    const uint64_t x = bytes_of_dtype(a.dtype), y = bytes_of_dtype(b.dtype);
    return x != y ? x > y : a.name < b.name;
  });
  uint64_t buffer_bytes = 0;
  const std::string text = header_text(metadata, sources, &buffer_bytes);
  const uint64_t total = 8 + text.size() + buffer_bytes;
  if (text.size() > kMostHeaderBytes)
    throw Failure("Argument", path + ": the header would have " + std::to_string(text.size()) +
                                  " bytes; at most " + std::to_string(kMostHeaderBytes) +
                                  " are allowed");
  const std::string temporary = path + ".tmp";
  bool created = false;
  try {
    File file = files.open_to_write(temporary);
    created = true;
    unsigned char size[8];
    for (int i = 0; i < 8; ++i)
      size[i] = static_cast<unsigned char>(uint64_t(text.size()) >> (8 * i));
    files.write(file, temporary, size, sizeof size);
    files.write(file, temporary, text.data(), text.size());
    for (const Source& source : sources) write_source(files, file, temporary, source);
    files.sync(file, temporary);
    file.close();
    files.rename(temporary, path);
    created = false;
    files.sync_folder_of(path);
    return total;
  } catch (Failure& failure) {
    if (created) files.remove(temporary);
    if (std::strcmp(failure.code, "Io") == 0) {
      failure.message += " (" + std::to_string(total) + " bytes are needed for " + path + ")";
      failure.with("bytesNeeded", double(total));
    }
    throw;
  } catch (...) {
    if (created) files.remove(temporary);
    throw;
  }
}

}  // namespace polylora::io
