// Opening and closing a device, and how it tells the host how far it is (device.h).
#include <dlfcn.h>

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "cuda/device.h"
#include "cuda/launch.h"
#include "cuda/weight.h"

namespace polylora::cuda {
namespace {

constexpr int kLeastDriver = 13000;  // what R580 answers

// 0 if there is none. Asked of the driver itself: cudart does not tell an old one from none.
int driver_version() {
  int version = 0;
#ifdef POLYLORA_CUDA_EMULATED
  if (cudaDriverGetVersion(&version) != cudaSuccess) return 0;
#else
  void* const driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
  if (!driver) return 0;
  const auto ask = reinterpret_cast<int (*)(int*)>(dlsym(driver, "cuDriverGetVersion"));
  if (!ask || ask(&version) != 0) version = 0;
  dlclose(driver);
#endif
  return version;
}

}  // namespace

// ---- Opening and closing

pl_status probe_driver() {
  const int version = driver_version();
  if (version == 0)
    return make_status(PL_DEVICE, "no NVIDIA driver is there; driver R580 or later is needed");
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
  char own[16];
  std::snprintf(own, sizeof own, "sm_%d", architecture_);
  const std::string allowed(options.instruction_set,
                            strnlen(options.instruction_set, sizeof options.instruction_set));
  if (allowed == "sm_80")
    architecture_ = 80;
  else if (!allowed.empty() && allowed != own)
    return make_status(PL_ARGUMENT, "instructionSet is %s, allowed on %s are %s and sm_80",
                       allowed.c_str(), name.c_str(), own);
  cudaDeviceGetAttribute(&processors_, cudaDevAttrMultiProcessorCount, index);
  cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, index);
  shared_limit_ = architecture_ == 80 ? std::min(size_t(shared), kSharedLimit80) : size_t(shared);

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

  status = check(cudaStreamCreateWithFlags(&memory_stream_, cudaStreamNonBlocking),
                 "making a stream for memory");
  if (status.code != PL_OK) return status;
  make_heap(budget);
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

void Device::make_heap(uint64_t budget) {
  const auto map = [this](size_t bytes) -> void* {
    void* base = nullptr;
    cudaSetDevice(index);
    if (cudaMallocFromPoolAsync(&base, bytes, pool_, memory_stream_) == cudaSuccess &&
        cudaStreamSynchronize(memory_stream_) == cudaSuccess)
      return base;
    cudaGetLastError();
    return nullptr;
  };
  // Of what nothing queued can still touch; otherwise a region goes in the order of the queue.
  const auto unmap = [this](void* base, size_t) { cudaFreeAsync(base, memory_stream_); };
  const auto retire = [this](void* base, size_t) {
    push_always(*this, [this, base](const pl_status&) { cudaFreeAsync(base, handle_); });
  };
  heap_ = std::make_unique<Heap>(budget, retire, Heap::Source{map, unmap});
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
  recorder.close();
  heap_.reset();
  if (memory_stream_) cudaStreamSynchronize(memory_stream_);
  if (pool_) cudaMemPoolDestroy(pool_);
  for (auto& events : events_)
    for (cudaEvent_t event : events) cudaEventDestroy(event);
  cudaStreamDestroy(handle_);
  if (memory_stream_) cudaStreamDestroy(memory_stream_);
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
                              ? kOperationNames[found.operation]
                              : "an operation";
  const auto number = [](int64_t value) { return static_cast<long long>(value); };
  if (found.kind == int32_t(FailureKind::least))
    return fail(make_status(PL_DEVICE, "%s: %.31s is %lld, must be at least %lld", operation,
                            found.name, number(found.value), number(found.limit)));
  if (found.kind == int32_t(FailureKind::number))
    return fail(make_status(PL_DEVICE, "%s: %.31s %lld is %g, must be %.47s", operation, found.name,
                            number(found.at), double(found.number), found.allowed));
  if (found.kind == int32_t(FailureKind::range))
    return fail(make_status(PL_DEVICE, "%s: %.31s[%lld] is %lld, must be from %lld to %lld",
                            operation, found.name, number(found.at), number(found.value),
                            number(found.least), number(found.limit)));
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

// ---- Entries

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
  known.memory_used = usage.used + self.recorder.used();
  known.memory_reserved = usage.reserved;
  known.memory_peak = usage.peak;
  known.queue_depth = self.queue.depth() + self.unfinished();
  known.replays = self.replays.load(std::memory_order_relaxed);
  known.graph_replays = self.graph_replays.load(std::memory_order_relaxed);
  std::memcpy(static_cast<void*>(info), &known,
              info->size < sizeof known ? info->size : sizeof known);
}

pl_status callback(pl_stream* stream, pl_host_callback function, void* user) {
  Device& self = device_of(stream);
  if (self.recorder.is_recording()) return not_recordable("a callback");
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

}  // namespace polylora::cuda
