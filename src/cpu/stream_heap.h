// The heap of a CPU stream. Under AddressSanitizer every byte of it that is in no block is
// forbidden, so that an overrun is reported where it happens, and so is what reads a tensor after
// its release has come round in the queue.
#pragma once

#include <functional>
#include <mutex>
#include <unordered_map>

#include "runtime/heap.h"
#include "runtime/red_zone.h"

namespace polylora::cpu {

// Runs what it is given in stream order, or, for the heap of a recording, with every replay.
using PushTask = std::function<void(std::function<void()>)>;

#ifndef POLYLORA_ADDRESS_SANITIZER

class StreamHeap : public Heap {
 public:
  StreamHeap(uint64_t budget, const PushTask& push_always)
      : Heap(budget, [push_always](void* base, size_t bytes) {
          push_always([base, bytes] { unmap_memory(base, bytes); });
        }) {}
  StreamHeap(Heap& lender, const PushTask&) : Heap(lender) {}
};

#else

// Which bytes are allowed changes in stream order too: what is queued may still use a block that is
// released here, and the block that takes its place.
class StreamHeap : public Heap {
 public:
  StreamHeap(uint64_t budget, const PushTask& push_always)
      : Heap(budget,
             [push_always](void* base, size_t bytes) {
               push_always([base, bytes] { unmap_memory(base, bytes); });
             },
             {[](size_t bytes) {
                void* base = map_memory(bytes);
                if (base) forbid(base, bytes);
                return base;
              },
              unmap_memory}),
        push_change_(push_always) {}
  StreamHeap(Heap& lender, const PushTask& push_change) : Heap(lender), push_change_(push_change) {}

  pl_status allocate(uint64_t bytes, void** data) {
    // Both orders, the heap's and the queue's, are one.
    std::lock_guard<std::mutex> lock(order_);
    const pl_status status = Heap::allocate(bytes + kRedZone, data);
    if (status.code != PL_OK) return status;
    bytes_of_[*data] = bytes;
    push_change_([data = *data, bytes] { allow(data, bytes); });
    return status;
  }

  void release(void* data) {
    std::lock_guard<std::mutex> lock(order_);
    const auto found = bytes_of_.find(data);
    if (found == bytes_of_.end()) return;
    push_change_([data, bytes = found->second] { forbid(data, bytes); });
    bytes_of_.erase(found);
    Heap::release(data);
  }

 private:
  const PushTask push_change_;
  std::mutex order_;
  std::unordered_map<void*, uint64_t> bytes_of_;
};

#endif

}  // namespace polylora::cpu
