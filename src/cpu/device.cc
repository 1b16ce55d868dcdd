// The CPU's device table: one stream is one thread with a queue, which is worker 0 of a pool.
#if defined(__x86_64__)
#include <cpuid.h>
#include <xmmintrin.h>
#endif

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <new>
#include <unordered_map>
#include <vector>

#include "checks/check.h"
#include "cpu/instruction_set.h"
#include "cpu/operations.h"
#include "cpu/pool.h"
#include "cpu/stream_heap.h"
#include "runtime/limits.h"
#include "runtime/owned_args.h"
#include "runtime/queue.h"
#include "runtime/recorder.h"
#include "runtime/status.h"

namespace polylora::cpu {
namespace {

constexpr uint64_t kQueueCapacity = uint64_t(1) << 18;
constexpr int kMostThreads = 1024;
constexpr uint64_t kMapped = uint64_t(128) << 10;  // host copies from this size on bypass malloc

struct Stream {
  Stream(uint64_t budget, int threads, InstructionSet set);

  const int threads;
  const InstructionSet instruction_set;
  Queue queue{kQueueCapacity};
  StreamHeap heap;
  Recorder<StreamHeap> recorder;
  std::atomic<uint64_t> replays{0};
  std::unique_ptr<Pool> pool;  // made, used and destroyed on the stream's thread
  std::mutex weights_mutex;
  std::unordered_map<pl_weight*, void*> weights;  // and their memory
  struct Time {
    std::atomic<uint64_t> count{0};
    std::atomic<uint64_t> nanoseconds{0};
  };
  std::atomic<bool> profiling{false};
  Time times[PL_OPERATION_COUNT];
};

Stream& stream_of(pl_stream* stream) { return *reinterpret_cast<Stream*>(stream); }

// ---- Tasks -----------------------------------------------------------------------------------

// Runs in any state of the stream.
template <class Body>
struct Always final : Task {
  explicit Always(Body body) : body(std::move(body)) {}
  void execute(const pl_status&) override { body(); }
  Body body;
};

template <class Body>
struct IfHealthy final : Task {
  explicit IfHealthy(Body body) : body(std::move(body)) {}
  void execute(const pl_status& state) override {
    if (state.code == PL_OK) body();
  }
  Body body;
};

struct Callback final : Task {
  Callback(pl_host_callback function, void* user) : function(function), user(user) {}
  void execute(const pl_status& state) override { function(user, &state); }
  pl_host_callback function;
  void* user;
};

template <class Body>
pl_status push(pl_stream* stream, Body body) {
  try {
    return stream_of(stream).queue.push(std::make_unique<IfHealthy<Body>>(std::move(body)));
  } catch (const std::bad_alloc&) {
    return make_status(PL_OUT_OF_MEMORY, "the system refused memory for the device's queue");
  }
}

template <class Body>
void push_always(Queue& queue, Body body) {
  try {
    queue.push_always(std::make_unique<Always<Body>>(std::move(body)));
  } catch (const std::bad_alloc&) {
    // What it would have freed stays allocated until the process ends.
  }
}

Stream::Stream(uint64_t budget, int threads, InstructionSet set)
    : threads(threads),
      instruction_set(set),
      heap(budget, [this](std::function<void()> body) { push_always(queue, std::move(body)); }) {}

// ---- Operations ------------------------------------------------------------------------------

template <class Args>
struct Operation final : Task {
  using Run = void (*)(Pool&, const Args&);
  Operation(Stream& stream, pl_operation operation, Run run, const Args& args)
      : stream(stream), operation(operation), run(run), owned(args) {}
  void execute(const pl_status& state) override {
    if (state.code != PL_OK) return;
    if (!stream.profiling.load(std::memory_order_relaxed)) {
      run(*stream.pool, owned.args);
      return;
    }
    const auto start = std::chrono::steady_clock::now();
    run(*stream.pool, owned.args);
    const auto elapsed = std::chrono::steady_clock::now() - start;
    Stream::Time& time = stream.times[operation];
    time.count.fetch_add(1, std::memory_order_relaxed);
    time.nanoseconds.fetch_add(
        uint64_t(std::chrono::duration_cast<std::chrono::nanoseconds>(elapsed).count()),
        std::memory_order_relaxed);
  }
  Stream& stream;
  const pl_operation operation;
  const Run run;
  Owned<Args> owned;
};

template <class Args, pl_operation operation, void (*run)(Pool&, const Args&)>
pl_status enqueue(pl_stream* stream, const Args* args) {
  try {
    Args known;
    if (!known_fields(args, &known))
      return make_status(PL_ARGUMENT, "the operation's struct is missing or has no size");
    Stream& self = stream_of(stream);
    auto task = std::make_unique<Operation<Args>>(self, operation, run, known);
    if (!self.recorder.is_recording()) return self.queue.push(std::move(task));
    self.recorder.add(std::move(task));
    return ok_status();
  } catch (const std::bad_alloc&) {
    return make_status(PL_OUT_OF_MEMORY, "the system refused memory for the device's queue");
  }
}

// ---- Runtime ---------------------------------------------------------------------------------

void brand_name(char* out, size_t size) {
#if defined(__x86_64__)
  unsigned int words[12];
  if (__get_cpuid_max(0x80000000u, nullptr) >= 0x80000004u) {
    for (unsigned int i = 0; i < 3; ++i)
      __get_cpuid(0x80000002u + i, &words[i * 4], &words[i * 4 + 1], &words[i * 4 + 2],
                  &words[i * 4 + 3]);
    char brand[sizeof words + 1];
    std::memcpy(brand, words, sizeof words);
    brand[sizeof words] = 0;
    const char* start = brand;
    while (*start == ' ') ++start;
    size_t length = std::strlen(start);
    while (length > 0 && start[length - 1] == ' ') --length;
    if (length >= size) length = size - 1;
    std::memcpy(out, start, length);
    out[length] = 0;
    return;
  }
#endif
  std::strncpy(out, "CPU", size);
}

pl_status choose_instruction_set(const char* name, InstructionSet* out) {
  const InstructionSet highest = detect_instruction_set();
  *out = highest;
  if (!*name) return ok_status();
  if (!parse_instruction_set(name, out))
    return make_status(PL_ARGUMENT,
                       "instructionSet \"%s\" is unknown; portable, avx2, avx512 and avx512-bf16 "
                       "are allowed",
                       name);
  if (*out > highest)
    return make_status(PL_ARGUMENT,
                       "instructionSet %s is more than this processor has; its highest is %s", name,
                       instruction_set_name(highest));
  return ok_status();
}

uint64_t default_budget() {
  // A tenth is left to JavaScript, the queue and the page cache.
  const uint64_t available = available_memory();
  return available == 0 ? uint64_t(4) << 30 : available / 10 * 9;
}

pl_status open(const pl_device_options* options, pl_stream** out) try {
  *out = nullptr;
  pl_device_options known{};
  if (options)
    std::memcpy(static_cast<void*>(&known), options,
                options->size < sizeof known ? options->size : sizeof known);
  if (known.index != 0)
    return make_status(PL_ARGUMENT, "index is %d; there is one CPU device, index 0", known.index);
  if (known.threads < 0 || known.threads > kMostThreads)
    return make_status(PL_ARGUMENT, "threads is %d; 0 to %d are allowed, 0 picks", known.threads,
                       kMostThreads);
  known.instruction_set[sizeof known.instruction_set - 1] = 0;
  InstructionSet set;
  if (pl_status status = choose_instruction_set(known.instruction_set, &set); status.code != PL_OK)
    return status;
  const int threads = known.threads ? known.threads : available_processors();
  auto stream = std::make_unique<Stream>(
      known.memory_budget ? known.memory_budget : default_budget(), threads, set);
  Stream* self = stream.get();
  const pl_status status = self->queue.start(
      [self]() -> pl_status {
  // Denormals are flushed: they are a hundred times slower and below anything that training can
  // see. The pool's threads inherit this from their maker, so that all workers compute the same.
#if defined(__x86_64__)
        _mm_setcsr(_mm_getcsr() | 0x8040);
#endif
        try {
          self->pool = std::make_unique<Pool>(self->threads, self->instruction_set);
          return ok_status();
        } catch (const std::exception& error) {
          return make_status(PL_DEVICE, "%d worker threads could not be started: %s", self->threads,
                             error.what());
        }
      },
      [self] { self->pool.reset(); });
  if (status.code != PL_OK) return status;
  *out = reinterpret_cast<pl_stream*>(stream.release());
  return status;
} catch (const std::bad_alloc&) {
  return make_status(PL_OUT_OF_MEMORY, "the system refused memory for a device");
}

void close(pl_stream* stream) {
  Stream* self = &stream_of(stream);
  self->queue.close();
  for (const auto& entry : self->weights) destroy_weight(entry.first);
  delete self;
}

void describe(pl_stream* stream, pl_device_info* info) {
  Stream& self = stream_of(stream);
  pl_device_info known{};
  known.size = info->size;
  known.threads = self.threads;
  brand_name(known.name, sizeof known.name);
  std::strncpy(known.instruction_set, instruction_set_name(self.instruction_set),
               sizeof known.instruction_set - 1);
  const Heap::Usage usage = self.heap.usage();
  known.memory_budget = usage.budget;
  known.memory_used = usage.used + self.recorder.used();
  known.memory_reserved = usage.reserved;
  known.memory_peak = usage.peak;
  known.queue_depth = self.queue.depth();
  known.replays = self.replays.load(std::memory_order_relaxed);
  std::memcpy(static_cast<void*>(info), &known,
              info->size < sizeof known ? info->size : sizeof known);
}

pl_status allocate(pl_stream* stream, uint64_t bytes, void** data) {
  Stream& self = stream_of(stream);
  return self.recorder.is_recording() ? self.recorder.heap().allocate(bytes, data)
                                      : self.heap.allocate(bytes, data);
}

void release(pl_stream* stream, void* data) {
  Stream& self = stream_of(stream);
  if (!self.recorder.release(data)) self.heap.release(data);
}

void trim(pl_stream* stream) { stream_of(stream).heap.trim(); }

// Host memory that a task of the queue owns.
class HostCopy {
 public:
  HostCopy(Heap& heap, uint64_t bytes) : heap_(&heap), bytes_(bytes) {}
  HostCopy(HostCopy&& other) noexcept
      : heap_(other.heap_), bytes_(other.bytes_), data_(other.data_), lent_(other.lent_) {
    other.data_ = nullptr;
    other.lent_ = false;
  }
  HostCopy(const HostCopy&) = delete;
  ~HostCopy() {
    if (data_) {
      if (bytes_ >= kMapped)
        unmap_memory(data_, bytes_);
      else
        std::free(data_);
    }
    if (lent_) heap_->give_back(bytes_);
  }

