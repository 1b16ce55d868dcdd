// Memory, copies to and from the host, and weights.
//
// Memory comes from the driver's stream-ordered pool in regions; the heap hands out blocks of them
// in the order of the queue (runtime/heap.h), so that a released block is reusable at once.
#include <cstring>

#include "checks/check.h"
#include "cuda/device.h"
#include "cuda/weight.h"

extern "C" const pl_device_table* polylora_device_table(void);

namespace polylora::cuda {
namespace {

#ifdef POLYLORA_CUDA_EMULATED
constexpr uint64_t kGuardBytes = 64;  // behind every block, watched by the emulator

// In the order of the queue, or with every replay.
template <class Body>
void note_block(Device& device, Body body) {
  if (device.recorder.is_recording())
    device.recorder.add(std::make_unique<Always<Body>>(std::move(body)));
  else
    push_always(device, std::move(body));
}
#else
constexpr uint64_t kGuardBytes = 0;
#endif

}  // namespace

pl_status allocate(pl_stream* stream, uint64_t bytes, void** data) {
  Device& self = device_of(stream);
  Heap& heap = self.recorder.is_recording() ? self.recorder.heap() : self.heap();
  const pl_status status = heap.allocate(bytes + kGuardBytes, data);
#ifdef POLYLORA_CUDA_EMULATED
  if (status.code == PL_OK)
    note_block(self, [&self, block = *data, bytes](const pl_status&) {
      emulator::block_allocated(self.handle(), block, bytes, kGuardBytes);
    });
#endif
  return status;
}

void release(pl_stream* stream, void* data) {
  Device& self = device_of(stream);
#ifdef POLYLORA_CUDA_EMULATED
  const auto body = [&self, data](const pl_status&) {
    emulator::block_released(self.handle(), data);
  };
  if (self.recorder.is_recording() && self.recorder.heap().owns(data))
    note_block(self, body);
  else
    push_always(self, body);
#endif
  if (!self.recorder.release(data)) self.heap().release(data);
}

void trim(pl_stream* stream) {
  Device& self = device_of(stream);
  self.heap().trim();
}

pl_status copy_from_host(pl_stream* stream, void* data, const void* host, uint64_t bytes) {
  if (bytes == 0) return ok_status();
  Device& self = device_of(stream);
  if (self.recorder.is_recording()) return not_recordable("a copy from the host");
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
  if (self.recorder.is_recording()) return not_recordable("a copy to the host");
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

// ---- Weights

pl_status weight_create(pl_stream* stream, const pl_weight_options* options, pl_weight** out) try {
  *out = nullptr;
  if (pl_status status = check::check_weight_options(options); status.code != PL_OK) return status;
  Device& self = device_of(stream);
  if (self.recorder.is_recording()) return not_recordable("a new weight");
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

}  // namespace polylora::cuda
