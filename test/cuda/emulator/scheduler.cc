#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <stdexcept>

#include "async.h"
#include "emulator.h"
#include "race.h"

namespace polylora::emulator {

thread_local Thread* current = nullptr;

namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(POLYLORA_EMULATOR_RACE)
constexpr size_t kStackBytes = size_t(256) << 10;
#else
constexpr size_t kStackBytes = size_t(128) << 10;
#endif
constexpr size_t kGuard = 64;  // bytes behind every static array, which must stay as they are
constexpr unsigned char kGuardByte = 0xA5;
constexpr size_t kMostShared = size_t(227) << 10;
constexpr size_t kArena = size_t(256) << 10;

Settings settings_from_environment() {
  Settings settings;
  const char* text = std::getenv("POLYLORA_EMULATOR");
  if (!text || !*text || !std::strcmp(text, "lazy")) return settings;
  if (!std::strcmp(text, "eager")) {
    settings.mode = Mode::eager;
  } else if (!std::strncmp(text, "random:", 7)) {
    settings.mode = Mode::random;
    settings.seed = std::strtoull(text + 7, nullptr, 10);
  } else {
    std::fprintf(stderr, "POLYLORA_EMULATOR is %s, must be lazy, eager or random:SEED\n", text);
    std::abort();
  }
  return settings;
}

struct GridFailed : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct StaticArray {
  const void* key;
  size_t offset, bytes;
};

// What an OS thread keeps between grids.
struct Executor {
  std::vector<std::unique_ptr<Fiber>> idle;
  std::vector<std::unique_ptr<Fiber>> busy;
  size_t made = 0;
  std::vector<char*> arenas;
  std::vector<StaticArray> arrays;  // of the kernel that runs
  Cluster cluster;
  const std::function<void()>* body = nullptr;
  std::string report;
  bool failed = false;

