// What an OS thread keeps between grids: shared by the scheduler and the shared memory, by nobody
// else.
#pragma once

#include <cstdlib>

#include "emulator.h"

namespace polylora::emulator {

struct StaticArray {
  const void* key;
  size_t offset, bytes;
};

struct Executor {
  std::vector<std::unique_ptr<Fiber>> idle;
  std::vector<std::unique_ptr<Fiber>> busy;
  size_t made = 0;
  std::vector<char*> arenas;  // two a block of a cluster: what threads see, what the proxy sees
  std::vector<StaticArray> arrays;  // of the kernel that runs
  Cluster cluster;
  const std::function<void()>* body = nullptr;
  std::string report;
  bool failed = false;

  ~Executor();
};
extern __thread Executor* executor;

// Shared memory of a block that is about to run: never written, so NaNs, and guards behind arrays.
void prepare_shared(Block& block, unsigned slot);
// Fails if somebody wrote behind an array.
void check_guards(const Block& block);

constexpr size_t kMostShared = size_t(227) << 10;

}  // namespace polylora::emulator
