#include "runtime/heap.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <new>

#include "runtime/red_zone.h"

namespace polylora {

namespace {

std::atomic<uint64_t> allocations{0};
std::atomic<uint64_t> fault_at{0};
std::atomic<uint64_t> held_bytes{0};

bool is_faulty() { return ++allocations == fault_at.load(std::memory_order_relaxed); }

pl_status injected_fault(uint64_t bytes) {
  return make_status(PL_OUT_OF_MEMORY, "%s of memory were refused, as a test has asked for",
                     format_bytes(bytes).c_str());
}

constexpr size_t kAlignment = 64;
constexpr size_t kHugePage = size_t(2) << 20;
constexpr size_t kPage = 4096;
constexpr size_t kSmall = size_t(32) << 10;  // the largest small block
constexpr size_t kSmallRegion = size_t(1) << 20;
constexpr size_t kLargeRegion = size_t(32) << 20;

inline size_t round_up(size_t bytes, size_t multiple) {
  return (bytes + multiple - 1) / multiple * multiple;
}

}  // namespace

void* map_memory(size_t bytes) {
  const bool huge = bytes >= kHugePage;
  const size_t slack = huge ? kHugePage : 0;
  void* mapped =
      mmap(nullptr, bytes + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  if (!huge) return mapped;
  unsigned char* start = static_cast<unsigned char*>(mapped);
  unsigned char* aligned =
      reinterpret_cast<unsigned char*>(round_up(reinterpret_cast<size_t>(start), kHugePage));
  if (aligned != start) munmap(start, size_t(aligned - start));
  const size_t tail = slack - size_t(aligned - start);
  if (tail != 0) munmap(aligned + round_up(bytes, kPage), tail);
  madvise(aligned, bytes, MADV_HUGEPAGE);  // advice: without it the memory is only slower
  return aligned;
}

void unmap_memory(void* base, size_t bytes) {
  allow(base, bytes);  // for whatever is mapped there next
  munmap(base, bytes);
}

Heap::Heap(uint64_t budget, std::function<void(void* base, size_t bytes)> retire)
    : Heap(budget, std::move(retire), {map_memory, unmap_memory}) {}

Heap::~Heap() {
  for (const auto& region : regions_) {
    for (Block* block = region->first; block;) {
      Block* next = block->next;
      delete block;
      block = next;
    }
    unmap(*region);
  }
}

pl_status Heap::map(size_t bytes, void** base) {
  if (lender_) return lender_->take(bytes, true, base);
  *base = source_.map(bytes);
  if (*base) {
    held_bytes += bytes;
    return ok_status();
  }
  return make_status(PL_OUT_OF_MEMORY,
                     "the system refused %s of memory, with %s of the device's budget of %s in use",
                     format_bytes(bytes).c_str(), format_bytes(used_).c_str(),
                     format_bytes(budget_).c_str());
}

void Heap::unmap(const Region& region) {
  if (lender_) return lender_->release(region.base);
  held_bytes -= region.bytes;
  source_.unmap(region.base, region.bytes);
}

pl_status Heap::make_room(uint64_t bytes) {
  if (reserved_ <= budget_ && bytes <= budget_ - reserved_) return ok_status();
  trim_locked();
  if (reserved_ <= budget_ && bytes <= budget_ - reserved_) return ok_status();
  return make_status(PL_OUT_OF_MEMORY,
                     "%s of memory are needed, but of the device's budget of %s, %s are in use "
                     "(%s with what fragments hold)",
                     format_bytes(bytes).c_str(), format_bytes(budget_).c_str(),
                     format_bytes(used_).c_str(), format_bytes(reserved_).c_str());
}

Heap::Block* Heap::grow(size_t bytes, bool small, pl_status* status) {
  const size_t least = lender_ ? bytes : round_up(bytes, kPage);
  // The gaps of the lender, which a large region would not fit into, serve single blocks.
  const size_t usual = small     ? kSmallRegion
                       : lender_ ? bytes
                                 : std::max(round_up(bytes, kHugePage), kLargeRegion);
  // Near the budget a region is no larger than its first block.
  for (size_t size : {usual, least}) {
    *status = make_room(size);
    if (status->code != PL_OK) continue;
    auto region = std::make_unique<Region>();
    auto block = std::make_unique<Block>();
    void* base = nullptr;
    *status = map(size, &base);
    if (status->code != PL_OK) continue;
    *region = {static_cast<unsigned char*>(base), size, small, block.get()};
    *block = {region.get(), region->base, size, true, false, nullptr, nullptr};
    try {
      free_[small].insert(block.get());
      regions_.push_back(std::move(region));
    } catch (...) {
      free_[small].erase(block.get());
      unmap(*region);
      throw;
    }
    reserved_ += size;
    return block.release();
  }
  return nullptr;
}

pl_status Heap::allocate(uint64_t bytes, void** data) { return take(bytes, false, data); }

pl_status Heap::take(uint64_t bytes, bool lent, void** data) {
  *data = nullptr;
  if (bytes > uint64_t(1) << 62)
    return make_status(PL_OUT_OF_MEMORY, "%llu bytes of memory are more than any device has",
                       static_cast<unsigned long long>(bytes));
  if (is_faulty()) return injected_fault(bytes);
  const size_t size = round_up(std::max<size_t>(bytes, 1), kAlignment);
  const bool small = size <= kSmall;
  std::lock_guard<std::mutex> lock(mutex_);
  try {
    Block key{nullptr, nullptr, size, true, false, nullptr, nullptr};
    const auto found = free_[small].lower_bound(&key);
    Block* block;
    if (found != free_[small].end()) {
      block = *found;
    } else {
      pl_status status;
      block = grow(size, small, &status);
      if (!block) return status;
    }
    std::unique_ptr<Block> rest;
    if (block->bytes > size) rest = std::make_unique<Block>();
    live_.emplace(block->data, block);
    // The node that the block leaves behind serves the rest: nothing below can fail.
    auto node = free_[small].extract(block);
    block->free = false;
    block->lent = lent;
    if (rest) {
      *rest = {block->region, block->data + size, block->bytes - size, true, false,
               block,         block->next};
      if (block->next) block->next->previous = rest.get();
      block->next = rest.get();
      block->bytes = size;
      node.value() = rest.release();
      free_[small].insert(std::move(node));
    }
    if (!lent) used_ += block->bytes;
    peak_ = std::max(peak_, used_);
    *data = block->data;
    return ok_status();
  } catch (const std::bad_alloc&) {
    return make_status(PL_OUT_OF_MEMORY, "the system refused memory for the heap's own records");
  }
}

void Heap::release(void* data) {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto found = live_.find(data);
  if (found == live_.end()) return;
  Block* block = found->second;
  live_.erase(found);
  if (!block->lent) used_ -= block->bytes;
  block->free = true;
  FreeBlocks& blocks = free_[block->region->small];
  if (Block* next = block->next; next && next->free) {
    blocks.erase(next);
    block->bytes += next->bytes;
    block->next = next->next;
    if (next->next) next->next->previous = block;
    delete next;
  }
  if (Block* previous = block->previous; previous && previous->free) {
    auto node = blocks.extract(previous);
    previous->bytes += block->bytes;
    previous->next = block->next;
    if (block->next) block->next->previous = previous;
    delete block;
    blocks.insert(std::move(node));
    return;
  }
  try {
    blocks.insert(block);
  } catch (const std::bad_alloc&) {
    // It is found again when a neighbour is released.
  }
}

bool Heap::owns(void* data) const {
  std::lock_guard<std::mutex> lock(mutex_);
  return live_.count(data) != 0;
}

pl_status Heap::lend(uint64_t bytes) {
  if (is_faulty()) return injected_fault(bytes);
  std::lock_guard<std::mutex> lock(mutex_);
  const pl_status status = make_room(bytes);
  if (status.code == PL_OK) reserved_ += bytes;
  return status;
}

void Heap::give_back(uint64_t bytes) {
  std::lock_guard<std::mutex> lock(mutex_);
  reserved_ -= bytes;
}

void Heap::trim() {
  std::lock_guard<std::mutex> lock(mutex_);
  trim_locked();
}

void Heap::trim_locked() {
  const auto is_free = [](const std::unique_ptr<Region>& region) {
    return region->first->free && region->first->bytes == region->bytes;
  };
  const auto first = std::stable_partition(regions_.begin(), regions_.end(),
                                           [&](const auto& region) { return !is_free(region); });
  for (auto it = first; it != regions_.end(); ++it) {
    free_[(*it)->small].erase((*it)->first);
    delete (*it)->first;
    reserved_ -= (*it)->bytes;
    if (lender_) {
      lender_->release((*it)->base);
      continue;
    }
    held_bytes -= (*it)->bytes;
    retire_((*it)->base, (*it)->bytes);
  }
  regions_.erase(first, regions_.end());
}

uint64_t Heap::inject_fault(uint64_t nth) {
  fault_at = 0;
  const uint64_t count = allocations.exchange(0);
  fault_at = nth;
  return count;
}

uint64_t Heap::held() { return held_bytes; }

Heap::Usage Heap::usage() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return {budget_, used_, reserved_, peak_};
}

}  // namespace polylora