  ~Executor() {
    for (char* arena : arenas) std::free(arena);
  }
};
thread_local Executor* executor = nullptr;

void thread_main() {
  for (;;) {
    (*executor->body)();
    finish_thread(*current);
    current->done = true;
    current->fiber->leave();
  }
}

std::string describe(const Site& site) {
  const char* name = site.file ? std::strrchr(site.file, '/') : nullptr;
  return std::string(name        ? name + 1
                     : site.file ? site.file
                                 : "?") +
         ":" + std::to_string(site.line);
}

std::string thread_name(const Thread& thread) {
  const Index3& b = thread.block->index;
  return "thread " + std::to_string(thread.linear) + " of block (" + std::to_string(b.x) + ", " +
         std::to_string(b.y) + ", " + std::to_string(b.z) + ")";
}

// "0-31, 64"
std::string ranges(const std::vector<unsigned>& numbers) {
  std::string text;
  for (size_t i = 0; i < numbers.size();) {
    size_t j = i;
    while (j + 1 < numbers.size() && numbers[j + 1] == numbers[j] + 1) ++j;
    text += (text.empty() ? "" : ", ") + std::to_string(numbers[i]);
    if (j > i) text += "-" + std::to_string(numbers[j]);
    i = j + 1;
  }
  return text;
}

std::string deadlock_report(const Cluster& cluster) {
  std::string text = "deadlock:";
  for (const auto& block : cluster.blocks) {
    std::map<std::string, std::vector<unsigned>> groups;
    for (const Thread& thread : block->threads)
      groups[thread.done ? "ended"
                         : std::string("wait for ") + (thread.waits_for ? thread.waits_for : "?") +
                               " at " + describe(thread.site)]
          .push_back(thread.linear);
    text += " block (" + std::to_string(block->index.x) + ", " + std::to_string(block->index.y) +
            ", " + std::to_string(block->index.z) + ")";
    for (const auto& [what, threads] : groups) text += ": threads " + ranges(threads) + " " + what;
    text += ";";
  }
  text.pop_back();
  return text;
}

void resume(Thread& thread) {
  Executor& self = *executor;
  if (!thread.fiber) {
    if (self.idle.empty()) {
      const size_t stagger = self.made++ % 61 * 128;
      self.idle.push_back(std::make_unique<Fiber>(thread_main, kStackBytes, stagger));
    }
    self.busy.push_back(std::move(self.idle.back()));
    self.idle.pop_back();
    thread.fiber = self.busy.back().get();
  }
  thread.waits_for = nullptr;
  current = &thread;
  race::switch_to(&thread);
  thread.fiber->enter();
  current = nullptr;
  race::switch_to(nullptr);
  if (self.failed) throw GridFailed(self.report);
  if (!thread.done) return;
  --thread.block->live;
  // Back to the idle ones, on top: its stack is warm.
  for (size_t i = self.busy.size(); i-- > 0;)
    if (self.busy[i].get() == thread.fiber) {
      self.idle.push_back(std::move(self.busy[i]));
      self.busy[i] = std::move(self.busy.back());
      self.busy.pop_back();
      break;
    }
  thread.fiber = nullptr;
}

void check_guards(const Block& block) {
  for (const StaticArray& array : executor->arrays)
    for (size_t i = 0; i < kGuard; ++i)
      if (static_cast<unsigned char>(block.shared[array.offset + array.bytes + i]) != kGuardByte)
        fail("shared memory was written %zu bytes behind an array of %zu bytes", i, array.bytes);
  const size_t dynamic = block.cluster->shape->dynamic_shared;
  for (size_t i = 0; i < kGuard; ++i)
    if (static_cast<unsigned char>(block.shared[dynamic + i]) != kGuardByte)
      fail("shared memory was written %zu bytes behind the %zu dynamic bytes", i, dynamic);
}

void prepare_block(Block& block, const GridShape& shape, unsigned slot) {
  Executor& self = *executor;
  while (self.arenas.size() <= slot * 2 + 1) {
    void* arena = nullptr;
    if (posix_memalign(&arena, 1024, kArena)) throw std::bad_alloc();
    self.arenas.push_back(static_cast<char*>(arena));
  }
  block.shared = self.arenas[slot * 2];
  block.proxy = nullptr;
  // Never written means NaN.
  std::memset(block.shared, 0xFF, shape.dynamic_shared);
  std::memset(block.shared + shape.dynamic_shared, kGuardByte, kGuard);
  for (const StaticArray& array : self.arrays) {
    std::memset(block.shared + array.offset, 0xFF, array.bytes);
    std::memset(block.shared + array.offset + array.bytes, kGuardByte, kGuard);
  }
  const unsigned count = shape.block.x * shape.block.y * shape.block.z;
  block.threads.resize(count);
  for (unsigned i = 0; i < count; ++i) {
    Thread& thread = block.threads[i];
    thread.index = {i % shape.block.x, i / shape.block.x % shape.block.y,
                    i / shape.block.x / shape.block.y};
    thread.linear = i;
    thread.block = &block;
    thread.fiber = nullptr;
    thread.done = false;
    thread.waits_for = nullptr;
    thread.open_group.clear();
    thread.groups.clear();
  }
  block.live = count;
  block.warps.resize((count + 31) / 32);
  for (auto& meetings : block.warps) meetings.clear();
  block.warpgroups.assign((count + 127) / 128, Warpgroup());
  for (Barrier& barrier : block.barriers) barrier = Barrier();
  block.mbarriers.clear();
  block.votes[0] = block.votes[1] = false;
  block.vote_round = 0;
}

void run_cluster(const GridShape& shape, Index3 first) {
  Cluster& cluster = executor->cluster;
  cluster.blocks.resize(shape.cluster);
  cluster.ready.clear();
  cluster.bulk.clear();
  cluster.waiters.clear();
  cluster.arrived = cluster.generation = 0;
  for (unsigned rank = 0; rank < shape.cluster; ++rank) {
    auto& block = cluster.blocks[rank];
    if (!block) block = std::make_unique<Block>();
    block->index = {first.x + rank, first.y, first.z};
    block->rank = rank;
    block->cluster = &cluster;
    prepare_block(*block, shape, rank);
  }
  race::begin(cluster);
  // Threads that have not begun are started in order, or in mode random warp by warp in any order.
  std::vector<Thread*> fresh;
  for (auto& block : cluster.blocks)
    for (Thread& thread : block->threads) fresh.push_back(&thread);
  if (cluster.mode == Mode::random)
    for (size_t i = fresh.size(); i > 1; --i) std::swap(fresh[i - 1], fresh[cluster.draw() % i]);
  size_t started = 0;
  for (;;) {
    if (cluster.mode == Mode::random && !cluster.bulk.empty() && cluster.draw() % 4 == 0)
      land_bulk_copy(cluster);
    Thread* next = nullptr;
    const bool any_fresh = started < fresh.size();
    if (any_fresh &&
        (cluster.mode != Mode::random || cluster.ready.empty() || cluster.draw() % 2)) {
      next = fresh[started++];
    } else if (!cluster.ready.empty()) {
      size_t at = 0;
      if (cluster.mode == Mode::random) at = cluster.draw() % cluster.ready.size();
      next = cluster.ready[at];
      if (at != 0) cluster.ready[at] = cluster.ready.front();
      cluster.ready.pop_front();
    }
    if (next) {
      resume(*next);
      continue;
    }
    unsigned live = 0;
    for (auto& block : cluster.blocks) live += block->live;
    if (land_bulk_copy(cluster)) continue;
    if (live == 0) break;
    fail("%s", deadlock_report(cluster).c_str());
  }
  for (auto& block : cluster.blocks) {
    finish_block(*block);
    check_guards(*block);
  }
}

}  // namespace