  pl_status fill(const void* from) {
    const pl_status status = heap_->lend(bytes_);
    if (status.code != PL_OK) return status;
    lent_ = true;
    data_ = bytes_ >= kMapped ? map_memory((bytes_ + 4095) / 4096 * 4096) : std::malloc(bytes_);
    if (!data_)
      return make_status(PL_OUT_OF_MEMORY, "the system refused %s of memory for a copy",
                         format_bytes(bytes_).c_str());
    std::memcpy(data_, from, bytes_);
    return status;
  }
  const void* data() const { return data_; }

 private:
  Heap* heap_;
  uint64_t bytes_;
  void* data_ = nullptr;
  bool lent_ = false;
};

pl_status copy_from_host(pl_stream* stream, void* data, const void* host, uint64_t bytes) {
  if (bytes == 0) return ok_status();
  Stream& self = stream_of(stream);
  if (self.recorder.is_recording()) return not_recordable("a copy from the host");
  if (self.queue.depth() == 0) {
    // Nothing is queued that could still touch the memory.
    std::memcpy(data, host, bytes);
    return ok_status();
  }
  HostCopy copy(self.heap, bytes);
  const pl_status status = copy.fill(host);
  if (status.code != PL_OK) return status;
  return push(stream,
              [data, bytes, copy = std::move(copy)] { std::memcpy(data, copy.data(), bytes); });
}

pl_status copy_to_host(pl_stream* stream, void* host, const void* data, uint64_t bytes) {
  if (bytes == 0) return ok_status();
  if (stream_of(stream).recorder.is_recording()) return not_recordable("a copy to the host");
  return push(stream, [host, data, bytes] { std::memcpy(host, data, bytes); });
}

pl_status callback(pl_stream* stream, pl_host_callback function, void* user) {
  if (stream_of(stream).recorder.is_recording()) return not_recordable("a callback");
  try {
    return stream_of(stream).queue.push(std::make_unique<Callback>(function, user));
  } catch (const std::bad_alloc&) {
    return make_status(PL_OUT_OF_MEMORY, "the system refused memory for the device's queue");
  }
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
  Stream& self = stream_of(stream);
  if (times) {
    for (int i = 0; i < PL_OPERATION_COUNT; ++i)
      times[i] = {self.times[i].count.load(std::memory_order_relaxed),
                  self.times[i].nanoseconds.load(std::memory_order_relaxed)};
  }
  if (on && !self.profiling.load(std::memory_order_relaxed)) {
    for (Stream::Time& time : self.times) {
      time.count.store(0, std::memory_order_relaxed);
      time.nanoseconds.store(0, std::memory_order_relaxed);
    }
  }
  self.profiling.store(on != 0, std::memory_order_relaxed);
}

pl_status weight_create(pl_stream* stream, const pl_weight_options* options,
                        pl_weight** weight) try {
  *weight = nullptr;
  if (pl_status status = check::check_weight_options(options); status.code != PL_OK) return status;
  Stream& self = stream_of(stream);
  if (self.recorder.is_recording()) return not_recordable("a new weight");
  const uint64_t bytes = weight_bytes(*options);
  void* memory;
  if (pl_status status = self.heap.allocate(bytes, &memory); status.code != PL_OK) return status;
  pl_status status = push(stream, [&self, memory, bytes] {
    constexpr int64_t kGrain = int64_t(4) << 20;
    self.pool->parallel_ranges(int64_t(bytes), kGrain, [&](int64_t begin, int64_t end, Worker&) {
      std::memset(static_cast<unsigned char*>(memory) + begin, 0, size_t(end - begin));
    });
  });
  if (status.code == PL_OK) {
    try {
      *weight = create_weight(*options, memory);
      std::lock_guard<std::mutex> lock(self.weights_mutex);
      self.weights.emplace(*weight, memory);
      return status;
    } catch (const std::bad_alloc&) {
      if (*weight) destroy_weight(*weight);
      *weight = nullptr;
      status = make_status(PL_OUT_OF_MEMORY, "the system refused memory for a weight");
    }
  }
  self.heap.release(memory);
  return status;
} catch (const std::bad_alloc&) {
  return make_status(PL_OUT_OF_MEMORY, "the system refused memory for a weight");
}

void weight_release(pl_stream* stream, pl_weight* weight) {
  Stream& self = stream_of(stream);
  void* memory;
  {
    std::lock_guard<std::mutex> lock(self.weights_mutex);
    const auto found = self.weights.find(weight);
    if (found == self.weights.end()) return;
    memory = found->second;
    self.weights.erase(found);
  }
  self.heap.release(memory);
  push_always(self.queue, [weight] { destroy_weight(weight); });
}

void weight_describe(const pl_weight* weight, pl_weight_options* options, uint64_t* bytes) {
  const pl_weight_options& known = reinterpret_cast<const pl_weight_base*>(weight)->options;
  if (options) *options = known;
  if (bytes) *bytes = weight_bytes(known);
}

uint64_t workspace(pl_stream* stream, pl_operation operation, const void* args) {
  return workspace_of(operation, args, stream_of(stream).threads);
}

// ---- Recordings ------------------------------------------------------------------------------

using Recording = Recorder<StreamHeap>::Recording;
using Recorded = std::shared_ptr<const Recording>;

pl_status recording_begin(pl_stream* stream) {
  Stream& self = stream_of(stream);
  return self.recorder.begin([&self] {
    using Body = std::function<void()>;
    const auto push_or_record = [&self](Body body) {
      if (!self.recorder.is_recording()) return push_always(self.queue, std::move(body));
      self.recorder.add(std::make_unique<Always<Body>>(std::move(body)));
    };
    return std::make_unique<StreamHeap>(self.heap, push_or_record);
  });
}

pl_status recording_end(pl_stream* stream, pl_recording** recording) {
  Stream& self = stream_of(stream);
  if (!recording) return self.recorder.end(nullptr);
  *recording = nullptr;
  Recording ended;
  const pl_status status = self.recorder.end(&ended);
  if (status.code != PL_OK) return status;
  try {
    auto recorded = std::make_unique<Recorded>(std::make_shared<Recording>(std::move(ended)));
    *recording = reinterpret_cast<pl_recording*>(recorded.release());
    return status;
  } catch (const std::bad_alloc&) {
    return make_status(PL_OUT_OF_MEMORY, "the system refused memory for a recording");
  }
}

pl_status recording_replay(pl_stream* stream, pl_recording* recording) {
  Stream& self = stream_of(stream);
  if (self.recorder.is_recording()) return not_recordable("a recording");
  return push(stream, [&self, recorded = *reinterpret_cast<Recorded*>(recording)] {
    for (const auto& task : recorded->tasks) task->execute(ok_status());
    self.replays.fetch_add(1, std::memory_order_relaxed);
  });
}

void recording_release(pl_stream*, pl_recording* recording) {
  const std::unique_ptr<Recorded> recorded(reinterpret_cast<Recorded*>(recording));
  (*recorded)->heap->trim();  // all of it is free
}

}  // namespace
}  // namespace polylora::cpu

extern "C" const pl_device_table* pl_cpu_device_table(void) {
  using namespace polylora::cpu;
  static const pl_device_table table = {PL_ABI_VERSION,
                                        sizeof(pl_device_table),
                                        "cpu",
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
#define PL_ENTRY(name) enqueue<pl_##name##_args, PL_OPERATION_##name, run_##name>,
                                        PL_OPERATIONS(PL_ENTRY)
#undef PL_ENTRY
                                            recording_begin,
                                        recording_end,
                                        recording_replay,
                                        recording_release};
  return &table;
}
