// The device table of CUDA. Three threads touch a device: the caller's, which checks, reserves
// memory and queues; the queue's, which launches; and one that waits for events and tells the host.
// So a caller never waits for the driver, whose own queue of launches is short.
//
// Memory comes from the driver's stream-ordered pool in regions; the heap hands out blocks of them
// in the order of the queue (runtime/heap.h), so that a released block is reusable at once.
#include <cuda_runtime.h>

#include <atomic>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "checks/check.h"
#include "cuda/operations.h"
#include "cuda/stream.h"
#include "cuda/weight.h"
#include "runtime/heap.h"
#include "runtime/owned_args.h"
#include "runtime/queue.h"
#include "runtime/status.h"

extern "C" const pl_device_table* polylora_device_table(void);

namespace polylora::cuda {

// Weak references: null where no file defines the launcher.
#define PL_ENTRY(name)                                                                 \
  __attribute__((weak)) PL_LAUNCHER void run_##name(Stream&, const pl_##name##_args&); \
  __attribute__((weak))                                                                \
  PL_LAUNCHER uint64_t workspace_##name(const Stream&, const pl_##name##_args&);
PL_OPERATIONS(PL_ENTRY)
#undef PL_ENTRY

namespace {

#ifdef POLYLORA_CUDA_EMULATED
constexpr const char* kKind = "cuda-emulated";
constexpr uint64_t kGuardBytes = 64;  // behind every block, watched by the emulator
#else
constexpr const char* kKind = "cuda";
constexpr uint64_t kGuardBytes = 0;
#endif

constexpr uint64_t kQueueCapacity = uint64_t(1) << 18;
constexpr int kLeastDriver = 13000;  // what R580 answers

constexpr const char* kNames[] = {
#define PL_ENTRY(name) #name,
    PL_OPERATIONS(PL_ENTRY)
#undef PL_ENTRY
};

pl_status status_of(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return ok_status();
  return make_status(error == cudaErrorMemoryAllocation ? PL_OUT_OF_MEMORY : PL_DEVICE,
                     "%s: CUDA says %s (%s)", what, cudaGetErrorString(error),
                     cudaGetErrorName(error));
}

// ---- Pinned memory, which the device copies to and from while the host goes on

class Staging {
 public:
  ~Staging() {
    for (const Buffer& buffer : free_) cudaFreeHost(buffer.data);
  }

  struct Buffer {
    void* data = nullptr;
    uint64_t bytes = 0;
  };

  // data is null if the system refuses.
  Buffer take(uint64_t bytes) {
    bytes = (bytes + kUnit - 1) / kUnit * kUnit;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      size_t best = free_.size();
      for (size_t i = 0; i < free_.size(); ++i)
        if (free_[i].bytes >= bytes && free_[i].bytes <= 4 * bytes &&
            (best == free_.size() || free_[i].bytes < free_[best].bytes))
          best = i;
      if (best < free_.size()) {
        const Buffer found = free_[best];
        free_.erase(free_.begin() + std::ptrdiff_t(best));
        kept_ -= found.bytes;
        return found;
      }
    }
    Buffer made;
    if (cudaHostAlloc(&made.data, bytes, 0) == cudaSuccess) made.bytes = bytes;
    return made;
  }

  void give_back(const Buffer& buffer) {
    if (!buffer.data) return;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (kept_ + buffer.bytes <= kMostKept) {
        free_.push_back(buffer);
        kept_ += buffer.bytes;
        return;
      }
    }
    cudaFreeHost(buffer.data);
  }

 private:
  static constexpr uint64_t kUnit = 4096, kMostKept = uint64_t(256) << 20;
  std::mutex mutex_;
  std::vector<Buffer> free_;
  uint64_t kept_ = 0;
};

// ---- The device

class Device final : public Stream {
 public:
  Device() = default;
  ~Device() override;

  pl_status open(const pl_device_options& options);
  void close();

