// Memory of a stream: best fit with coalescing over regions that come from mmap, or from a device.
//
// Everything that touches a block runs in the order of the stream's queue, so a released block may
// be handed out again at once, and the heap's own records, kept on the callers' threads, are ahead
// of what runs. For the same reason a region that is given back is unmapped by the queue, when it
// gets there, yet stops counting at once: whatever takes its place is first touched later still.
//
// `reserved` counts whole regions, and host memory that is lent to the queue; it never exceeds the
// budget.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <unordered_map>
#include <vector>

#include "runtime/status.h"

namespace polylora {

class Heap {
 public:
  struct Usage {
    uint64_t budget, used, reserved, peak;
  };

  // Where regions come from: what map_memory() and unmap_memory() do for the host.
  struct Source {
    std::function<void*(size_t bytes)> map;
    std::function<void(void* base, size_t bytes)> unmap;
  };

  // `retire` unmaps a region in stream order.
  Heap(uint64_t budget, std::function<void(void* base, size_t bytes)> retire);
  Heap(uint64_t budget, std::function<void(void* base, size_t bytes)> retire, Source source)
      : budget_(budget), retire_(std::move(retire)), source_(std::move(source)) {}
  // The regions are blocks of the lender, which outlives it: its reserve, but not what it calls
  // used.
  explicit Heap(Heap& lender) : budget_(UINT64_MAX), lender_(&lender) {}
  // Unmaps everything at once: the queue has ended.
  ~Heap();
  Heap(const Heap&) = delete;
  Heap& operator=(const Heap&) = delete;

  // 64-byte aligned; not null for 0 bytes.
  pl_status allocate(uint64_t bytes, void** data);
  void release(void* data);
  // Whether it is the begin of a block that is in use.
  bool owns(void* data) const;

  // Counts host memory against the budget; free regions make room.
  pl_status lend(uint64_t bytes);
  void give_back(uint64_t bytes);

  // Retires every region that is entirely free.
  void trim();

  Usage usage() const;

  // For tests: the nth allocation or loan of any heap from now on fails; 0: none. Returns how many
  // there have been since it was called last.
  static uint64_t inject_fault(uint64_t nth);
  // For tests: the bytes of all regions of all heaps in this process.
  static uint64_t held();

 private:
  struct Region;
  struct Block {
    Region* region;
    unsigned char* data;
    size_t bytes;
    bool free;
    bool lent;        // to another heap, as a region
    Block* previous;  // neighbours in the region
    Block* next;
  };
  // Small blocks have regions of their own, so that they do not hold large ones open.
  struct Region {
    unsigned char* base;
    size_t bytes;
    bool small;
    Block* first;
  };
  struct Smaller {
    bool operator()(const Block* a, const Block* b) const {
      return a->bytes != b->bytes ? a->bytes < b->bytes : a->data < b->data;
    }
  };
  using FreeBlocks = std::set<Block*, Smaller>;

  pl_status take(uint64_t bytes, bool lent, void** data);
  pl_status make_room(uint64_t bytes);
  pl_status map(size_t bytes, void** base);
  void unmap(const Region& region);
  Block* grow(size_t bytes, bool small, pl_status* status);
  void trim_locked();

  const uint64_t budget_;
  const std::function<void(void* base, size_t bytes)> retire_;
  const Source source_;
  Heap* const lender_ = nullptr;
  mutable std::mutex mutex_;
  std::vector<std::unique_ptr<Region>> regions_;
  FreeBlocks free_[2];  // large, small
  std::unordered_map<void*, Block*> live_;
  uint64_t used_ = 0;
  uint64_t reserved_ = 0;
  uint64_t peak_ = 0;
};

// Anonymous memory; regions of 2 MiB and more start on a huge page. Null if it cannot be had.
void* map_memory(size_t bytes);
void unmap_memory(void* base, size_t bytes);

}  // namespace polylora
