#include "race.h"

#ifdef POLYLORA_EMULATOR_RACE

#include <dlfcn.h>

#include <cstdio>
#include <map>
#include <tuple>

#include "async.h"
#include "race_shadow.h"

namespace polylora::emulator::race {

namespace {

struct BarrierClock {
  VectorClock seen, fenced;            // of the last complete phase
  VectorClock open_seen, open_fenced;  // of those who have arrived since
};

// Of one stream's thread.
struct State {
  Cluster* cluster = nullptr;
  uint32_t turn = 0, first_turn = 1;  // of the launch
  size_t threads_each = 0, threads = 0, warpgroups_each = 0;
  std::vector<VectorClock> seen, fenced;  // by thread
  bool has_fences = false;
  std::vector<Clock> wgmma;  // by warpgroup
  struct Landings {
    size_t agent;
    Clock clock;
  };
  std::unordered_map<const void*, Landings> mbarriers;
  std::unordered_map<const void*, BarrierClock> barriers;
  Shadow shadow;
  ReaderSets readers;
  DeviceMemory recent[4];
  unsigned next_recent = 0;
};

// On the heap: a library that is opened has little room for what is of threads.
State& state() {
  static thread_local std::unique_ptr<State> value;
  if (!value) value = std::make_unique<State>();
  return *value;
}

size_t agent_of(const State& self, const Thread& thread) {
  return thread.block->rank * self.threads_each + thread.linear;
}
size_t agent_of(const State& self, const Block& block, unsigned warpgroup) {
  return self.threads + block.rank * self.warpgroups_each + warpgroup;
}

void tick(State& self, size_t thread) {
  self.seen[thread].set(thread, self.seen[thread][thread] + 1);
}

// ---- Reports

struct Instruction {
  const char* what;
  Site site;
};
constexpr Place kInstruction = Place(1) << 63;

Place place_of(const char* what, Site site) {
  static thread_local std::map<std::tuple<const char*, const char*, int>, Instruction> known;
  Instruction& found = known[{what, site.file, site.line}];
  found = {what, site};
  return reinterpret_cast<uintptr_t>(&found) | kInstruction;
}

// "rms_norm.cu:41", by addr2line where that is installed.
std::string describe_address(uintptr_t address) {
  Dl_info info;
  if (!dladdr(reinterpret_cast<void*>(address), &info)) return "an unknown line";
  char command[1000];
  const auto offset = address - reinterpret_cast<uintptr_t>(info.dli_fbase) - 1;
  std::snprintf(command, sizeof command, "addr2line -s -e '%s' 0x%zx 2>/dev/null", info.dli_fname,
                size_t(offset));
  std::string text;
  if (FILE* pipe = popen(command, "r")) {
    char line[500];
    if (std::fgets(line, sizeof line, pipe)) text = line;
    pclose(pipe);
  }
  text = text.substr(0, text.find_first_of("\n "));
  if (!text.empty() && text[0] != '?') return text;
  std::snprintf(command, sizeof command, "offset 0x%zx of the library", size_t(offset));
  return command;
}

std::string describe_place(Place place, bool is_write) {
  if (!(place & kInstruction))
    return std::string(is_write ? "a write" : "a read") + " at " + describe_address(place);
  const auto& at = *reinterpret_cast<const Instruction*>(uintptr_t(place & ~kInstruction));
  return std::string(at.what) + " at " + describe_site(at.site);
}

std::string describe_agent(const State& self, size_t agent) {
  if (agent < self.threads)
    return "thread " + std::to_string(agent % self.threads_each) +
           (self.cluster->blocks.size() > 1
                ? " of the cluster's block " + std::to_string(agent / self.threads_each)
                : "");
  return "the async proxy";
}

std::string describe_bytes(const void* address) {
  const auto* const at = static_cast<const char*>(address);
  if (const Block* block = block_of(at))
    return "offset " + std::to_string(at - block->shared) + " of shared memory";
  return "offset " + std::to_string(at - device_memory_at(at).begin) + " of an array";
}

// ---- Accesses

struct Access {
  size_t agent;
  Clock clock;
  const VectorClock* seen;
  Place place;
  bool is_write, is_atomic;
  bool is_shared;
};

[[noreturn]] void conflict(const State& self, const Access& access, uintptr_t address,
                           const std::string& other, const char* by) {
  fail("race: %s by %s and %s by %s, at %s, have no order",
       describe_place(access.place, access.is_write).c_str(),
       describe_agent(self, access.agent).c_str(), other.c_str(), by,
       describe_bytes(reinterpret_cast<void*>(address)).c_str());
}

[[noreturn]] void in_flight(const Cell& cell, const std::string& what, uintptr_t address) {
  fail("in flight: %s touches %s, where %s has not landed or was not waited for", what.c_str(),
       describe_bytes(reinterpret_cast<void*>(address)).c_str(),
       describe_place(cell.write_place, true).c_str());
}

[[noreturn]] void never_written(const std::string& what, uintptr_t address) {
  fail("never written: %s reads %s", what.c_str(),
       describe_bytes(reinterpret_cast<void*>(address)).c_str());
}

void check_write(const State& self, const Cell& cell, const Access& access, uintptr_t at) {
  if (access.is_atomic && cell.is_atomic) return;
  if (cell.write_turn == self.turn) {
    if (cell.in_flight) in_flight(cell, describe_place(access.place, access.is_write), at);
    if (cell.write_agent != access.agent && (*access.seen)[cell.write_agent] < cell.write_clock)
      conflict(self, access, at, describe_place(cell.write_place, true),
               describe_agent(self, cell.write_agent).c_str());
  } else if (access.is_shared) {
    if (!access.is_write) never_written(describe_place(access.place, false), at);
  } else if (cell.write_turn >= self.first_turn) {
    conflict(self, access, at, describe_place(cell.write_place, true), "another block");
  }
}

void check_readers(const State& self, const Cell& cell, const Access& access, uintptr_t at) {
  if (cell.read_turn == self.turn)
    self.readers.each(cell.readers, [&](size_t agent, Clock clock) {
      if (agent != access.agent && (*access.seen)[agent] < clock)
        conflict(self, access, at, describe_place(cell.read_place, false),
                 describe_agent(self, agent).c_str());
    });
  if (access.is_shared) return;
  const bool is_now = cell.read_turn == self.turn;
  if ((is_now ? cell.other_turn : cell.read_turn) >= self.first_turn)
    conflict(self, access, at, describe_place(is_now ? cell.other_place : cell.read_place, false),
             "another block");
}

void note_read(State& self, Cell& cell, size_t agent, Clock clock, Place place, bool is_shared) {
  if (cell.read_turn != self.turn) {
    if (!is_shared && cell.read_turn >= self.first_turn) {
      cell.other_turn = cell.read_turn;
      cell.other_place = cell.read_place;
    }
    cell.read_turn = self.turn;
    cell.readers = 0;
  }
  cell.readers = self.readers.add(cell.readers, uint16_t(agent), clock);
  cell.read_place = place;
}

void note_write(State& self, Cell& cell, const Access& access) {
  cell.write_turn = self.turn;
  cell.write_agent = uint16_t(access.agent);
  cell.write_clock = access.clock;
  cell.write_place = access.place;
  cell.is_atomic = access.is_atomic;
  cell.in_flight = false;
  cell.readers = 0;
  cell.read_turn = cell.other_turn = 0;
}

void touch(State& self, const void* address, size_t bytes, Access access) {
  self.shadow.each(address, bytes, [&](Cell& cell, uintptr_t at) {
    check_write(self, cell, access, at);
    if (access.is_write) {
      check_readers(self, cell, access, at);
      note_write(self, cell, access);
    } else {
      note_read(self, cell, access.agent, access.clock, access.place, access.is_shared);
    }
  });
}

Access by_current(const State& self, Place place, bool is_write, bool is_shared) {
  const size_t agent = agent_of(self, *current);
  const VectorClock& seen = self.seen[agent];
  return {agent, seen[agent], &seen, place, is_write, false, is_shared};
}

const DeviceMemory& memory_at(State& self, const char* address) {
  for (const DeviceMemory& known : self.recent)
    if (address >= known.begin && address < known.end) return known;
  DeviceMemory& next = self.recent[self.next_recent++ % 4];
  next = device_memory_at(address);
  return next;
}

// Whether [address, address + bytes) is an array of shared memory or the device's; fails if it
// should be. Stacks, parameters and the host's memory are none.
bool is_array(State& self, const char* address, size_t bytes, Place place, bool is_write,
              bool& is_shared) {
  if (current->fiber->holds(address)) return false;
  const Block* const block = block_of(address);
  is_shared = block != nullptr;
  if (block) {
    if (is_in_shared_array(*block, address, bytes)) return true;
    fail("out of bounds: %s of %zu bytes at offset %td, outside every array of shared memory",
         describe_place(place, is_write).c_str(), bytes, address - block->shared);
  }
  const DeviceMemory& memory = memory_at(self, address);
  if (memory.kind == DeviceMemory::Kind::elsewhere) return false;
  if (memory.kind == DeviceMemory::Kind::block && address + bytes <= memory.end) return true;
  fail("out of bounds: %s of %zu bytes outside every allocation of the device",
       describe_place(place, is_write).c_str(), bytes);
}

}  // namespace

void access(const void* address, size_t bytes, bool is_write, uintptr_t place) {
  if (!current) return;
  State& self = state();
  bool is_shared;
  if (!is_array(self, static_cast<const char*>(address), bytes, place, is_write, is_shared)) return;
  touch(self, address, bytes, by_current(self, place, is_write, is_shared));
}

// ---- A launch

void begin_grid() {
  State& self = state();
  self.first_turn = self.turn + 1;
  for (DeviceMemory& known : self.recent) known = {};
}

void begin(Cluster& cluster) {
  State& self = state();
  ++self.turn;
  self.cluster = &cluster;
  self.threads_each = cluster.blocks[0]->threads.size();
  self.threads = self.threads_each * cluster.blocks.size();
  self.warpgroups_each = cluster.blocks[0]->warpgroups.size();
  const size_t agents = self.threads + self.warpgroups_each * cluster.blocks.size();
  self.seen.resize(self.threads);
  self.fenced.resize(self.threads);
  for (size_t i = 0; i < self.threads; ++i) {
    self.seen[i].at.assign(agents, 0);
    self.seen[i].at[i] = 1;
    self.fenced[i].at.clear();
  }
  self.has_fences = false;
  self.wgmma.assign(agents - self.threads, 0);
  self.mbarriers.clear();
  self.barriers.clear();
  self.readers.clear();
}

void forget(const void* address, size_t bytes) { state().shadow.forget(address, bytes); }

// ---- Order

void meet(void* const* lanes, uint32_t mask) {
  State& self = state();
  VectorClock seen, fenced;
  for (unsigned lane = 0; lane < 32; ++lane) {
    if (!(mask >> lane & 1)) continue;
    const size_t agent = agent_of(self, *static_cast<Thread*>(lanes[lane]));
    seen.join(self.seen[agent]);
    fenced.join(self.fenced[agent]);
  }
  for (unsigned lane = 0; lane < 32; ++lane) {
    if (!(mask >> lane & 1)) continue;
    const size_t agent = agent_of(self, *static_cast<Thread*>(lanes[lane]));
    self.seen[agent] = seen;
    self.fenced[agent] = fenced;
    tick(self, agent);
  }
}

void arrive(const void* barrier, Thread* thread) {
  State& self = state();
  const size_t agent = agent_of(self, *thread);
  BarrierClock& clock = self.barriers[barrier];
  clock.open_seen.join(self.seen[agent]);
  if (self.has_fences) clock.open_fenced.join(self.fenced[agent]);
  tick(self, agent);
}

void complete(const void* barrier) {
  BarrierClock& clock = state().barriers[barrier];
  std::swap(clock.seen, clock.open_seen);
  std::swap(clock.fenced, clock.open_fenced);
  clock.open_seen.at.clear();
  clock.open_fenced.at.clear();
}

void acquire(const void* barrier, Thread* thread) {
  State& self = state();
  const size_t agent = agent_of(self, *thread);
  const BarrierClock& clock = self.barriers[barrier];
  self.seen[agent].join(clock.seen);
  if (self.has_fences) self.fenced[agent].join(clock.fenced);
}

void depart(const void* barrier, Thread* thread, bool last) {
  if (last) complete(barrier);
  acquire(barrier, thread);
}

// ---- Instructions

void read(const void* address, size_t bytes, const char* what, Site site) {
  access(address, bytes, false, place_of(what, site));
}

void write(const void* address, size_t bytes, const char* what, Site site) {
  access(address, bytes, true, place_of(what, site));
}

void atomic(const void* address, size_t bytes, const char* what, Site site) {
  State& self = state();
  const Place place = place_of(what, site);
  bool is_shared;
  if (!is_array(self, static_cast<const char*>(address), bytes, place, true, is_shared)) return;
  Access access = by_current(self, place, true, is_shared);
  access.is_atomic = true;
  touch(self, address, bytes, access);
}

void write_issued(const void* address, size_t bytes, const char* what, Site site) {
  State& self = state();
  write(address, bytes, what, site);
  self.shadow.each(address, bytes, [](Cell& cell, uintptr_t) { cell.in_flight = true; });
}

void write_landed(const void* address, size_t bytes, Thread* thread, const char* what, Site site) {
  State& self = state();
  const size_t agent = agent_of(self, *thread);
  const Access access = {
      agent, self.seen[agent][agent], &self.seen[agent], place_of(what, site), true, false, true};
  self.shadow.each(address, bytes, [&](Cell& cell, uintptr_t) { note_write(self, cell, access); });
}

void write_landed(const void* address, size_t bytes, const void* mbarrier, const char* what,
                  Site site) {
  State& self = state();
  const size_t agents = self.threads + self.wgmma.size() + self.mbarriers.size();
  auto& landings = self.mbarriers.try_emplace(mbarrier, State::Landings{agents, 0}).first->second;
  ++landings.clock;
  self.barriers[mbarrier].open_seen.set(landings.agent, landings.clock);
  const Access access = {landings.agent, landings.clock, nullptr, place_of(what, site),
                         true,           false,          true};
  self.shadow.each(address, bytes, [&](Cell& cell, uintptr_t) { note_write(self, cell, access); });
}

// ---- The async proxy's reads

void fence_proxy(Thread* thread) {
  State& self = state();
  const size_t agent = agent_of(self, *thread);
  self.has_fences = true;
  self.fenced[agent].join(self.seen[agent]);
  tick(self, agent);
}

AsyncRead issue_read(const char* what, Site site, bool warpgroup) {
  State& self = state();
  const size_t own = agent_of(self, *current);
  const size_t first = warpgroup ? own - current->linear % 128 : own;
  const size_t count = warpgroup ? 128 : 1;
  AsyncRead read = {self.seen[first].at, self.fenced[first].at, what, site};
  for (size_t i = first; i < first + count; ++i) {
    const auto least = [](std::vector<Clock>& clocks, const VectorClock& theirs) {
      if (theirs.at.size() < clocks.size()) clocks.resize(theirs.at.size());
      for (size_t agent = 0; agent < clocks.size(); ++agent)
        if (theirs.at[agent] < clocks[agent]) clocks[agent] = theirs.at[agent];
    };
    least(read.seen, self.seen[i]);
    least(read.fenced, self.fenced[i]);
    tick(self, i);
  }
  return read;
}

void check_read(const AsyncRead& read, const void* address, size_t bytes) {
  State& self = state();
  const auto what = [&] { return std::string(read.what) + " at " + describe_site(read.site); };
  const Block* const block = block_of(address);
  if (!block || !is_in_shared_array(*block, address, bytes))
    fail("out of bounds: %s reads %zu bytes outside every array of shared memory", what().c_str(),
         bytes);
  const auto knows = [](const std::vector<Clock>& clocks, const Cell& cell) {
    return cell.write_agent < clocks.size() && clocks[cell.write_agent] >= cell.write_clock;
  };
  self.shadow.each(address, bytes, [&](Cell& cell, uintptr_t at) {
    if (cell.write_turn != self.turn) never_written(what(), at);
    if (cell.in_flight) in_flight(cell, what(), at);
    if (!knows(read.seen, cell))
      fail("race: %s and %s by %s, at %s, have no order", what().c_str(),
           describe_place(cell.write_place, true).c_str(),
           describe_agent(self, cell.write_agent).c_str(),
           describe_bytes(reinterpret_cast<void*>(at)).c_str());
    if (cell.write_agent < self.threads && !knows(read.fenced, cell))
      fail("proxy: no fence_proxy_async between %s by %s and %s, at %s",
           describe_place(cell.write_place, true).c_str(),
           describe_agent(self, cell.write_agent).c_str(), what().c_str(),
           describe_bytes(reinterpret_cast<void*>(at)).c_str());
  });
}

void read_ends(Block& block, unsigned warpgroup) {
  State& self = state();
  const size_t agent = agent_of(self, block, warpgroup);
  const Clock clock = ++self.wgmma[agent - self.threads];
  const size_t first = block.rank * self.threads_each + warpgroup * 128;
  for (size_t i = first; i < first + 128; ++i) self.seen[i].set(agent, clock);
}

namespace {

void land(State& self, const AsyncRead& read, const void* address, size_t bytes, size_t agent,
          Clock clock) {
  check_read(read, address, bytes);
  const Place place = place_of(read.what, read.site);
  self.shadow.each(address, bytes, [&](Cell& cell, uintptr_t) {
    note_read(self, cell, agent, clock, place, true);
  });
}

}  // namespace

void read_landed(const AsyncRead& read, const void* address, size_t bytes, Thread* thread) {
  State& self = state();
  const size_t agent = agent_of(self, *thread);
  land(self, read, address, bytes, agent, self.seen[agent][agent]);
}

void read_landed(const AsyncRead& read, const void* address, size_t bytes, Block& block,
                 unsigned warpgroup) {
  State& self = state();
  const size_t agent = agent_of(self, block, warpgroup);
  land(self, read, address, bytes, agent, self.wgmma[agent - self.threads]);
}

}  // namespace polylora::emulator::race

#endif