  // On any thread: the first failure that is known, or PL_OK.
  pl_status state() {
    if (!failed_.load(std::memory_order_acquire)) return ok_status();
    std::lock_guard<std::mutex> lock(state_mutex_);
    return state_;
  }
  void fail(const pl_status& status) {
    std::lock_guard<std::mutex> lock(state_mutex_);
    if (failed_.load(std::memory_order_relaxed)) return;
    state_ = status;
    failed_.store(true, std::memory_order_release);
  }

  // On the queue's thread: `then` runs on the completion thread when the stream has got here, and
  // is told how things stand.
  void after_this(std::function<void(const pl_status&)> then);

  void begin_operation(const char* name) {
    operation_name_ = name;
    noted_ = cudaSuccess;
  }
  cudaError_t noted() const { return noted_; }

  Heap& heap() { return *heap_; }
  // Completions that are still to come.
  uint64_t unfinished() {
    std::lock_guard<std::mutex> lock(mutex_);
    return completions_.size() + (completing_ ? 1 : 0);
  }

  int index = 0;
  Queue queue{kQueueCapacity};
  Staging staging;
  std::mutex weights_mutex;
  std::unordered_map<pl_weight*, void*> weights;
  std::string name;

  struct Time {
    std::atomic<uint64_t> count{0};
    std::atomic<uint64_t> nanoseconds{0};
  };
  std::atomic<bool> profiling{false};
  Time times[PL_OPERATION_COUNT];

  cudaEvent_t take_event(bool timed);
  void give_back_event(cudaEvent_t event, bool timed);

 private:
  struct Completion {
    cudaEvent_t event;  // null: there is nothing to wait for
    pl_status status;
    std::function<void(const pl_status&)> then;
  };
  void complete();
  void look_for_failure();

  cudaMemPool_t pool_ = nullptr;
  std::unique_ptr<Heap> heap_;
  Failure* failure_ = nullptr;  // the host's address

  std::atomic<bool> failed_{false};
  std::mutex state_mutex_;
  pl_status state_ = ok_status();

  std::thread thread_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Completion> completions_;
  bool ending_ = false;
  bool completing_ = false;
  std::vector<cudaEvent_t> events_[2];  // plain, timed
};

Device& device_of(pl_stream* stream) { return *reinterpret_cast<Device*>(stream); }

// ---- Tasks of the queue

// Runs in any state of the stream.
template <class Body>
struct Always final : Task {
  explicit Always(Body body) : body(std::move(body)) {}
  void execute(const pl_status& status) override { body(status); }
  Body body;
};

template <class Body>
pl_status push(Device& device, Body body) {
  try {
    return device.queue.push(std::make_unique<Always<Body>>(std::move(body)));
  } catch (const std::bad_alloc&) {
    return make_status(PL_OUT_OF_MEMORY, "the system refused memory for the device's queue");
  }
}

template <class Body>
void push_always(Device& device, Body body) {
  try {
    device.queue.push_always(std::make_unique<Always<Body>>(std::move(body)));
  } catch (const std::bad_alloc&) {
    // What it would have freed stays allocated until the device is closed.
  }
}

// The queue's own state (it is closed, say) or the device's.
pl_status worse(const pl_status& queue, Device& device) {
  return queue.code != PL_OK ? queue : device.state();
}

// ---- Opening and closing

pl_status probe_driver() {
  int version = 0;
  if (cudaDriverGetVersion(&version) != cudaSuccess || version == 0)
    return make_status(PL_DEVICE, "no NVIDIA driver is there");
  if (version < kLeastDriver)
    return make_status(PL_DEVICE,
                       "the NVIDIA driver knows CUDA %d.%d; this build needs CUDA %d.%d, that is "
                       "driver R580 or later",
                       version / 1000, version % 1000 / 10, kLeastDriver / 1000,
                       kLeastDriver % 1000 / 10);
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) return status_of(error, "looking for devices");
  if (count == 0) return make_status(PL_DEVICE, "the NVIDIA driver shows no device");
  return ok_status();
}

