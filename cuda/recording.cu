// Recordings: operations that are put together once and replayed as a whole (src/kernels.h). The
// first replay captures what they launch into a graph, and each replay is one launch of that. What
// does not go into a graph, and anything while operations are timed, is launched one by one: the
// results are the same.
#include "cuda/device.h"

namespace polylora::cuda {
namespace {

// Replayed on the queue's thread alone.
class Recording {
 public:
  Recording(Device& device, Recorder<Heap>::Recording recorded)
      : device_(device), recorded_(std::move(recorded)) {}
  // A graph that still runs is freed when it has.
  ~Recording() {
    if (graph_) cudaGraphExecDestroy(graph_);
  }
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;

  // All of its memory is free: nothing outlives a replay.
  void give_back_memory() { recorded_.heap->trim(); }

  void replay() {
    device_.replays.fetch_add(1, std::memory_order_relaxed);
    if (device_.profiling.load(std::memory_order_relaxed)) return launch_each();
    if (!std::exchange(was_captured_, true)) capture();
    if (!graph_) return launch_each();
    device_.graph_replays.fetch_add(1, std::memory_order_relaxed);
    const cudaError_t error = cudaGraphLaunch(graph_, device_.handle());
    if (error != cudaSuccess) device_.fail(status_of(error, "launching a graph"));
  }

 private:
  void launch_each() {
    for (const auto& task : recorded_.tasks) task->execute(ok_status());
  }

  // Leaves graph_ null where that cannot be.
  void capture() {
    // Of this thread: others may go on allocating.
    const auto mode = cudaStreamCaptureModeThreadLocal;
    if (cudaStreamBeginCapture(device_.handle(), mode) == cudaSuccess) {
      device_.begin_capture();
      try {
        launch_each();
      } catch (const std::bad_alloc&) {
        device_.refuse_capture();
      }
      const bool is_whole = device_.end_capture();
      cudaGraph_t graph = nullptr;
      if (cudaStreamEndCapture(device_.handle(), &graph) == cudaSuccess && is_whole &&
          cudaGraphInstantiate(&graph_, graph, 0) != cudaSuccess)
        graph_ = nullptr;
      if (graph) cudaGraphDestroy(graph);
    }
    cudaGetLastError();
  }

  Device& device_;
  const Recorder<Heap>::Recording recorded_;
  bool was_captured_ = false;
  cudaGraphExec_t graph_ = nullptr;
};

using Handle = std::shared_ptr<Recording>;
Handle& handle_of(pl_recording* recording) { return *reinterpret_cast<Handle*>(recording); }

}  // namespace

pl_status recording_begin(pl_stream* stream) {
  Device& self = device_of(stream);
  return self.recorder.begin([&self] { return std::make_unique<Heap>(self.heap()); });
}

pl_status recording_end(pl_stream* stream, pl_recording** recording) {
  Device& self = device_of(stream);
  if (!recording) return self.recorder.end(nullptr);
  *recording = nullptr;
  Recorder<Heap>::Recording ended;
  const pl_status status = self.recorder.end(&ended);
  if (status.code != PL_OK) return status;
  try {
    auto handle = std::make_unique<Handle>(std::make_shared<Recording>(self, std::move(ended)));
    *recording = reinterpret_cast<pl_recording*>(handle.release());
    return status;
  } catch (const std::bad_alloc&) {
    return make_status(PL_OUT_OF_MEMORY, "the system refused memory for a recording");
  }
}

pl_status recording_replay(pl_stream* stream, pl_recording* recording) {
  Device& self = device_of(stream);
  if (self.recorder.is_recording()) return not_recordable("a recording");
  return push(self, [&self, handle = handle_of(recording)](const pl_status& status) {
    if (worse(status, self).code == PL_OK) handle->replay();
  });
}

void recording_release(pl_stream* stream, pl_recording* recording) {
  const std::unique_ptr<Handle> handle(&handle_of(recording));
  (*handle)->give_back_memory();
  // Its graph ends on the queue's thread.
  push_always(device_of(stream), [last = *handle](const pl_status&) {});
}

}  // namespace polylora::cuda
