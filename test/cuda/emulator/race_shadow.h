// What race mode remembers of memory: for every word who wrote it last, and who has read it since.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

namespace polylora::emulator::race {

// Agents have a clock each: the threads of a cluster, then its warpgroups' wgmma, then its
// mbarriers for what lands at them.
using Clock = uint32_t;

struct VectorClock {
  std::vector<Clock> at;

  Clock operator[](size_t agent) const { return agent < at.size() ? at[agent] : 0; }
  void set(size_t agent, Clock clock) {
    if (agent >= at.size()) at.resize(agent + 1, 0);
    at[agent] = clock;
  }
  void join(const VectorClock& other) {
    if (other.at.size() > at.size()) at.resize(other.at.size(), 0);
    const Clock* const theirs = other.at.data();
    for (size_t i = 0; i < other.at.size(); ++i)
      if (theirs[i] > at[i]) at[i] = theirs[i];
  }
};

// Where an access stands in the source: a return address, or (with the highest bit) a Site and what
// it does.
using Place = uint64_t;

// Of four bytes, or once bytes of it were accessed apart, of one. A turn is the run of one cluster;
// what is of an earlier one is over for shared memory, and concurrent for the rest of the launch's.
struct Cell {
  uint32_t write_turn, read_turn;
  uint32_t other_turn;  // of an earlier cluster that has read it
  Clock write_clock;
  uint32_t readers;  // of read_turn; see ReaderSets
  uint16_t write_agent;
  bool in_flight, is_atomic, is_split;
  Place write_place;  // of a split word: the index of its bytes' cells
  Place read_place;   // the last one's
  Place other_place;
};

// The cells of the memory that was touched, by pages.
class Shadow {
 public:
  // Calls body(cell, address) for all bytes from `address`, word by word where that will do.
  template <class Body>
  void each(const void* address, size_t bytes, Body body) {
    auto at = reinterpret_cast<uintptr_t>(address);
    const uintptr_t end = at + bytes;
    while (at < end) {
      Page& page = page_of(at);
      Cell& word = page.cells[at % kPageBytes / 4];
      if (at % 4 == 0 && end - at >= 4 && !word.is_split) {
        body(word, at);
        at += 4;
        continue;
      }
      auto& apart = page.split(word);
      do {
        body(apart[at % 4], at);
        ++at;
      } while (at % 4 && at < end);
    }
  }
  // Whole pages only.
  void forget(const void* address, size_t bytes) {
    const auto begin = reinterpret_cast<uintptr_t>(address), end = begin + bytes;
    for (uintptr_t number = (begin + kPageBytes - 1) / kPageBytes; (number + 1) * kPageBytes <= end;
         ++number)
      pages_.erase(number);
    recent_ = {};
  }

 private:
  static constexpr uintptr_t kPageBytes = 4096;
  struct Page {
    std::array<Cell, kPageBytes / 4> cells = {};
    std::vector<std::unique_ptr<std::array<Cell, 4>>> bytes;

    std::array<Cell, 4>& split(Cell& word) {
      if (!word.is_split) {
        bytes.push_back(std::make_unique<std::array<Cell, 4>>());
        bytes.back()->fill(word);
        word.is_split = true;
        word.write_place = bytes.size() - 1;
      }
      return *bytes[size_t(word.write_place)];
    }
  };
  struct Recent {
    uintptr_t number;
    Page* page;
  };

  Page& page_of(uintptr_t address) {
    const uintptr_t number = address / kPageBytes;
    Recent& recent = recent_[number % recent_.size()];
    if (!recent.page || recent.number != number) {
      auto& page = pages_[number];
      if (!page) page = std::make_unique<Page>();
      recent = {number, page.get()};
    }
    return *recent.page;
  }

  std::unordered_map<uintptr_t, std::unique_ptr<Page>> pages_;
  std::array<Recent, 256> recent_ = {};
};

// Sets of readers, each with the clock of its last read. A set is a chain of readers and the same
// for all cells that the same threads have read in the same order, so that tiles share them. 0 is
// the empty one.
class ReaderSets {
 public:
  void clear() {
    chain_.resize(1);
    next_.clear();
    recent_ = {};
  }
  uint32_t add(uint32_t set, uint16_t agent, Clock clock) {
    const Link link = {set, clock, agent};
    if (set && chain_[set].agent == agent && chain_[set].clock == clock) return set;
    Recent& recent = recent_[(set * 31 + agent) % recent_.size()];
    if (!(recent.link == link)) {
      const auto [found, is_new] = next_.try_emplace(link, uint32_t(chain_.size()));
      if (is_new) chain_.push_back(link);
      recent = {link, found->second};
    }
    return recent.set;
  }
  template <class Body>
  void each(uint32_t set, Body body) const {
    for (; set; set = chain_[set].rest) body(chain_[set].agent, chain_[set].clock);
  }

 private:
  struct Link {
    uint32_t rest = 0;
    Clock clock = 0;
    uint16_t agent = 0;
    bool operator==(const Link& other) const {
      return rest == other.rest && clock == other.clock && agent == other.agent;
    }
  };
  struct Hash {
    size_t operator()(const Link& link) const {
      return ((uint64_t(link.rest) << 32 | link.clock) * 0x9E3779B97F4A7C15u) ^
             (uint64_t(link.agent) * 0xC2B2AE3D27D4EB4Fu);
    }
  };
  struct Recent {
    Link link;  // clock 0 is nobody's
    uint32_t set = 0;
  };
  std::vector<Link> chain_ = std::vector<Link>(1);
  std::unordered_map<Link, uint32_t, Hash> next_;
  std::array<Recent, 1024> recent_;
};

}  // namespace polylora::emulator::race
