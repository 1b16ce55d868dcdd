// The device behind a stream, and the entries of the table that are no operations.
//
// Three threads touch a device: the caller's, which checks, reserves memory and queues; the
// queue's, which launches; and one that waits for events and tells the host. So a caller never
// waits for the driver, whose own queue of launches is short.
#pragma once

#include <cuda_runtime.h>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "cuda/staging.h"
#include "cuda/stream.h"
#include "runtime/heap.h"
#include "runtime/queue.h"
#include "runtime/recorder.h"
#include "runtime/status.h"

namespace polylora::cuda {

#ifdef POLYLORA_CUDA_EMULATED
constexpr const char* kKind = "cuda-emulated";
#else
constexpr const char* kKind = "cuda";
#endif

constexpr uint64_t kQueueCapacity = uint64_t(1) << 18;

constexpr const char* kOperationNames[] = {
#define PL_ENTRY(name) #name,
    PL_OPERATIONS(PL_ENTRY)
#undef PL_ENTRY
};

inline pl_status status_of(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return ok_status();
  return make_status(error == cudaErrorMemoryAllocation ? PL_OUT_OF_MEMORY : PL_DEVICE,
                     "%s: CUDA says %s (%s)", what, cudaGetErrorString(error),
                     cudaGetErrorName(error));
}

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

  // On the queue's thread: what operations launch goes into a graph, or turns out not to.
  void begin_capture() {
    is_capturing_ = true;
    is_refused_ = false;
  }
  bool is_capturing() const { return is_capturing_; }
  void refuse_capture() { is_refused_ = true; }
  // Whether all of it went in.
  bool end_capture() {
    is_capturing_ = false;
    return !is_refused_;
  }

  Heap& heap() { return *heap_; }
  // Completions that are still to come.
  uint64_t unfinished() {
    std::lock_guard<std::mutex> lock(mutex_);
    return completions_.size() + (completing_ ? 1 : 0);
  }

  int index = 0;
  Queue queue{kQueueCapacity};
  Recorder<Heap> recorder;
  std::atomic<uint64_t> replays{0}, graph_replays{0};
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
  void make_heap(uint64_t budget);
  void complete();
  void look_for_failure();

  bool is_capturing_ = false, is_refused_ = false;
  cudaMemPool_t pool_ = nullptr;
  // Memory is taken on a stream of its own, at any time: handle_ may be in a capture.
  cudaStream_t memory_stream_ = nullptr;
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

inline Device& device_of(pl_stream* stream) { return *reinterpret_cast<Device*>(stream); }

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
inline pl_status worse(const pl_status& queue, Device& device) {
  return queue.code != PL_OK ? queue : device.state();
}

// ---- The table's entries (src/kernels.h), in device.cu, memory.cu and recording.cu

// Why there is no device to open; PL_OK if there is one.
pl_status probe_driver();

pl_status open(const pl_device_options* options, pl_stream** out);
void close(pl_stream* stream);
void describe(pl_stream* stream, pl_device_info* info);
pl_status callback(pl_stream* stream, pl_host_callback function, void* user);
pl_status synchronize(pl_stream* stream);
void profile(pl_stream* stream, int32_t on, pl_operation_time* times);

pl_status allocate(pl_stream* stream, uint64_t bytes, void** data);
void release(pl_stream* stream, void* data);
void trim(pl_stream* stream);
pl_status copy_from_host(pl_stream* stream, void* data, const void* host, uint64_t bytes);
pl_status copy_to_host(pl_stream* stream, void* host, const void* data, uint64_t bytes);

pl_status weight_create(pl_stream* stream, const pl_weight_options* options, pl_weight** out);
void weight_release(pl_stream* stream, pl_weight* weight);
void weight_describe(const pl_weight* weight, pl_weight_options* options, uint64_t* bytes);

pl_status recording_begin(pl_stream* stream);
pl_status recording_end(pl_stream* stream, pl_recording** recording);
pl_status recording_replay(pl_stream* stream, pl_recording* recording);
void recording_release(pl_stream* stream, pl_recording* recording);

}  // namespace polylora::cuda
