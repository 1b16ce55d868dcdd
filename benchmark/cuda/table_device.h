// A device by its table, for programs without Node: memory that lives as long as the device, and
// operations that are prepared once and then queued as often as one likes.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <initializer_list>
#include <string>
#include <vector>

#include "kernels.h"

namespace polylora::benchmark {

inline void must(const pl_status& status, const char* what) {
  if (status.code == PL_OK) return;
  std::fprintf(stderr, "%s: %s\n", what, status.message);
  std::exit(1);
}

// Columns first .. first + count - 1 of a matrix.
inline pl_tensor columns_of(pl_tensor matrix, int64_t first, int64_t count) {
  matrix.data = static_cast<float*>(matrix.data) + first * matrix.strides[1];
  matrix.shape[1] = count;
  return matrix;
}

// The same elements in another shape, row-major; rows may lie apart.
inline pl_tensor reshaped(const pl_tensor& matrix, std::initializer_list<int64_t> shape) {
  pl_tensor tensor = matrix;
  tensor.rank = int32_t(shape.size());
  int d = 0;
  for (const int64_t size : shape) tensor.shape[d++] = size;
  int64_t stride = 1;
  for (d = tensor.rank - 1; d > 0; stride *= tensor.shape[d--]) tensor.strides[d] = stride;
  tensor.strides[0] = matrix.strides[0];
  return tensor;
}

class Device {
 public:
  explicit Device(const pl_device_table& table) : table_(table) {
    pl_device_options options = {};
    options.size = sizeof options;
    must(table_.open(&options, &stream_), "opening the device");
  }
  ~Device() { table_.close(stream_); }
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  std::string name() const {
    pl_device_info info = {};
    info.size = sizeof info;
    table_.describe(stream_, &info);
    return info.name;
  }

  pl_tensor empty(std::initializer_list<int64_t> shape, pl_dtype dtype = PL_F32) {
    pl_tensor tensor = {};
    tensor.dtype = dtype;
    tensor.rank = int32_t(shape.size());
    int d = 0;
    for (const int64_t size : shape) tensor.shape[d++] = size;
    int64_t count = 1;
    for (d = tensor.rank - 1; d >= 0; --d) {
      tensor.strides[d] = count;
      count *= tensor.shape[d];
    }
    must(table_.allocate(stream_, uint64_t(count) * 4, &tensor.data), "allocating a tensor");
    return tensor;
  }
  pl_tensor filled(std::initializer_list<int64_t> shape, double value) {
    const pl_tensor tensor = empty(shape);
    pl_fill_args args = {};
    args.y = tensor;
    args.value = value;
    prepare(PL_OPERATION_fill, table_.fill, args)();
    return tensor;
  }
  // From -bound to bound; the same values on every device.
  pl_tensor uniform(std::initializer_list<int64_t> shape, float bound = 1) {
    const pl_tensor tensor = empty(shape);
    pl_random_args args = {};
    args.distribution = PL_UNIFORM;
    args.first = -bound;
    args.second = bound;
    args.seed = 1;
    args.subsequence = uint64_t(++made_);
    args.y = tensor;
    prepare(PL_OPERATION_random, table_.random, args)();
    return tensor;
  }
  pl_tensor integers(const std::vector<int32_t>& values) {
    const pl_tensor tensor = empty({int64_t(values.size())}, PL_I32);
    must(table_.copy_from_host(stream_, tensor.data, values.data(), values.size() * 4), "a copy");
    return tensor;
  }
  // A frozen matrix kept and multiplied in bf16.
  pl_weight* weight(int64_t rows, int64_t columns, float bound) {
    pl_weight_options options = {};
    options.size = sizeof options;
    options.rows = rows;
    options.columns = columns;
    options.storage = options.compute = PL_BF16;
    pl_weight* weight = nullptr;
    must(table_.weight_create(stream_, &options, &weight), "making a weight");
    pl_weight_update_args args = {};
    args.weight = weight;
    args.source = uniform({rows, columns}, bound);
    prepare(PL_OPERATION_weight_update, table_.weight_update, args)();
    table_.release(stream_, args.source.data);
    return weight;
  }

  // Lists in `args` must outlive what is returned; the workspace is taken now.
  template <class Args>
  std::function<void()> prepare(pl_operation operation, pl_status (*run)(pl_stream*, const Args*),
                                Args args) {
    args.header.size = sizeof args;
    args.header.workspace_bytes = table_.workspace(stream_, operation, &args);
    if (args.header.workspace_bytes > 0)
      must(table_.allocate(stream_, args.header.workspace_bytes, &args.header.workspace),
           "allocating a workspace");
    return [this, run, args] { must(run(stream_, &args), "queueing an operation"); };
  }

  // One product, its operands rounded as lib/ops does: where a weight says so, and in weight
  // gradients. The segments are kept here.
  std::function<void()> product(pl_layout layout, const std::vector<pl_segment>& segments,
                                const pl_tensor& y) {
    segments_.push_back(segments);
    pl_matmul_args args = {};
    args.layout = layout;
    args.segments = segments_.back().data();
    args.segment_count = uint32_t(segments.size());
    args.y = y;
    args.bf16_operands = layout == PL_TN;
    return prepare(PL_OPERATION_matmul, table_.matmul, args);
  }

  void finish() { must(table_.synchronize(stream_), "the device"); }
  // The first elements of a contiguous tensor of floats.
  std::vector<float> read(const pl_tensor& tensor, int64_t most = int64_t(1) << 20) {
    int64_t count = 1;
    for (int d = 0; d < tensor.rank; ++d) count *= tensor.shape[d];
    if (count > most) count = most;
    std::vector<float> values(static_cast<size_t>(count));
    must(table_.copy_to_host(stream_, values.data(), tensor.data, uint64_t(count) * 4), "a copy");
    finish();
    return values;
  }
  const pl_device_table& table() const { return table_; }

 private:
  const pl_device_table& table_;
  pl_stream* stream_ = nullptr;
  int made_ = 0;
  std::deque<std::vector<pl_segment>> segments_;
};

inline pl_segment segment(const pl_tensor& x, pl_weight* weight) {
  pl_segment segment = {};
  segment.x = x;
  segment.weight = weight;
  return segment;
}
inline pl_segment segment(const pl_tensor& x, const pl_tensor& w) {
  pl_segment segment = {};
  segment.x = x;
  segment.w = w;
  return segment;
}

}  // namespace polylora::benchmark
