// The queue of one stream: a bounded first-in-first-out list that one thread works through.
//
// A failure is sticky: the first status that is not PL_OK stays, and every later task is told.
// Closing is such a failure too, so that a closed queue still calls each task once.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "runtime/status.h"

namespace polylora {

class Task {
 public:
  virtual ~Task() = default;
  // On the queue's thread, once. An operation does nothing if the stream has failed; what it throws
  // fails the stream.
  virtual void execute(const pl_status& state) = 0;

 private:
  friend class Queue;
  std::unique_ptr<Task> next_;
};

class Queue {
 public:
  explicit Queue(uint64_t capacity) : capacity_(capacity) {}
  ~Queue() { close(); }
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;

  // Starts the thread, runs `begin` on it and returns its status; `end` runs on it last.
  pl_status start(std::function<pl_status()> begin, std::function<void()> end);

  // The task is destroyed without being called if this fails: the queue is full or closed.
  pl_status push(std::unique_ptr<Task> task);
  // For what must happen, such as giving memory back: there is always room. On a closed queue the
  // task runs here.
  void push_always(std::unique_ptr<Task> task);

  // Tells what is queued that the stream is closed, waits for what runs, and ends the thread. Not
  // from a task.
  void close();

  // Tasks that have not finished. 0 also means that what they did is visible here.
  uint64_t depth() const { return depth_.load(std::memory_order_acquire); }

 private:
  void thread_main();
  std::unique_ptr<Task> take();
  bool append(std::unique_ptr<Task>& task);

  const uint64_t capacity_;
  std::function<pl_status()> begin_;
  std::function<void()> end_;
  std::thread thread_;
  std::atomic<uint64_t> depth_{0};
  std::atomic<bool> has_tasks_{false};
  std::atomic<bool> closing_{false};

  std::mutex mutex_;
  std::condition_variable wake_;
  bool sleeping_ = false;
  bool open_ = false;
  std::unique_ptr<Task> first_;
  Task* last_ = nullptr;

  pl_status state_ = ok_status();  // the thread's
};

}  // namespace polylora
