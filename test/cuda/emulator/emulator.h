// Runs a grid of CUDA threads on one OS thread: a fiber a thread, one cluster of blocks at a time.
//
// What is asynchronous on the hardware is adversarial here. By default (lazy) a copy lands, and a
// wgmma reads its operands, only when somebody waits for it or nothing else can run; until then the
// destination holds NaNs. `eager` does everything at issue, `random` at moments drawn from a seed,
// which also draws which thread runs next.
//
// What goes wrong (a deadlock, an address outside its array, a barrier misused) ends the grid with
// a report that names the kernel and the lines at which its threads stand.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "fiber.h"

namespace polylora::emulator {

enum class Mode { lazy, eager, random };
struct Settings {
  Mode mode = Mode::lazy;
  uint64_t seed = 1;
};
// Of the process; a grid reads them when it starts. At first from POLYLORA_EMULATOR: lazy, eager or
// random:SEED.
Settings& settings();

struct Site {
  const char* file;
  int line;
};
#define PL_SITE \
  ::polylora::emulator::Site { __FILE__, __LINE__ }
#define PL_CALLER ::polylora::emulator::Site site = {__builtin_FILE(), __builtin_LINE()}

struct Index3 {
  unsigned x = 0, y = 0, z = 0;
};

struct GridShape {
  const char* name = "";
  const void* kernel = nullptr;
  Index3 grid, block;
  size_t dynamic_shared = 0;
  size_t shared_limit = 0;  // bytes that a block of this tier may have
  unsigned cluster = 1;     // blocks along x that run together
};

// Empty, or the report of what went wrong.
std::string run_grid(const GridShape& shape, const std::function<void()>& body);

// Of a grid that has run to its end.
void note_launched(const void* kernel);

struct Thread;
struct Block;
struct Cluster;

// Where threads meet: the last of `expected` to come acts for all, and all leave together.
struct Meeting {
  const char* what = nullptr;
  Site site{};
  uint32_t mask = 0;
  unsigned arrived = 0, expected = 0;
  std::vector<Thread*> waiters;
  void* slots[128] = {};
};

struct AsyncCopy {  // cp.async
  char* to;
  const char* from;
  unsigned bytes, read;
  Site site;
  bool landed = false;
};

struct Thread {
  Index3 index;
  unsigned linear = 0;
  Block* block = nullptr;
  Fiber* fiber = nullptr;
  bool done = false;
  const char* waits_for = nullptr;
  Site site{};
  unsigned cluster_generation = 0;
  std::vector<AsyncCopy> open_group;
  std::deque<std::vector<AsyncCopy>> groups;

  unsigned lane() const { return linear % 32; }
  unsigned warp() const { return linear / 32; }
};

struct Barrier {  // bar.sync, bar.arrive
  unsigned arrived = 0, expected = 0;
  Site site{};
  std::vector<Thread*> waiters;
};

struct MBarrier {
  unsigned count = 0, pending = 0;
  int64_t transactions = 0;
  unsigned phase = 0;
  struct Waiter {
    Thread* thread;
    unsigned parity;
  };
  std::vector<Waiter> waiters;
};

// wgmma of one warpgroup; asynchronous, in order.
struct Wgmma;
struct Warpgroup {
  Meeting meeting;
  bool fenced = false;
  std::vector<std::shared_ptr<Wgmma>> open_group;
  std::deque<std::vector<std::shared_ptr<Wgmma>>> groups;
  std::unordered_map<void*, std::vector<float>> accumulators;  // of what is in flight
};

struct Block {
  Index3 index;
  unsigned rank = 0;  // in its cluster
  Cluster* cluster = nullptr;
  std::vector<Thread> threads;
  std::vector<std::vector<Meeting>> warps;  // meetings of a warp under way, by mask
  std::vector<Warpgroup> warpgroups;
  Barrier barriers[16];
  std::unordered_map<void*, MBarrier> mbarriers;
  char* shared = nullptr;  // what threads see
  char* proxy = nullptr;   // what the async proxy sees; null until something needs it
  unsigned live = 0;
  bool votes[2] = {};  // __syncthreads_or
  unsigned vote_round = 0;
};

// A bulk copy of the async proxy.
struct BulkCopy {
  std::function<void()> land;
  Thread* issuer;  // for stores, whose groups the issuer waits for
  bool is_store;
  int group = -1;  // -1: not committed
};

struct Cluster {
  const GridShape* shape = nullptr;
  std::vector<std::unique_ptr<Block>> blocks;
  std::deque<Thread*> ready;
  std::deque<BulkCopy> bulk;
  unsigned arrived = 0, generation = 0;
  std::vector<Thread*> waiters;
  uint64_t random = 1;
  Mode mode = Mode::lazy;
  size_t shared_bytes = 0;  // dynamic, and static as far as it is known

  uint64_t draw() {  // xorshift64*
    random ^= random >> 12;
    random ^= random << 25;
    random ^= random >> 27;
    return random * 0x2545F4914F6CDD1Du;
  }
};

// The thread that runs; null on the scheduler's own stack. Not thread_local, whose accesses from
// other files go through a function that g++ 12's UBSan takes for a null pointer.
extern __thread Thread* current __attribute__((tls_model("initial-exec")));

[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

// Blocks the current thread until wake().
void wait(const char* what, Site site);
void wake(Thread* thread);
// Lets others run first, now and then, in mode random.
void maybe_yield();

// The lanes of `mask` come with a pointer each; the last one calls act(slots, mask).
void meet_warp(uint32_t mask, const char* what, Site site, void* mine,
               const std::function<void(void* const*, uint32_t)>& act);
// The same for the 128 threads of a warpgroup.
void meet_warpgroup(const char* what, Site site, void* mine,
                    const std::function<void(void* const*)>& act);

void sync_threads(Site site);
void barrier_sync(unsigned id, unsigned threads, Site site);
void barrier_arrive(unsigned id, unsigned threads, Site site);

// A static array of shared memory, the same in all threads of a block. `key` tells sites apart.
void* static_shared(const void* key, size_t bytes, size_t alignment, Site site);
void* dynamic_shared();

// The block of the cluster whose shared memory holds the address; null if none does.
Block* block_of(const void* address);
// Fails unless [address, address + bytes) is shared memory of the current block.
void require_shared(const void* address, size_t bytes, const char* what, Site site);
// Fails unless it is memory of the device.
void require_global(const void* address, size_t bytes, const char* what, Site site);

// What lies around an address: a block that kernels may touch, memory of the device between blocks,
// or neither.
struct DeviceMemory {
  enum class Kind { elsewhere, block, gap } kind = Kind::elsewhere;
  const char *begin = nullptr, *end = nullptr;
};
DeviceMemory device_memory_at(const void* address);

std::string describe_site(const Site& site);  // "rms_norm.cu:41"

}  // namespace polylora::emulator