pl_status Device::open(const pl_device_options& options) {
  if (pl_status status = probe_driver(); status.code != PL_OK) return status;
  int count = 0;
  cudaGetDeviceCount(&count);
  index = options.index;
  if (index < 0 || index >= count)
    return make_status(PL_ARGUMENT, "index is %d; there %s %d CUDA device%s, from index 0", index,
                       count == 1 ? "is" : "are", count, count == 1 ? "" : "s");
  const auto check = [](cudaError_t error, const char* what) { return status_of(error, what); };
  pl_status status = check(cudaSetDevice(index), "opening the device");
  int major = 0, minor = 0, shared = 0;
  if (status.code == PL_OK)
    status = check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index),
                   "reading the compute capability");
  if (status.code == PL_OK)
    status = check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, index),
                   "reading the compute capability");
  if (status.code != PL_OK) return status;
  cudaDeviceProp properties;
  status = check(cudaGetDeviceProperties(&properties, index), "reading the device's name");
  if (status.code != PL_OK) return status;
  name = properties.name;
  architecture_ = major * 10 + minor;
  if (architecture_ < 80)
    return make_status(PL_DEVICE, "%s has compute capability %d.%d; 8.0 or higher is needed",
                       name.c_str(), major, minor);
  cudaDeviceGetAttribute(&processors_, cudaDevAttrMultiProcessorCount, index);
  cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, index);
  shared_limit_ = size_t(shared);

  uint64_t budget = options.memory_budget;
  if (budget == 0) {
    size_t free = 0, total = 0;
    status = check(cudaMemGetInfo(&free, &total), "reading the free memory");
    if (status.code != PL_OK) return status;
    budget = uint64_t(free) / 100 * 95;  // the rest is for the driver's own needs
  }
  status = check(cudaStreamCreateWithFlags(&handle_, cudaStreamNonBlocking), "making a stream");
  if (status.code != PL_OK) return status;
  cudaMemPoolProps pool = {};
  pool.allocType = cudaMemAllocationTypePinned;
  pool.location.type = cudaMemLocationTypeDevice;
  pool.location.id = index;
  status = check(cudaMemPoolCreate(&pool_, &pool), "making a memory pool");
  if (status.code != PL_OK) return status;
  status = check(
      cudaHostAlloc(reinterpret_cast<void**>(&failure_), sizeof(Failure), cudaHostAllocMapped),
      "pinning memory");
  if (status.code != PL_OK) return status;
  std::memset(static_cast<void*>(failure_), 0, sizeof(Failure));
  status = check(cudaHostGetDevicePointer(reinterpret_cast<void**>(&device_failure_), failure_, 0),
                 "mapping memory");
  if (status.code != PL_OK) return status;

  heap_ = std::make_unique<Heap>(
      budget,
      [this](void* base, size_t) {
        push_always(*this, [this, base](const pl_status&) { cudaFreeAsync(base, handle_); });
      },
      Heap::Source{[this](size_t bytes) -> void* {
                     void* base = nullptr;
                     cudaSetDevice(index);
                     if (cudaMallocFromPoolAsync(&base, bytes, pool_, handle_) == cudaSuccess)
                       return base;
                     cudaGetLastError();
                     return nullptr;
                   },
                   [this](void* base, size_t) { cudaFreeAsync(base, handle_); }});
  status = queue.start(
      [this]() -> pl_status {
        return status_of(cudaSetDevice(index), "opening the device on its thread");
      },
      [] {});
  if (status.code != PL_OK) return status;
  try {
    thread_ = std::thread([this] { complete(); });
  } catch (const std::exception& error) {
    return make_status(PL_DEVICE, "the device's thread could not be started: %s", error.what());
  }
  return ok_status();
}

void Device::close() {
  queue.close();
  if (!thread_.joinable()) return;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    ending_ = true;
    wake_.notify_one();
  }
  thread_.join();
}

