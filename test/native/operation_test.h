// What the tests of operations share: strided tensors with poisoned margins, and a run that checks
// its arguments, gives the operation a poisoned workspace of exactly the size it asked for and
// looks after its borders.
#pragma once

#include <algorithm>
#include <functional>
#include <utility>

#include "native_test.h"

namespace polylora::test {

enum class Layout { contiguous, rows, strided };  // rows: the last stride is 1

// A tensor of 4-, 2- or 1-byte elements of rank 1 to 4 in a buffer of poison.
template <class T>
struct Array {
  std::vector<T> data;
  std::vector<int64_t> shape, strides;
  int64_t offset = 0;

  Array() = default;
  Array(Random& random, std::vector<int64_t> sizes, Layout layout = Layout::rows)
      : shape(std::move(sizes)) {
    const int rank = int(shape.size());
    std::vector<int> order;  // the innermost first
    for (int d = rank - 1; d >= 0; --d) order.push_back(d);
    if (layout == Layout::strided)
      for (int d = rank - 1; d > 0; --d)
        std::swap(order[size_t(d)], order[size_t(random.below(d + 1))]);
    strides.assign(size_t(rank), 1);
    int64_t reach = layout == Layout::strided ? 1 + random.below(3) : 1;
    for (int d : order) {
      strides[size_t(d)] = reach;
      reach *= std::max<int64_t>(shape[size_t(d)], 1);
      if (layout != Layout::contiguous) reach += random.below(3) * random.below(5);
    }
    offset = layout == Layout::contiguous ? 0 : random.below(9);
    int64_t last = 0;
    for (int d = 0; d < rank; ++d)
      last += std::max<int64_t>(shape[size_t(d)] - 1, 0) * strides[size_t(d)];
    data.assign(size_t(offset + last + 1 + 16), poison_of());
  }

  static T poison_of() {
    const uint32_t pattern = sizeof(T) == 4 ? kPoison : sizeof(T) == 2 ? 0xdead : 0xd5;
    T value;
    std::memcpy(&value, &pattern, sizeof value);
    return value;
  }
  int64_t count() const {
    int64_t n = 1;
    for (int64_t size : shape) n *= size;
    return n;
  }
  int64_t offset_of(int64_t index) const {  // in C order
    int64_t at = offset;
    for (size_t d = shape.size(); d-- > 0; index /= shape[d]) at += index % shape[d] * strides[d];
    return at;
  }
  T& operator[](int64_t index) { return data[size_t(offset_of(index))]; }
  const T& operator[](int64_t index) const { return data[size_t(offset_of(index))]; }
  T& at(int64_t i, int64_t j) { return data[size_t(offset + i * strides[0] + j * strides[1])]; }
  const T& at(int64_t i, int64_t j) const {
    return data[size_t(offset + i * strides[0] + j * strides[1])];
  }
  T& at(int64_t i, int64_t j, int64_t k) {
    return data[size_t(offset + i * strides[0] + j * strides[1] + k * strides[2])];
  }
  const T& at(int64_t i, int64_t j, int64_t k) const {
    return data[size_t(offset + i * strides[0] + j * strides[1] + k * strides[2])];
  }

  Array& fill(const std::function<T()>& value) {
    const int64_t n = count();
    for (int64_t i = 0; i < n; ++i) (*this)[i] = value();
    return *this;
  }
  Array& uniform(Random& random, double scale = 1) {
    return fill([&] { return T(scale * random.real()); });
  }
  Array& poisoned() {
    std::fill(data.begin(), data.end(), poison_of());
    return *this;
  }

