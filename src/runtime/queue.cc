#include "runtime/queue.h"

#include <pthread.h>

#include <chrono>
#include <new>
#include <system_error>

namespace polylora {

namespace {

// Waking a thread costs its caller some microseconds; spinning longer would burn a processor that
// others could use.
constexpr auto kSpin = std::chrono::microseconds(50);

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

pl_status Queue::start(std::function<pl_status()> begin, std::function<void()> end) {
  end_ = std::move(end);
  std::mutex mutex;
  std::condition_variable done;
  bool began = false;
  pl_status status = ok_status();
  begin_ = [&, begin = std::move(begin)] {
    pl_status result = begin();
    std::lock_guard<std::mutex> lock(mutex);
    status = result;
    began = true;
    done.notify_one();
    return result;
  };
  try {
    thread_ = std::thread([this] { thread_main(); });
  } catch (const std::system_error& error) {
    return make_status(PL_DEVICE, "the stream's thread could not be started: %s", error.what());
  }
  {
    std::unique_lock<std::mutex> lock(mutex);
    done.wait(lock, [&] { return began; });
  }
  if (status.code != PL_OK) {
    thread_.join();
    return status;
  }
  std::lock_guard<std::mutex> lock(mutex_);
  open_ = true;
  return status;
}

bool Queue::append(std::unique_ptr<Task>& task) {
  bool wake;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!open_) return false;
    depth_.fetch_add(1, std::memory_order_relaxed);
    Task* added = task.get();
    if (last_)
      last_->next_ = std::move(task);
    else
      first_ = std::move(task);
    last_ = added;
    has_tasks_.store(true, std::memory_order_release);
    wake = sleeping_;
    sleeping_ = false;
  }
  if (wake) wake_.notify_one();
  return true;
}

pl_status Queue::push(std::unique_ptr<Task> task) {
  if (depth_.load(std::memory_order_relaxed) >= capacity_)
    return make_status(PL_DEVICE,
                       "the device's queue is full: %llu operations are waiting; await something "
                       "(synchronize, a read) before queueing more",
                       static_cast<unsigned long long>(capacity_));
  if (append(task)) return ok_status();
  return make_status(PL_DEVICE, "the device is closed");
}

void Queue::push_always(std::unique_ptr<Task> task) {
  if (!append(task)) task->execute(make_status(PL_DEVICE, "the device is closed"));
}

void Queue::close() {
  closing_.store(true, std::memory_order_release);
  {
    std::lock_guard<std::mutex> lock(mutex_);
    open_ = false;
    sleeping_ = false;
  }
  wake_.notify_one();
  if (thread_.joinable()) thread_.join();
}

std::unique_ptr<Task> Queue::take() {
  const auto deadline = std::chrono::steady_clock::now() + kSpin;
  while (!has_tasks_.load(std::memory_order_acquire) && !closing_.load(std::memory_order_relaxed) &&
         std::chrono::steady_clock::now() < deadline)
    pause();
  std::unique_lock<std::mutex> lock(mutex_);
  while (!first_ && !closing_.load(std::memory_order_relaxed)) {
    sleeping_ = true;
    wake_.wait(lock);
  }
  sleeping_ = false;
  has_tasks_.store(false, std::memory_order_relaxed);
  last_ = nullptr;
  return std::move(first_);
}

void Queue::thread_main() {
  pthread_setname_np(pthread_self(), "polylora-stream");
  // start() is gone once begin_ has returned.
  const pl_status began = begin_();
  begin_ = nullptr;
  if (began.code != PL_OK) return;
  for (;;) {
    std::unique_ptr<Task> task = take();
    if (!task) {
      // A task may have been added between the last look and the lock that ended push.
      std::lock_guard<std::mutex> lock(mutex_);
      if (!first_ && !open_) break;
      continue;
    }
    while (task) {
      if (closing_.load(std::memory_order_acquire) && state_.code == PL_OK)
        state_ = make_status(PL_DEVICE, "the device was closed before this had run");
      try {
        task->execute(state_);
      } catch (const std::bad_alloc&) {
        if (state_.code == PL_OK)
          state_ = make_status(PL_DEVICE, "memory ran out while an operation ran");
      } catch (const std::exception& error) {
        if (state_.code == PL_OK) state_ = make_status(PL_DEVICE, "%s", error.what());
      } catch (...) {
        if (state_.code == PL_OK)
          state_ = make_status(PL_DEVICE, "an operation failed for an unknown reason");
      }
      // Not by assignment from task->next_: that would destroy a chain recursively.
      std::unique_ptr<Task> next = std::move(task->next_);
      task = std::move(next);
      depth_.fetch_sub(1, std::memory_order_release);
    }
  }
  end_();
}

}  // namespace polylora