Device::~Device() {
  close();
  if (!handle_) return;
  cudaSetDevice(index);
  cudaStreamSynchronize(handle_);
  for (const auto& entry : weights) delete entry.first;
  heap_.reset();
  cudaStreamSynchronize(handle_);
  if (pool_) cudaMemPoolDestroy(pool_);
  for (auto& events : events_)
    for (cudaEvent_t event : events) cudaEventDestroy(event);
  cudaStreamDestroy(handle_);
  if (failure_) cudaFreeHost(failure_);
  cudaGetLastError();
}

// ---- Completions

cudaEvent_t Device::take_event(bool timed) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!events_[timed].empty()) {
      cudaEvent_t event = events_[timed].back();
      events_[timed].pop_back();
      return event;
    }
  }
  cudaEvent_t event = nullptr;
  const unsigned flags = cudaEventBlockingSync | (timed ? 0 : cudaEventDisableTiming);
  if (cudaEventCreateWithFlags(&event, flags) != cudaSuccess) return nullptr;
  return event;
}

void Device::give_back_event(cudaEvent_t event, bool timed) {
  if (!event) return;
  std::lock_guard<std::mutex> lock(mutex_);
  events_[timed].push_back(event);
}

void Device::after_this(std::function<void(const pl_status&)> then) {
  Completion completion = {nullptr, state(), std::move(then)};
  if (completion.status.code == PL_OK) {
    completion.event = take_event(false);
    const cudaError_t error =
        completion.event ? cudaEventRecord(completion.event, handle_) : cudaGetLastError();
    if (!completion.event || error != cudaSuccess)
      completion.status = status_of(error, "the device is lost");
  }
  std::lock_guard<std::mutex> lock(mutex_);
  completions_.push_back(std::move(completion));
  wake_.notify_one();
}

void Device::look_for_failure() {
  const Failure& found = *failure_;
  if (found.kind == int32_t(FailureKind::none)) return;
  const char* operation = found.operation >= 0 && found.operation < PL_OPERATION_COUNT
                              ? kNames[found.operation]
                              : "an operation";
  const auto number = [](int64_t value) { return static_cast<long long>(value); };
  if (found.kind == int32_t(FailureKind::least))
    return fail(make_status(PL_DEVICE, "%s: %.31s is %lld, must be at least %lld", operation,
                            found.name, number(found.value), number(found.limit)));
  fail(make_status(PL_DEVICE, "%s: %.31s[%lld] is %lld, allowed are 0 to %lld", operation,
                   found.name, number(found.at), number(found.value), number(found.limit - 1)));
}

void Device::complete() {
  cudaSetDevice(index);
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    wake_.wait(lock, [this] { return ending_ || !completions_.empty(); });
    if (completions_.empty()) return;
    Completion completion = std::move(completions_.front());
    completions_.pop_front();
    completing_ = true;
    lock.unlock();
    if (completion.event) {
      const cudaError_t error = cudaEventSynchronize(completion.event);
      if (error != cudaSuccess)
        fail(status_of(error, "the device is lost"));
      else
        look_for_failure();
      give_back_event(completion.event, false);
    } else if (completion.status.code != PL_OK) {
      fail(completion.status);
    }
    completion.then(state());
    completion = {};
    lock.lock();
    completing_ = false;
  }
}

// ---- Operations

template <class Args>
struct Operation final : Task {
  using Run = void (*)(Stream&, const Args&);
  Operation(Device& device, pl_operation operation, Run run, const Args& args)
      : device(device), operation(operation), run(run), owned(args) {}

