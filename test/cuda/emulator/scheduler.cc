#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <stdexcept>

#include "async.h"
#include "executor.h"
#include "race.h"

namespace polylora::emulator {

__thread Thread* current = nullptr;

namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(POLYLORA_EMULATOR_RACE)
constexpr size_t kStackBytes = size_t(256) << 10;
#else
constexpr size_t kStackBytes = size_t(128) << 10;
#endif

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

}  // namespace

__thread Executor* executor = nullptr;

namespace {

void thread_main() {
  current->fiber->arrived();
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
  thread.fiber->enter();
  current = nullptr;
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

void prepare_block(Block& block, const GridShape& shape, unsigned slot) {
  prepare_shared(block, slot);
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
    race::begin_grid();
    if (shape.grid.y > 65535 || shape.grid.z > 65535 || shape.grid.x > 0x7fffffffu)
      fail("a grid of %u x %u x %u blocks is too large", shape.grid.x, shape.grid.y, shape.grid.z);
    for (unsigned z = 0; z < shape.grid.z; ++z)
      for (unsigned y = 0; y < shape.grid.y; ++y)
        for (unsigned x = 0; x < shape.grid.x; x += shape.cluster) run_cluster(shape, {x, y, z});
    note_launched(shape.kernel);
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

std::string describe_site(const Site& site) { return describe(site); }

}  // namespace polylora::emulator
