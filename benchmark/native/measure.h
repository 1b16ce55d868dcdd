// What the benchmarks of operations share: the processor's peaks, measured in the same run, and a
// stopwatch that takes the best of several runs, as the machine may be shared.
#pragma once

#include <time.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <string>
#include <vector>

#include "cpu/operations.h"
#include "cpu/pool.h"
#include "kernels.h"

namespace polylora::benchmark {

inline double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Of the calling thread: what one thread needs, even where others compete for the processor.
inline double processor_time() {
  timespec time;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return double(time.tv_sec) + 1e-9 * double(time.tv_nsec);
}

// With POLYLORA_BENCHMARK_JSON set, each measurement is one line of JSON; POLYLORA_BENCHMARK_QUICK
// makes it short.
inline bool prints_json() { return std::getenv("POLYLORA_BENCHMARK_JSON") != nullptr; }
inline double patience() { return std::getenv("POLYLORA_BENCHMARK_QUICK") ? 0.1 : 1; }

struct Figure {
  const char* name;
  double value;
};

// `name` holds no character that JSON escapes.
inline void print_json(const char* kind, const std::string& name,
                       std::initializer_list<Figure> figures) {
  std::printf("{\"kind\":\"%s\",\"name\":\"%s\"", kind, name.c_str());
  for (const Figure& figure : figures) std::printf(",\"%s\":%.9g", figure.name, figure.value);
  std::printf("}\n");
  std::fflush(stdout);
}

// Best seconds of one call, of at least `seconds` of calls: of the processor for one thread, of the
// clock for more.
template <class Body>
double best_time(int threads, Body&& body, double seconds = 0.3) {
  const auto clock = threads == 1 ? processor_time : now;
  body();
  double best = 1e300;
  for (const double start = now(); now() - start < seconds * patience();) {
    const double begin = clock();
    body();
    const double time = clock() - begin;
    if (time < best) best = time;
  }
  return best;
}

struct Buffer {
  std::vector<float> memory;
  std::vector<int64_t> shape;
  explicit Buffer(std::vector<int64_t> sizes, float scale = 1) : shape(std::move(sizes)) {
    int64_t count = 1;
    for (int64_t size : shape) count *= size;
    memory.resize(size_t(count) + 16);
    uint32_t state = 12345;
    for (float& x : memory) {
      state = state * 1664525u + 1013904223u;
      x = scale * (float(state >> 8) * 0x1p-23f - 1);
    }
  }
  pl_tensor tensor() {
    pl_tensor t = {};
    t.data =
        reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(memory.data()) + 63) & ~uintptr_t(63));
    t.dtype = PL_F32;
    t.rank = int32_t(shape.size());
    int64_t stride = 1;
    for (size_t d = shape.size(); d-- > 0; stride *= shape[d]) {
      t.shape[d] = shape[d];
      t.strides[d] = stride;
    }
    return t;
  }
};

inline pl_tensor int_tensor(std::vector<int32_t>& values) {
  pl_tensor t = {};
  t.data = values.data();
  t.dtype = PL_I32;
  t.rank = 1;
  t.shape[0] = int64_t(values.size());
  t.strides[0] = 1;
  return t;
}

template <class Args>
void execute(pl_operation operation, void (*run)(cpu::Pool&, const Args&), cpu::Pool& pool,
             Args& args, std::vector<float>& workspace) {
  const uint64_t bytes = cpu::workspace_of(operation, &args, pool.threads());
  if (workspace.size() * 4 < bytes + 64) workspace.resize(bytes / 4 + 32);
  args.header.workspace = reinterpret_cast<void*>(
      (reinterpret_cast<uintptr_t>(workspace.data()) + 63) & ~uintptr_t(63));
  args.header.workspace_bytes = bytes;
  run(pool, args);
}

inline cpu::InstructionSet instruction_set_of(int count, char** arguments) {
  cpu::InstructionSet set = cpu::detect_instruction_set();
  if (count > 1 && !cpu::parse_instruction_set(arguments[1], &set)) {
    std::printf("usage: %s [portable|avx2|avx512|avx512-bf16] [threads]\n", arguments[0]);
    std::exit(2);
  }
  if (set > cpu::detect_instruction_set()) {
    std::printf("this processor has no %s\n", arguments[1]);
    std::exit(2);
  }
  return set;
}

inline int threads_of(int count, char** arguments) {
  return count > 2 ? std::atoi(arguments[2]) : 2;
}

}  // namespace polylora::benchmark
