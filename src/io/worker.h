// The thread that does file work for one JavaScript environment, in order; libuv's pool is left
// alone.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

namespace polylora::io {

class Worker {
 public:
  ~Worker() { stop(); }

  // Starts the thread at the first job. Jobs do not throw.
  void push(std::function<void()> job);
  // Long jobs look here between their pieces.
  bool cancelled() const { return cancelled_.load(std::memory_order_relaxed); }
  void cancel() { cancelled_.store(true, std::memory_order_relaxed); }
  // Waits for the job that runs; the others run with cancelled() true.
  void stop();

 private:
  void thread_main();

  std::atomic<bool> cancelled_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> jobs_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace polylora::io