  static constexpr int32_t dtype() {
    return std::is_same<T, float>::value     ? PL_F32
           : std::is_same<T, int32_t>::value ? PL_I32
           : sizeof(T) == 2                  ? PL_BF16
                                             : PL_U8;
  }
  pl_tensor tensor(int32_t type = dtype()) {
    pl_tensor t = {};
    t.data = data.data() + offset;
    t.dtype = type;
    t.rank = int32_t(shape.size());
    for (size_t d = 0; d < shape.size(); ++d) {
      t.shape[d] = shape[d];
      t.strides[d] = strides[d];
    }
    return t;
  }
  // Nothing outside the view was written, and inside no poison is left.
  bool written() const {
    std::vector<char> inside(data.size(), 0);
    const int64_t n = count();
    for (int64_t i = 0; i < n; ++i) inside[size_t(offset_of(i))] = 1;
    const T bad = poison_of();
    for (size_t i = 0; i < data.size(); ++i) {
      const bool is_bad = std::memcmp(&data[i], &bad, sizeof bad) == 0;
      if (inside[i] ? sizeof(T) == 4 && is_bad : !is_bad) return false;
    }
    return true;
  }
  bool same(const Array& other) const {
    const int64_t n = count();
    for (int64_t i = 0; i < n; ++i)
      if (std::memcmp(&(*this)[i], &other[i], sizeof(T)) != 0) return false;
    return true;
  }
};

using Floats = Array<float>;
using Ints = Array<int32_t>;

inline Ints ints(const std::vector<int32_t>& values) {
  Random random{1};
  Ints array(random, {int64_t(values.size())}, Layout::contiguous);
  for (size_t i = 0; i < values.size(); ++i) array.data[i] = values[i];
  return array;
}

inline Floats scalar(float value) {
  Random random{1};
  Floats array(random, {1}, Layout::contiguous);
  array.data[0] = value;
  return array;
}

// Scratch between two borders.
struct Workspace {
  static constexpr size_t kBorder = 64;
  std::vector<uint64_t> memory;
  unsigned char* begin;
  size_t size;
  explicit Workspace(size_t bytes) : memory((bytes + 3 * kBorder) / 8 + 1), size(bytes) {
    auto* const bytes_of = reinterpret_cast<unsigned char*>(memory.data());
    std::memset(bytes_of, 0xa5, memory.size() * 8);
    begin = reinterpret_cast<unsigned char*>(
        (reinterpret_cast<uintptr_t>(bytes_of) + 2 * kBorder - 1) & ~uintptr_t(kBorder - 1));
    for (size_t i = 0; i + 4 <= size; i += 4) std::memcpy(begin + i, &kPoison, 4);
  }
  bool intact() const {
    for (size_t i = 0; i < kBorder; ++i)
      if (begin[size + i] != 0xa5 ||
          (begin - 1 - i >= reinterpret_cast<const unsigned char*>(memory.data()) &&
           begin[-1 - int64_t(i)] != 0xa5))
        return false;
    return true;
  }
};

template <class Args>
void run_operation(const char* name, pl_operation operation, pl_status (*check)(const Args*),
                   void (*run)(cpu::Pool&, const Args&), cpu::Pool& pool, Args args) {
  if (!expect(accepted(check(&args)), std::string(name) + " accepts its arguments")) return;
  Workspace workspace(cpu::workspace_of(operation, &args, pool.threads()));
  args.header.workspace = workspace.begin;
  args.header.workspace_bytes = workspace.size;
  run(pool, args);
  if (!workspace.intact()) expect(false, std::string(name) + " stays within its workspace");
}

#define RUN(name, pool, args)                                                  \
  ::polylora::test::run_operation(#name, PL_OPERATION_##name, pl_check_##name, \
                                  ::polylora::cpu::run_##name, pool, args)

// The message of the KernelError that the run must end in.
#define EXPECT_KERNEL_ERROR(name, pool, args, part)                  \
  do {                                                               \
    const std::string wanted = part;                                 \
    std::string message = "no error";                                \
    try {                                                            \
      RUN(name, pool, args);                                         \
    } catch (const ::polylora::cpu::KernelError& error) {            \
      message = error.what();                                        \
    }                                                                \
    expect(message.find(wanted) != std::string::npos,                \
           std::string(#name ": '") + message + "' says " + wanted); \
  } while (false)

// What the check says of arguments that it must refuse.
#define EXPECT_REFUSED(name, args, refusal, part)                                        \
  do {                                                                                   \
    const pl_status status = pl_check_##name(&args);                                     \
    expect(status.code == refusal && std::strstr(status.message, part),                  \
           std::string(#name " is refused: ") + part + ", received: " + status.message); \
  } while (false)

// Largest distance from the reference over the reference's largest magnitude, or least_size if that
// is more.
inline double distance(const Floats& y, const std::vector<double>& reference, double least_size) {
  double most = 0, size = std::max(least_size, 1e-30);
  for (int64_t i = 0; i < y.count(); ++i) {
    const double error = std::fabs(double(y[i]) - reference[size_t(i)]);
    if (!(error <= most)) most = error;  // NaN too
    size = std::max(size, std::fabs(reference[size_t(i)]));
  }
  return most / size;
}

inline bool close(const Floats& y, const std::vector<double>& reference, double tolerance,
                  const std::string& what, double least_size = 0) {
  const double d = distance(y, reference, least_size);
  return expect(d <= tolerance, what + ": " + std::to_string(d / tolerance) + " of the tolerance");
}

constexpr int kThreadCounts[] = {1, 2, 4};

// Runs body(pool, name) for every instruction set and number of threads.
template <class Body>
void on_every_pool(Body&& body) {
  for (const cpu::InstructionSet set : instruction_sets())
    for (const int threads : kThreadCounts) {
      cpu::Pool pool(threads, set);
      body(pool,
           std::string(cpu::instruction_set_name(set)) + ", threads " + std::to_string(threads));
    }
}

}  // namespace polylora::test
