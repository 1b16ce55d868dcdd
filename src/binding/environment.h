// What one JavaScript environment (the main thread, or a worker) holds of the addon. Process-wide
// state there is none.
#pragma once

#include <node_api.h>

#include <atomic>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include "io/file.h"
#include "io/worker.h"
#include "kernels.h"
#include "runtime/failure.h"

namespace polylora::binding {

class Device;
class Environment;
struct Schemas;

// Thrown where a JavaScript exception is pending already.
struct Pending {};

// Turns a failed N-API call into Pending, or a Failure that names it.
void check(napi_env env, napi_status status);

// What a promise waits for. Made and destroyed on the JavaScript thread; filled in by another.
class Promise {
 public:
  virtual ~Promise() = default;
  // On the JavaScript thread, unless status or failure say otherwise.
  virtual napi_value value(napi_env env);

  pl_status status{};
  std::unique_ptr<Failure> failure;

 private:
  friend class Environment;
  Environment* environment_ = nullptr;
  napi_deferred deferred_ = nullptr;
  Promise* next_ = nullptr;
};

class Environment : public std::enable_shared_from_this<Environment> {
 public:
  // Makes the instance data of `env`. Throws what check throws.
  static void create(napi_env env);
  static Environment& of(napi_env env);
  ~Environment();

  // Keeps the process alive until `promise` is settled. `result` is the JavaScript promise.
  template <class T>
  T* expect(std::unique_ptr<T> promise, napi_value* result) {
    T* raw = promise.get();
    add(raw, result);
    return static_cast<T*>(promise.release());
  }
  // From any thread, once; gives the promise back.
  static void settle(Promise* promise) { promise->environment_->settle_promise(promise); }
  // The same for an outcome that is known at once.
  static void settle_with_status(void* promise, const pl_status* status);
  // A promise whose memory somebody may still write to: kept until the environment ends, and
  // rejected now.
  void abandon(Promise* promise);

  // Counts memory outside of V8's heap. V8 is told at the next turn of the event loop: what comes
  // and goes within a turn is no reason to collect garbage, and a training step would make V8 do so
  // all the time.
  void count_memory(int64_t change) { memory_change_ += change; }
  void report_memory_later();

  // Closes a stream on a thread of its own, then settles `promise` if there is one.
  void close_stream(const pl_device_table* table, pl_stream* stream, Promise* promise);

  napi_env env() const { return env_; }
  io::Worker& worker() { return worker_; }
  io::FileSystem& files() { return files_; }
  std::set<Device*>& devices() { return devices_; }
  const Schemas& schemas() const { return *schemas_; }
  // An array of the interned strings that Field::key indexes.
  napi_value keys(napi_env env) const;
  napi_value new_array_buffer(napi_env env, uint64_t bytes, void** data);
  bool is_resizable(napi_env env, napi_value array_buffer);

  // File locks, held until they are released or the environment ends.
  std::list<io::File> locks;

 private:
  explicit Environment(napi_env env);
  void initialize();
  void add(Promise* promise, napi_value* result);
  void settle_promise(Promise* promise);
  void drain();
  void report_memory();
  void tear_down();

  struct Closer {
    std::thread thread;
    std::atomic<bool> done{false};
  };

  napi_env env_;
  napi_threadsafe_function wake_ = nullptr;
  napi_ref keys_ = nullptr;
  napi_ref array_buffer_ = nullptr;
  napi_ref resizable_ = nullptr;
  std::unique_ptr<const Schemas> schemas_;
  uint64_t outstanding_ = 0;
  int64_t memory_change_ = 0;
  bool will_report_ = false;
  std::list<Closer> closers_;
  std::set<Device*> devices_;
  std::vector<Promise*> abandoned_;
  io::FileSystem files_;
  io::Worker worker_;

  std::mutex settled_mutex_;
  Promise* first_settled_ = nullptr;
  Promise* last_settled_ = nullptr;
};

}  // namespace polylora::binding