Settings& settings() {
  static Settings value = settings_from_environment();
  return value;
}

void fail(const char* format, ...) {
  char message[3000];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  Executor& self = *executor;
  std::string text = std::string(self.cluster.shape->name) + ": ";
  if (current) text += thread_name(*current) + ": ";
  text += message;
  if (!current) throw GridFailed(text);
  self.report = text;
  self.failed = true;
  for (;;) current->fiber->leave();  // never comes back
}

std::string run_grid(const GridShape& shape, const std::function<void()>& body) {
  static thread_local Executor own;
  executor = &own;
  own.body = &body;
  own.arrays.clear();
  own.failed = false;
  Cluster& cluster = own.cluster;
  cluster.shape = &shape;
  cluster.mode = settings().mode;
  cluster.random = settings().seed * 2 + 1;
  cluster.shared_bytes = shape.dynamic_shared;
  try {
    const size_t limit = shape.shared_limit < kMostShared ? shape.shared_limit : kMostShared;
    if (shape.dynamic_shared > limit)
      fail("the launch asks for %zu bytes of shared memory, a block may have %zu",
           shape.dynamic_shared, limit);
    if (shape.block.x * shape.block.y * shape.block.z > 1024)
      fail("a block of %u x %u x %u threads is more than 1024", shape.block.x, shape.block.y,
           shape.block.z);
    if (shape.grid.x % shape.cluster)
      fail("a grid of %u blocks is no multiple of its clusters of %u", shape.grid.x, shape.cluster);
    if (shape.grid.y > 65535 || shape.grid.z > 65535 || shape.grid.x > 0x7fffffffu)
      fail("a grid of %u x %u x %u blocks is too large", shape.grid.x, shape.grid.y, shape.grid.z);
    for (unsigned z = 0; z < shape.grid.z; ++z)
      for (unsigned y = 0; y < shape.grid.y; ++y)
        for (unsigned x = 0; x < shape.grid.x; x += shape.cluster) run_cluster(shape, {x, y, z});
    return "";
  } catch (const GridFailed& failure) {
    current = nullptr;
    own.busy.clear();  // with whatever their stacks hold
    return failure.what();
  }
}

void wait(const char* what, Site site) {
  current->waits_for = what;
  current->site = site;
  current->fiber->leave();
}

void wake(Thread* thread) { thread->block->cluster->ready.push_back(thread); }

void maybe_yield() {
  Cluster& cluster = *current->block->cluster;
  if (cluster.mode != Mode::random || cluster.draw() % 8) return;
  wake(current);
  wait("its turn", {});
}

