// The workers of a CPU stream. The stream's thread is worker 0 and calls `parallel`; the others
// help.
//
// Determinism: which worker runs a piece is not fixed, so a piece must write only what belongs to
// its index, and sums over pieces are made in the order of the index, never of completion. How work
// is cut into pieces depends on shapes only, never on threads().
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "cpu/instruction_set.h"

namespace polylora::cpu {

// Thrown by a kernel on data it cannot work with (an index out of range). Fails the stream with
// this message.
struct KernelError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Scratch of one worker, 64-byte aligned, kept between operations: for packed tiles, sized for the
// L2 cache.
constexpr size_t kScratchBytes = size_t(2) << 20;

struct Worker {
  int index;
  unsigned char* scratch;  // kScratchBytes
  float* scratch_floats() { return reinterpret_cast<float*>(scratch); }
};

class Pool {
 public:
  Pool(int threads, InstructionSet set);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int threads() const { return int(workers_.size()); }
  InstructionSet instruction_set() const { return instruction_set_; }

  // Runs body(index, worker) for every index in [0, count), each once, and returns when all are
  // done. The first exception of a body is thrown here after the others have stopped. Not
  // reentrant.
  template <class Body>
  void parallel(int64_t count, Body&& body) {
    if (count <= 0) return;
    if (count == 1 || threads() == 1) {
      for (int64_t i = 0; i < count; ++i) body(i, workers_[0]);
      return;
    }
    auto call = [](void* context, int64_t index, Worker& worker) {
      (*static_cast<std::remove_reference_t<Body>*>(context))(index, worker);
    };
    run(count, call, const_cast<void*>(static_cast<const void*>(&body)));
  }

  // parallel over [0, total) in ranges of `grain`: body(begin, end, worker).
  template <class Body>
  void parallel_ranges(int64_t total, int64_t grain, Body&& body) {
    if (grain < 1) grain = 1;
    parallel((total + grain - 1) / grain, [&](int64_t index, Worker& worker) {
      const int64_t begin = index * grain;
      body(begin, begin + grain < total ? begin + grain : total, worker);
    });
  }

 private:
  using Call = void (*)(void* context, int64_t index, Worker& worker);

  void run(int64_t count, Call call, void* context);
  void work(Worker& worker, int64_t count, Call call, void* context);
  void thread_main(int index);
  void shut_down();

  InstructionSet instruction_set_;
  std::vector<Worker> workers_;
  std::vector<std::thread> helpers_;

  // One job at a time. A helper joins by taking the generation it has not seen; it is in `active_`
  // while it works, so that run() cannot return, and the job's fields cannot change, under it.
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<uint64_t> generation_{0};
  std::atomic<int> active_{0};
  std::atomic<int64_t> next_{0};
  std::atomic<bool> stop_{false};
  int64_t count_ = 0;
  Call call_ = nullptr;
  void* context_ = nullptr;
  std::mutex error_mutex_;
  std::exception_ptr error_;
};

}  // namespace polylora::cpu