  void execute(const pl_status& status) override {
    if (worse(status, device).code != PL_OK) return;
    const bool timed = device.profiling.load(std::memory_order_relaxed);
    cudaEvent_t begin = nullptr, end = nullptr;
    if (timed) {
      begin = device.take_event(true);
      end = device.take_event(true);
      cudaEventRecord(begin, device.handle());
    }
    device.begin_operation(kNames[operation]);
    run(device, owned.args);
    if (device.noted() != cudaSuccess) device.fail(status_of(device.noted(), kNames[operation]));
    if (!timed) return;
    cudaEventRecord(end, device.handle());
    Device& self = device;
    const pl_operation which = operation;
    device.after_this([&self, which, begin, end](const pl_status& outcome) {
      float milliseconds = 0;
      if (outcome.code == PL_OK && cudaEventElapsedTime(&milliseconds, begin, end) == cudaSuccess) {
        self.times[which].count.fetch_add(1, std::memory_order_relaxed);
        self.times[which].nanoseconds.fetch_add(uint64_t(double(milliseconds) * 1e6),
                                                std::memory_order_relaxed);
      }
      self.give_back_event(begin, true);
      self.give_back_event(end, true);
    });
  }

  Device& device;
  const pl_operation operation;
  const Run run;
  Owned<Args> owned;
};

template <class Args>
pl_status enqueue(pl_stream* stream, pl_operation operation, void (*run)(Stream&, const Args&),
                  const Args* args) {
  try {
    if (!run)
      return make_status(PL_UNSUPPORTED, "the %s device has no operation %s yet", kKind,
                         kNames[operation]);
    Args known;
    if (!known_fields(args, &known))
      return make_status(PL_ARGUMENT, "the operation's struct is missing or has no size");
    Device& device = device_of(stream);
    return device.queue.push(std::make_unique<Operation<Args>>(device, operation, run, known));
  } catch (const std::bad_alloc&) {
    return make_status(PL_OUT_OF_MEMORY, "the system refused memory for the device's queue");
  }
}

#define PL_ENTRY(name)                                                               \
  pl_status enqueue_##name(pl_stream* stream, const pl_##name##_args* args) {        \
    return enqueue<pl_##name##_args>(stream, PL_OPERATION_##name, run_##name, args); \
  }
PL_OPERATIONS(PL_ENTRY)
#undef PL_ENTRY

uint64_t workspace(pl_stream* stream, pl_operation operation, const void* args) {
  switch (operation) {
#define PL_ENTRY(name)                                                                            \
  case PL_OPERATION_##name:                                                                       \
    return workspace_##name                                                                       \
               ? workspace_##name(device_of(stream), *static_cast<const pl_##name##_args*>(args)) \
               : 0;
    PL_OPERATIONS(PL_ENTRY)
#undef PL_ENTRY
    default:
      return 0;
  }
}

// ---- Runtime

pl_status open(const pl_device_options* options, pl_stream** out) try {
  *out = nullptr;
  pl_device_options known{};
  if (options)
    std::memcpy(static_cast<void*>(&known), options,
                options->size < sizeof known ? options->size : sizeof known);
  auto device = std::make_unique<Device>();
  const pl_status status = device->open(known);
  if (status.code == PL_OK) *out = reinterpret_cast<pl_stream*>(device.release());
  return status;
} catch (const std::bad_alloc&) {
  return make_status(PL_OUT_OF_MEMORY, "the system refused memory for a device");
}

void close(pl_stream* stream) { delete &device_of(stream); }

void describe(pl_stream* stream, pl_device_info* info) {
  Device& self = device_of(stream);
  pl_device_info known{};
  known.size = info->size;
  known.threads = 1;
  std::strncpy(known.name, self.name.c_str(), sizeof known.name - 1);
  std::snprintf(known.instruction_set, sizeof known.instruction_set, "sm_%d", self.architecture());
  const Heap::Usage usage = self.heap().usage();
  known.memory_budget = usage.budget;
  known.memory_used = usage.used;
  known.memory_reserved = usage.reserved;
  known.memory_peak = usage.peak;
  known.queue_depth = self.queue.depth() + self.unfinished();
  std::memcpy(static_cast<void*>(info), &known,
              info->size < sizeof known ? info->size : sizeof known);
}