void meet_warp(uint32_t mask, const char* what, Site site, void* mine,
               const std::function<void(void* const*, uint32_t)>& act) {
  Thread& self = *current;
  const unsigned lane = self.lane();
  const unsigned first = self.warp() * 32;
  const unsigned lanes = unsigned(self.block->threads.size()) - first;
  if (lanes < 32) mask &= (1u << lanes) - 1;
  if (!(mask >> lane & 1))
    fail("%s at %s: the mask %08x does not name the calling lane %u", what, describe(site).c_str(),
         mask, lane);
  auto& meetings = self.block->warps[self.warp()];
  Meeting* meeting = nullptr;
  for (Meeting& open : meetings)
    if (open.arrived && open.mask == mask) meeting = &open;
  for (Meeting& open : meetings)
    if (open.arrived && &open != meeting && (open.mask & mask))
      fail("%s at %s with mask %08x: other lanes of it are at %s at %s with mask %08x", what,
           describe(site).c_str(), mask, open.what, describe(open.site).c_str(), open.mask);
  if (!meeting) {
    for (Meeting& open : meetings)
      if (!open.arrived) meeting = &open;
    if (!meeting) {
      meetings.emplace_back();
      meeting = &meetings.back();
    }
    meeting->mask = mask;
    meeting->what = what;
    meeting->site = site;
    meeting->expected = unsigned(__builtin_popcount(mask));
  } else if (std::strcmp(meeting->what, what) != 0) {
    fail("%s at %s: other lanes of its mask are at %s at %s", what, describe(site).c_str(),
         meeting->what, describe(meeting->site).c_str());
  }
  meeting->slots[lane] = mine;
  if (++meeting->arrived < meeting->expected) {
    meeting->waiters.push_back(&self);
    wait(what, site);
    return;
  }
  race::meet(meeting->waiters.data(), meeting->waiters.size(), &self);
  act(meeting->slots, mask);
  for (Thread* waiter : meeting->waiters) wake(waiter);
  meeting->waiters.clear();
  meeting->arrived = 0;
}

void meet_warpgroup(const char* what, Site site, void* mine,
                    const std::function<void(void* const*)>& act) {
  Thread& self = *current;
  Meeting& meeting = self.block->warpgroups[self.linear / 128].meeting;
  if (self.linear / 128 * 128 + 128 > self.block->threads.size())
    fail("%s at %s: a warpgroup is 128 threads, the block ends before", what,
         describe(site).c_str());
  if (meeting.arrived == 0) {
    meeting.what = what;
    meeting.site = site;
  } else if (std::strcmp(meeting.what, what) != 0) {
    fail("%s at %s: other threads of the warpgroup are at %s at %s", what, describe(site).c_str(),
         meeting.what, describe(meeting.site).c_str());
  }
  meeting.slots[self.linear % 128] = mine;
  if (++meeting.arrived < 128) {
    meeting.waiters.push_back(&self);
    wait(what, site);
    return;
  }
  act(meeting.slots);
  for (Thread* waiter : meeting.waiters) wake(waiter);
  meeting.waiters.clear();
  meeting.arrived = 0;
}

namespace {

Barrier& arrive_at(unsigned id, unsigned threads, bool same_line, Site site) {
  Thread& self = *current;
  if (id > 15) fail("barrier %u at %s: 0 to 15 are allowed", id, describe(site).c_str());
  Barrier& barrier = self.block->barriers[id];
  if (barrier.arrived == 0) {
    barrier.expected = threads;
    barrier.site = site;
  } else if (barrier.expected != threads) {
    fail("barrier %u at %s for %u threads: at %s it was for %u", id, describe(site).c_str(),
         threads, describe(barrier.site).c_str(), barrier.expected);
  } else if (same_line && barrier.site.line != site.line) {
    fail("__syncthreads at %s: other threads are at the one at %s", describe(site).c_str(),
         describe(barrier.site).c_str());
  }
  ++barrier.arrived;
  return barrier;
}

void open_if_full(Barrier& barrier) {
  if (barrier.arrived < barrier.expected) return;
  for (Thread* waiter : barrier.waiters) wake(waiter);
  barrier.waiters.clear();
  barrier.arrived = 0;
}

}  // namespace

