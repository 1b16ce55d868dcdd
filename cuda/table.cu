// The device table of CUDA: the operations, behind one queue, and the library's two exports.
#include <memory>
#include <new>

#include "cuda/device.h"
#include "cuda/operations.h"
#include "runtime/owned_args.h"

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

template <class Args>
struct Operation final : Task {
  using Run = void (*)(Stream&, const Args&);
  Operation(Device& device, pl_operation operation, Run run, const Args& args)
      : device(device), operation(operation), run(run), owned(args) {}

  void execute(const pl_status& status) override {
    if (worse(status, device).code != PL_OK) return;
    const bool timed = device.profiling.load(std::memory_order_relaxed) && !device.is_capturing();
    cudaEvent_t begin = nullptr, end = nullptr;
    if (timed) {
      begin = device.take_event(true);
      end = device.take_event(true);
      cudaEventRecord(begin, device.handle());
    }
    device.begin_operation(kOperationNames[operation]);
    run(device, owned.args);
    if (device.noted() != cudaSuccess) {
      if (device.is_capturing()) return device.refuse_capture();
      device.fail(status_of(device.noted(), kOperationNames[operation]));
    }
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
                         kOperationNames[operation]);
    Args known;
    if (!known_fields(args, &known))
      return make_status(PL_ARGUMENT, "the operation's struct is missing or has no size");
    Device& device = device_of(stream);
    auto task = std::make_unique<Operation<Args>>(device, operation, run, known);
    if (!device.recorder.is_recording()) return device.queue.push(std::move(task));
    device.recorder.add(std::move(task));
    return ok_status();
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
                                            recording_begin,
                                        recording_end,
                                        recording_replay,
                                        recording_release};
  return &table;
}