pl_status allocate(pl_stream* stream, uint64_t bytes, void** data) {
  Device& self = device_of(stream);
  const pl_status status = self.heap().allocate(bytes + kGuardBytes, data);
#ifdef POLYLORA_CUDA_EMULATED
  if (status.code == PL_OK)
    push_always(self, [&self, block = *data, bytes](const pl_status&) {
      emulator::block_allocated(self.handle(), block, bytes, kGuardBytes);
    });
#endif
  return status;
}

void release(pl_stream* stream, void* data) {
  Device& self = device_of(stream);
#ifdef POLYLORA_CUDA_EMULATED
  push_always(self,
              [&self, data](const pl_status&) { emulator::block_released(self.handle(), data); });
#endif
  self.heap().release(data);
}

void trim(pl_stream* stream) {
  Device& self = device_of(stream);
  self.heap().trim();
}

pl_status copy_from_host(pl_stream* stream, void* data, const void* host, uint64_t bytes) {
  if (bytes == 0) return ok_status();
  Device& self = device_of(stream);
  const Staging::Buffer buffer = self.staging.take(bytes);
  if (!buffer.data)
    return make_status(PL_OUT_OF_MEMORY, "the system refused %s of pinned memory for a copy",
                       format_bytes(bytes).c_str());
  std::memcpy(buffer.data, host, bytes);
  const pl_status status = push(self, [&self, data, bytes, buffer](const pl_status& status) {
    if (worse(status, self).code == PL_OK) {
      const cudaError_t error =
          cudaMemcpyAsync(data, buffer.data, bytes, cudaMemcpyHostToDevice, self.handle());
      if (error != cudaSuccess) self.fail(status_of(error, "copying to the device"));
    }
    self.after_this([&self, buffer](const pl_status&) { self.staging.give_back(buffer); });
  });
  if (status.code != PL_OK) self.staging.give_back(buffer);
  return status;
}

pl_status copy_to_host(pl_stream* stream, void* host, const void* data, uint64_t bytes) {
  if (bytes == 0) return ok_status();
  Device& self = device_of(stream);
  return push(self, [&self, host, data, bytes](const pl_status& status) {
    if (worse(status, self).code != PL_OK) return;
    const Staging::Buffer buffer = self.staging.take(bytes);
    if (!buffer.data)
      return self.fail(make_status(PL_DEVICE, "the system refused %s of pinned memory for a copy",
                                   format_bytes(bytes).c_str()));
    const cudaError_t error =
        cudaMemcpyAsync(buffer.data, data, bytes, cudaMemcpyDeviceToHost, self.handle());
    if (error != cudaSuccess) self.fail(status_of(error, "copying from the device"));
    self.after_this([&self, buffer, host, bytes](const pl_status& status) {
      if (status.code == PL_OK) std::memcpy(host, buffer.data, bytes);
      self.staging.give_back(buffer);
    });
  });
}

pl_status callback(pl_stream* stream, pl_host_callback function, void* user) {
  Device& self = device_of(stream);
  return push(self, [&self, function, user](const pl_status& status) {
    if (status.code != PL_OK) {
      // The queue is closed: in order, behind what the completion thread still has.
      const pl_status closed = status;
      self.after_this([function, user, closed](const pl_status& state) {
        function(user, state.code != PL_OK ? &state : &closed);
      });
      return;
    }
    self.after_this([function, user](const pl_status& state) { function(user, &state); });
  });
}

pl_status synchronize(pl_stream* stream) {
  struct Wait {
    std::mutex mutex;
    std::condition_variable wake;
    bool done = false;
    pl_status status;
  } wait;
  const pl_status queued = callback(
      stream,
      [](void* user, const pl_status* status) {
        Wait& wait = *static_cast<Wait*>(user);
        std::lock_guard<std::mutex> lock(wait.mutex);
        wait.status = *status;
        wait.done = true;
        wait.wake.notify_one();
      },
      &wait);
  if (queued.code != PL_OK) return queued;
  std::unique_lock<std::mutex> lock(wait.mutex);
  wait.wake.wait(lock, [&] { return wait.done; });
  return wait.status;
}

