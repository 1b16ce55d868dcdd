#include "cpu/pool.h"

#include <pthread.h>
#include <sys/mman.h>

#include <chrono>
#include <new>

#include "runtime/red_zone.h"

namespace polylora::cpu {

namespace {

// Sleeping and waking costs more than most kernels; spinning longer would burn a core that others
// could use.
constexpr auto kSpin = std::chrono::microseconds(50);

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

void unmap_scratch(const std::vector<Worker>& workers) {
  for (const Worker& worker : workers) {
    allow(worker.scratch, kScratchBytes + kRedZone);  // for whatever is mapped there next
    munmap(worker.scratch, kScratchBytes + kRedZone);
  }
}

}  // namespace

Pool::Pool(int threads, InstructionSet set) : instruction_set_(set) {
  for (int i = 0; i < threads; ++i) {
    void* scratch = mmap(nullptr, kScratchBytes + kRedZone, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (scratch == MAP_FAILED) {
      unmap_scratch(workers_);
      throw std::bad_alloc();
    }
    workers_.push_back({i, static_cast<unsigned char*>(scratch)});
    forbid(workers_.back().scratch + kScratchBytes, kRedZone);
  }
  try {
    for (int i = 1; i < threads; ++i) helpers_.emplace_back([this, i] { thread_main(i); });
  } catch (...) {
    // The system has no thread left: those that run must end before this throws.
    shut_down();
    throw;
  }
}

Pool::~Pool() { shut_down(); }

void Pool::shut_down() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_.store(true);
  }
  wake_.notify_all();
  for (std::thread& helper : helpers_) helper.join();
  unmap_scratch(workers_);
}

void Pool::run(int64_t count, Call call, void* context) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    count_ = count;
    call_ = call;
    context_ = context;
    next_.store(0, std::memory_order_relaxed);
    generation_.fetch_add(1, std::memory_order_release);
  }
  wake_.notify_all();
  work(workers_[0], count, call, context);
  {
    // No helper joins a job whose indices are all taken: after this, only those already active are
    // waited for.
    std::lock_guard<std::mutex> lock(mutex_);
    call_ = nullptr;
  }
  for (int spins = 0; active_.load(std::memory_order_acquire) != 0; ++spins) {
    // A helper that lost its processor may need ours.
    if (spins < 1024)
      pause();
    else
      std::this_thread::yield();
  }
  if (error_) {
    std::exception_ptr error = error_;
    error_ = nullptr;
    std::rethrow_exception(error);
  }
}

void Pool::work(Worker& worker, int64_t count, Call call, void* context) {
  for (;;) {
    const int64_t index = next_.fetch_add(1, std::memory_order_relaxed);
    if (index >= count) return;
    try {
      call(context, index, worker);
    } catch (...) {
      std::lock_guard<std::mutex> lock(error_mutex_);
      if (!error_) error_ = std::current_exception();
      next_.store(count, std::memory_order_relaxed);
    }
  }
}

void Pool::thread_main(int index) {
  pthread_setname_np(pthread_self(), "polylora");
  uint64_t seen = 0;
  for (;;) {
    const auto deadline = std::chrono::steady_clock::now() + kSpin;
    while (generation_.load(std::memory_order_acquire) == seen &&
           !stop_.load(std::memory_order_relaxed) && std::chrono::steady_clock::now() < deadline)
      pause();
    int64_t count;
    Call call;
    void* context;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [&] { return stop_.load() || generation_.load() != seen; });
      if (stop_.load()) return;
      seen = generation_.load();
      if (!call_) continue;
      // The job's own copy: run() clears call_ while helpers still work on what they have claimed.
      count = count_;
      call = call_;
      context = context_;
      active_.fetch_add(1, std::memory_order_acq_rel);
    }
    work(workers_[size_t(index)], count, call, context);
    active_.fetch_sub(1, std::memory_order_acq_rel);
  }
}

}  // namespace polylora::cpu