void sync_threads(Site site) {
  Thread& self = *current;
  Barrier& barrier = arrive_at(0, unsigned(self.block->threads.size()), true, site);
  race::arrive(&barrier, &self);
  if (barrier.arrived == barrier.expected) {
    race::depart(&barrier, &self, true);
    open_if_full(barrier);
  } else {
    barrier.waiters.push_back(&self);
    wait("__syncthreads", site);
    race::depart(&barrier, &self, false);
  }
}

void barrier_sync(unsigned id, unsigned threads, Site site) {
  Thread& self = *current;
  if (threads % 32 || threads == 0)
    fail("barrier %u at %s for %u threads: whole warps are allowed", id, describe(site).c_str(),
         threads);
  Barrier& barrier = arrive_at(id, threads, false, site);
  race::arrive(&barrier, &self);
  if (barrier.arrived == barrier.expected) {
    race::depart(&barrier, &self, true);
    open_if_full(barrier);
  } else {
    barrier.waiters.push_back(&self);
    wait("a named barrier", site);
    race::depart(&barrier, &self, false);
  }
}

void barrier_arrive(unsigned id, unsigned threads, Site site) {
  Barrier& barrier = arrive_at(id, threads, false, site);
  race::arrive(&barrier, current);
  if (barrier.arrived == barrier.expected) race::complete(&barrier);
  open_if_full(barrier);
}

void* static_shared(const void* key, size_t bytes, size_t alignment, Site site) {
  Executor& self = *executor;
  for (const StaticArray& array : self.arrays)
    if (array.key == key) return current->block->shared + array.offset;
  size_t end = self.cluster.shape->dynamic_shared + kGuard;
  for (const StaticArray& array : self.arrays) end = array.offset + array.bytes + kGuard;
  const size_t offset = (end + alignment - 1) / alignment * alignment;
  self.cluster.shared_bytes = (self.cluster.shared_bytes + alignment - 1) / alignment * alignment;
  self.cluster.shared_bytes += bytes;
  if (self.cluster.shared_bytes > self.cluster.shape->shared_limit)
    fail("the array at %s makes %zu bytes of shared memory, a block may have %zu",
         describe(site).c_str(), self.cluster.shared_bytes, self.cluster.shape->shared_limit);
  if (offset + bytes + kGuard > kArena) fail("the emulator's shared memory is full");
  self.arrays.push_back({key, offset, bytes});
  for (auto& block : self.cluster.blocks) {
    std::memset(block->shared + offset, 0xFF, bytes);
    std::memset(block->shared + offset + bytes, kGuardByte, kGuard);
  }
  return current->block->shared + offset;
}

void* dynamic_shared() { return current->block->shared; }

Block* block_of(const void* address) {
  for (auto& block : executor->cluster.blocks)
    if (address >= block->shared && address < block->shared + kArena) return block.get();
  return nullptr;
}

bool is_in_shared_array(const Block& block, const void* address, size_t bytes) {
  const auto* const at = static_cast<const char*>(address);
  if (at >= block.shared && at + bytes <= block.shared + block.cluster->shape->dynamic_shared)
    return true;
  for (const StaticArray& array : executor->arrays)
    if (at >= block.shared + array.offset &&
        at + bytes <= block.shared + array.offset + array.bytes)
      return true;
  return false;
}

void require_shared(const void* address, size_t bytes, const char* what, Site site) {
  const Block& block = *current->block;
  if (is_in_shared_array(block, address, bytes)) return;
  const auto* const at = static_cast<const char*>(address);
  if (at >= block.shared && at < block.shared + kArena)
    fail("%s at %s: %zu bytes at offset %td are outside every array of shared memory", what,
         describe(site).c_str(), bytes, at - block.shared);
  fail("%s at %s: the address is not in shared memory of its block", what, describe(site).c_str());
}

char* proxy_view(Block& block) {
  if (!block.proxy) {
    block.proxy = executor->arenas[block.rank * 2 + 1];
    std::memset(block.proxy, 0xFF, kArena);
  }
  return block.proxy;
}

size_t shared_extent(const Block& block) {
  size_t end = block.cluster->shape->dynamic_shared;
  for (const StaticArray& array : executor->arrays) end = array.offset + array.bytes;
  return end;
}

std::string describe_site(const Site& site) { return describe(site); }

}  // namespace polylora::emulator
