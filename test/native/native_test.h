// What the native tests share: counting, random matrices with poisoned margins, weights.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "cpu/instruction_set.h"
#include "cpu/operations.h"
#include "cpu/pool.h"
#include "kernels.h"

namespace polylora::test {

inline int passed = 0, failed = 0;

inline bool expect(bool condition, const std::string& what) {
  (condition ? passed : failed) += 1;
  if (!condition && failed <= 40) std::printf("failed: %s\n", what.c_str());
  return condition;
}

inline int report() {
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed ? 1 : 0;
}

// SplitMix64 (Steele, Lea and Flood 2014).
struct Random {
  uint64_t state;
  uint64_t next() {
    uint64_t z = state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }
  double unit() { return double(next() >> 11) * 0x1p-53; }
  float real() { return float(unit() * 2 - 1); }
  int64_t below(int64_t limit) { return int64_t(next() % uint64_t(limit)); }
  template <class T, size_t n>
  T pick(const T (&values)[n]) {
    return values[below(int64_t(n))];
  }
};

// The seed of a run: the first argument, or a fixed one.
inline uint64_t seed_of(int count, char** arguments) {
  const uint64_t seed = count > 1 ? std::strtoull(arguments[1], nullptr, 10) : 20240611;
  std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
  return seed;
}

constexpr uint32_t kPoison = 0x7fc0dead;  // a NaN with a message

inline float poison() {
  float value;
  std::memcpy(&value, &kPoison, 4);
  return value;
}

inline bool is_poison(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits == kPoison;
}

inline bool same_bits(float a, float b) { return std::memcmp(&a, &b, 4) == 0; }

// Float rows with a stride beyond their length; everything else is poison.
struct Matrix {
  int64_t rows = 0, columns = 0, stride = 0, offset = 0;
  std::vector<float> data;

  Matrix() = default;
  Matrix(Random& random, int64_t r, int64_t c, bool filled) : rows(r), columns(c) {
    stride = c + random.below(3) * random.below(9);
    if (stride == 0) stride = 1;
    offset = random.below(17);
    data.assign(size_t(offset + r * stride + 17), poison());
    if (filled)
      for (int64_t i = 0; i < r; ++i)
        for (int64_t j = 0; j < c; ++j) at(i, j) = random.real();
  }
  float& at(int64_t i, int64_t j) { return data[size_t(offset + i * stride + j)]; }
  float at(int64_t i, int64_t j) const { return data[size_t(offset + i * stride + j)]; }
  pl_tensor tensor() { return rows_from(0, rows); }
  pl_tensor rows_from(int64_t first, int64_t count) {
    pl_tensor t = {};
    t.data = data.data() + offset + first * stride;
    t.dtype = PL_F32;
    t.rank = 2;
    t.shape[0] = count;
    t.shape[1] = columns;
    t.strides[0] = stride;
    t.strides[1] = 1;
    return t;
  }
  pl_tensor vector() {  // the first row
    pl_tensor t = {};
    t.data = data.data() + offset;
    t.dtype = PL_F32;
    t.rank = 1;
    t.shape[0] = columns;
    t.strides[0] = 1;
    return t;
  }
  // Everything inside was written, nothing outside.
  bool written() const {
    for (int64_t i = 0; i < int64_t(data.size()); ++i) {
      const int64_t at = i - offset;
      const bool inside = at >= 0 && at / stride < rows && at % stride < columns;
      if (is_poison(data[size_t(i)]) == inside) return false;
    }
    return true;
  }
  bool same(const Matrix& other) const {
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < columns; ++j)
        if (!same_bits(at(i, j), other.at(i, j))) return false;
    return true;
  }
};

struct IntVector {
  std::vector<int32_t> data;
  pl_tensor tensor() {
    pl_tensor t = {};
    t.data = data.data();
    t.dtype = PL_I32;
    t.rank = 1;
    t.shape[0] = int64_t(data.size());
    t.strides[0] = 1;
    return t;
  }
};

struct Weight {
  std::unique_ptr<float[]> memory;
  float* aligned = nullptr;
  pl_weight* handle = nullptr;

  Weight(int64_t rows, int64_t columns, pl_dtype storage, pl_dtype compute) {
    pl_weight_options options = {};
    options.size = sizeof options;
    options.rows = rows;
    options.columns = columns;
    options.storage = storage;
    options.compute = compute;
    const uint64_t bytes = cpu::weight_bytes(options);
    memory.reset(new float[bytes / 4 + 16]());
    aligned =
        reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(memory.get()) + 63) & ~uintptr_t(63));
    handle = cpu::create_weight(options, aligned);
  }
  ~Weight() { cpu::destroy_weight(handle); }
  Weight(const Weight&) = delete;
  Weight& operator=(const Weight&) = delete;
};

inline std::vector<cpu::InstructionSet> instruction_sets() {
  std::vector<cpu::InstructionSet> sets;
  for (int i = 0; i <= int(cpu::detect_instruction_set()); ++i)
    sets.push_back(cpu::InstructionSet(i));
  return sets;
}

template <class Args>
Args arguments() {
  Args args = {};
  args.header.size = sizeof args;
  return args;
}

inline bool accepted(const pl_status& status) {
  if (status.code != PL_OK) std::printf("refused: %s\n", status.message);
  return status.code == PL_OK;
}

}  // namespace polylora::test