void profile(pl_stream* stream, int32_t on, pl_operation_time* times) {
  Device& self = device_of(stream);
  if (times)
    for (int i = 0; i < PL_OPERATION_COUNT; ++i)
      times[i] = {self.times[i].count.load(std::memory_order_relaxed),
                  self.times[i].nanoseconds.load(std::memory_order_relaxed)};
  if (on && !self.profiling.load(std::memory_order_relaxed))
    for (Device::Time& time : self.times) {
      time.count.store(0, std::memory_order_relaxed);
      time.nanoseconds.store(0, std::memory_order_relaxed);
    }
  self.profiling.store(on != 0, std::memory_order_relaxed);
}

// ---- Weights

pl_status weight_create(pl_stream* stream, const pl_weight_options* options, pl_weight** out) try {
  *out = nullptr;
  if (pl_status status = check::check_weight_options(options); status.code != PL_OK) return status;
  Device& self = device_of(stream);
  const uint64_t bytes = weight_bytes(*options);
  void* memory;
  pl_status status = allocate(stream, bytes, &memory);
  if (status.code != PL_OK) return status;
  status = push(self, [&self, memory, bytes](const pl_status& status) {
    if (worse(status, self).code != PL_OK) return;
    const cudaError_t error = cudaMemsetAsync(memory, 0, bytes, self.handle());
    if (error != cudaSuccess) self.fail(status_of(error, "clearing a weight"));
  });
  if (status.code == PL_OK) {
    try {
      auto weight = std::make_unique<pl_weight>();
      weight->base = {polylora_device_table(), *options};
      weight->storage = memory;
      weight->pitch = weight_pitch(*options);
      if (options->compute == PL_BF16)
        weight->operand = reinterpret_cast<bf16*>(options->storage == PL_BF16
                                                      ? memory
                                                      : static_cast<char*>(memory) +
                                                            weight_storage_bytes(*options));
      std::lock_guard<std::mutex> lock(self.weights_mutex);
      self.weights.emplace(weight.get(), memory);
      *out = weight.release();
      return status;
    } catch (const std::bad_alloc&) {
      status = make_status(PL_OUT_OF_MEMORY, "the system refused memory for a weight");
    }
  }
  release(stream, memory);
  return status;
} catch (const std::bad_alloc&) {
  return make_status(PL_OUT_OF_MEMORY, "the system refused memory for a weight");
}

void weight_release(pl_stream* stream, pl_weight* weight) {
  Device& self = device_of(stream);
  void* memory;
  {
    std::lock_guard<std::mutex> lock(self.weights_mutex);
    const auto found = self.weights.find(weight);
    if (found == self.weights.end()) return;
    memory = found->second;
    self.weights.erase(found);
  }
  release(stream, memory);
  push_always(self, [weight](const pl_status&) { delete weight; });
}

void weight_describe(const pl_weight* weight, pl_weight_options* options, uint64_t* bytes) {
  const pl_weight_options& known = weight->base.options;
  if (options) *options = known;
  if (bytes) *bytes = weight_bytes(known);
}

}  // namespace
}  // namespace polylora::cuda

// The library's two exports: why it cannot be used here, and its table.
extern "C" __attribute__((visibility("default"))) pl_status polylora_device_probe(void) {
  return polylora::cuda::probe_driver();
}

extern "C" __attribute__((visibility("default"))) const pl_device_table* polylora_device_table(
    void) {
  using namespace polylora::cuda;
  static const pl_device_table table = {PL_ABI_VERSION,
                                        sizeof(pl_device_table),
                                        kKind,
                                        open,
                                        close,
                                        describe,
                                        allocate,
                                        release,
                                        trim,
                                        copy_from_host,
                                        copy_to_host,
                                        callback,
                                        synchronize,
                                        profile,
                                        weight_create,
                                        weight_release,
                                        weight_describe,
                                        workspace,
#define PL_ENTRY(name) enqueue_##name,
                                        PL_OPERATIONS(PL_ENTRY)
#undef PL_ENTRY
  };
  return &table;
}
