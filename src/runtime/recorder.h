// Operations that are kept instead of queued (src/kernels.h, recordings): the state of a stream
// while one of its callers records, and the memory that recorded operations use.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <new>
#include <thread>
#include <utility>
#include <vector>

#include "runtime/queue.h"

namespace polylora {

// Each recording has a heap of its own, of the device's kind, to which the stream's heap lends.
// What is free in it is still the recording's: it gives nothing back before the recording ends.
template <class StreamHeap>
class Recorder {
 public:
  struct Recording {
    std::vector<std::unique_ptr<Task>> tasks;
    std::unique_ptr<StreamHeap> heap;
  };

  // Only of the thread that records; the others queue as ever.
  bool is_recording() const {
    return thread_.load(std::memory_order_relaxed) == std::this_thread::get_id();
  }

  // `make_heap` gives a std::unique_ptr<StreamHeap>.
  template <class Make>
  pl_status begin(Make make_heap) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (open_.heap) return make_status(PL_ARGUMENT, "a recording is under way");
    try {
      abandoned_.reserve(abandoned_.size() + 1);
      open_.heap = make_heap();
    } catch (const std::bad_alloc&) {
      return make_status(PL_OUT_OF_MEMORY, "the system refused memory for a recording");
    }
    ++heaps_;
    thread_.store(std::this_thread::get_id());
    return ok_status();
  }

  // While this thread records.
  void add(std::unique_ptr<Task> task) { open_.tasks.push_back(std::move(task)); }
  StreamHeap& heap() { return *open_.heap; }

  // What was kept; null drops it. Fails if what was allocated meanwhile is still in use.
  pl_status end(Recording* recording) {
    if (!is_recording()) return make_status(PL_ARGUMENT, "no recording is under way");
    thread_.store({});
    std::lock_guard<std::mutex> lock(mutex_);
    Recording ended = std::exchange(open_, {});
    const uint64_t used = ended.heap->usage().used;
    if (used != 0) {
      abandoned_.push_back(std::move(ended.heap));
      if (!recording) return ok_status();
      return make_status(PL_ARGUMENT,
                         "%s that were allocated while recording are in use at its end; what "
                         "outlives a recording must be made before it",
                         format_bytes(used).c_str());
    }
    --heaps_;
    if (recording)
      *recording = std::move(ended);
    else
      ended.heap->trim();
    return ok_status();
  }

  // Of a block that was allocated while recording; false if it was not.
  bool release(void* data) {
    if (heaps_.load() == 0) return false;
    std::lock_guard<std::mutex> lock(mutex_);
    if (open_.heap && open_.heap->owns(data)) {
      open_.heap->release(data);
      return true;
    }
    const auto found = std::find_if(abandoned_.begin(), abandoned_.end(),
                                    [data](const auto& heap) { return heap->owns(data); });
    if (found == abandoned_.end()) return false;
    (*found)->release(data);
    if ((*found)->usage().used == 0) {
      (*found)->trim();
      abandoned_.erase(found);
      --heaps_;
    }
    return true;
  }

  // Bytes that are allocated and not a recording's yet.
  uint64_t used() {
    if (heaps_.load() == 0) return 0;
    std::lock_guard<std::mutex> lock(mutex_);
    uint64_t bytes = open_.heap ? open_.heap->usage().used : 0;
    for (const auto& heap : abandoned_) bytes += heap->usage().used;
    return bytes;
  }

  // Gives all memory back: nothing is queued any more.
  void close() {
    open_ = {};
    abandoned_.clear();
  }

 private:
  std::atomic<std::thread::id> thread_{};
  std::atomic<int> heaps_{0};
  std::mutex mutex_;
  Recording open_;
  std::vector<std::unique_ptr<StreamHeap>> abandoned_;  // something in them outlived its recording
};

// What a copy, a callback or a new weight answers there.
inline pl_status not_recordable(const char* what) {
  return make_status(PL_UNSUPPORTED, "%s cannot be recorded", what);
}

}  // namespace polylora
