// CUDA's run-time library: a stream is a thread with a queue. A failure is its stream's, where
// CUDA's would be the whole process's.
#include <cuda.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <mutex>
#include <set>
#include <shared_mutex>
#include <thread>

#include "async.h"
#include "race.h"
#include "sanitize.h"

namespace emulator = polylora::emulator;
using emulator::GridShape;

struct CUevent_st {
  std::mutex mutex;
  std::condition_variable wake;
  bool done = true;
  cudaError_t error = cudaSuccess;
  std::chrono::steady_clock::time_point time;
};

using StreamTask =
    std::function<void(cudaError_t&)>;  // is told of the stream's failure, may set it

// What a stream that captures is given, instead of being run.
struct CUgraph_st {
  std::vector<StreamTask> tasks;
  bool is_valid = true;
};

struct CUgraphExec_st {
  std::shared_ptr<const std::vector<StreamTask>> tasks;
};

struct CUstream_st {
  std::mutex mutex;
  std::condition_variable wake;
  std::deque<StreamTask> tasks;
  CUgraph_st* capture = nullptr;
  bool ending = false;
  bool busy = false;
  cudaError_t error = cudaSuccess;
  std::thread thread;
};

struct CUmemPoolHandle_st {
  std::set<void*> regions;
};

namespace {

constexpr uint64_t kMemory = uint64_t(8) << 30;
constexpr unsigned char kGuardByte = 0xC5;
constexpr uint64_t kGuardBytes = 64;  // behind what cudaMalloc gives

// The blocks that kernels may touch with the guards behind them, and the regions they lie in.
struct Memory {
  uint64_t bytes, guard;
};
struct Blocks {
  std::shared_mutex mutex;
  std::map<const char*, Memory> live;
  std::map<const char*, uint64_t> regions;
  std::map<void*, cudaMemPool_t> pools;  // of the regions that come from one
};
Blocks& blocks() {
  static Blocks value;
  return value;
}

// The entry that begins at or before the address; end() if none does.
template <class Map>
typename Map::iterator entry_before(Map& map, const char* address) {
  const auto after = map.upper_bound(address);
  return after == map.begin() ? map.end() : std::prev(after);
}

void* make_region(size_t bytes) {
  void* memory = nullptr;
  if (bytes > kMemory || posix_memalign(&memory, 256, bytes) != 0) return nullptr;
  std::unique_lock<std::shared_mutex> lock(blocks().mutex);
  blocks().regions[static_cast<char*>(memory)] = bytes;
  return memory;
}

// With the blocks in it that nobody has given back: what comes to lie there next has its own.
void free_region(void* memory) {
  auto* const begin = static_cast<const char*>(memory);
  uint64_t bytes;
  {
    std::unique_lock<std::shared_mutex> lock(blocks().mutex);
    const auto found = blocks().regions.find(begin);
    bytes = found->second;
    blocks().regions.erase(found);
    auto& live = blocks().live;
    live.erase(live.lower_bound(begin), live.lower_bound(begin + bytes));
  }
  emulator::allow(memory, bytes);
  emulator::race::forget(memory, bytes);
  std::free(memory);
}

void open_block(void* data, uint64_t bytes, uint64_t guard) {
  emulator::allow(data, bytes + guard);
  std::memset(data, 0xFF, bytes);
  std::memset(static_cast<char*>(data) + bytes, kGuardByte, guard);
  emulator::forbid(static_cast<char*>(data) + bytes, guard);
  std::unique_lock<std::shared_mutex> lock(blocks().mutex);
  blocks().live[static_cast<char*>(data)] = {bytes, guard};
}

// Empty, or what was written behind it.
std::string close_block(void* data) {
  auto* const bytes = static_cast<unsigned char*>(data);
  Memory block;
  {
    std::unique_lock<std::shared_mutex> lock(blocks().mutex);
    const auto found = blocks().live.find(static_cast<char*>(data));
    if (found == blocks().live.end()) return "";
    block = found->second;
    blocks().live.erase(found);
  }
  emulator::allow(bytes + block.bytes, block.guard);
  uint64_t first = 0;
  while (first < block.guard && bytes[block.bytes + first] == kGuardByte) ++first;
  std::memset(data, 0xFF, block.bytes);
  emulator::forbid(data, block.bytes + block.guard);
  if (first == block.guard) return "";
  return "memory was written " + std::to_string(first) + " bytes behind a block of " +
         std::to_string(block.bytes) + " bytes";
}

std::mutex report_mutex;
std::string& last_report() {
  static std::string value;
  return value;
}
void set_report(const std::string& text) {
  std::lock_guard<std::mutex> lock(report_mutex);
  last_report() = text;
}

thread_local cudaError_t last_error = cudaSuccess;
thread_local CUgraph_st* thread_capture = nullptr;
cudaError_t returned(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

void stream_main(CUstream_st* stream) {
  std::unique_lock<std::mutex> lock(stream->mutex);
  for (;;) {
    stream->wake.wait(lock, [&] { return stream->ending || !stream->tasks.empty(); });
    if (stream->tasks.empty()) return;
    auto task = std::move(stream->tasks.front());
    stream->tasks.pop_front();
    stream->busy = true;
    cudaError_t error = stream->error;
    lock.unlock();
    task(error);
    task = nullptr;
    lock.lock();
    stream->busy = false;
    stream->error = error;
    if (stream->tasks.empty()) stream->wake.notify_all();
  }
}

// What may not be called while this thread captures; it spoils what is captured. CUDA takes some of
// it into a graph, as nodes that nobody here wants.
bool spoils_capture() {
  if (!thread_capture) return false;
  thread_capture->is_valid = false;
  return true;
}

// Into the stream's capture, or to be run.
cudaError_t enqueue(cudaStream_t stream, StreamTask task) {
  std::lock_guard<std::mutex> lock(stream->mutex);
  if (stream->capture) {
    if (stream->capture != thread_capture) stream->capture->is_valid = false;
    if (!stream->capture->is_valid) return returned(cudaErrorStreamCaptureInvalidated);
    stream->capture->tasks.push_back(std::move(task));
    return cudaSuccess;
  }
  if (stream->error != cudaSuccess) {
    // As on the device: nothing can be queued any more, but what is owned here must end.
    return returned(stream->error);
  }
  stream->tasks.push_back(std::move(task));
  stream->wake.notify_all();
  return cudaSuccess;
}

}  // namespace

namespace polylora::emulator {

void require_global(const void* address, size_t bytes, const char* what, Site site) {
  const auto* const at = static_cast<const char*>(address);
  {
    std::shared_lock<std::shared_mutex> lock(blocks().mutex);
    const auto block = entry_before(blocks().live, at);
    if (block != blocks().live.end() && at + bytes <= block->first + block->second.bytes) return;
  }
  fail("%s at %s: %zu bytes at %p are outside every allocation of the device", what,
       describe_site(site).c_str(), bytes, address);
}

DeviceMemory device_memory_at(const void* address) {
  const auto* const at = static_cast<const char*>(address);
  std::shared_lock<std::shared_mutex> lock(blocks().mutex);
  const auto block = entry_before(blocks().live, at);
  if (block != blocks().live.end() && at < block->first + block->second.bytes)
    return {DeviceMemory::Kind::block, block->first, block->first + block->second.bytes};
  const auto region = entry_before(blocks().regions, at);
  const auto next = blocks().regions.upper_bound(at);
  const char* const end =
      next == blocks().regions.end() ? reinterpret_cast<const char*>(UINTPTR_MAX) : next->first;
  if (region == blocks().regions.end()) return {DeviceMemory::Kind::elsewhere, nullptr, end};
  if (at >= region->first + region->second)
    return {DeviceMemory::Kind::elsewhere, region->first + region->second, end};
  return {DeviceMemory::Kind::gap, at, at + 1};
}

cudaError_t enqueue_grid(cudaStream_t stream, const GridShape& shape, std::function<void()> body) {
  // An operation that a test wants to be none for graphs.
  const char* const uncaptured = std::getenv("POLYLORA_EMULATOR_UNCAPTURED");
  if (uncaptured && !std::strcmp(uncaptured, shape.name) && spoils_capture())
    return returned(cudaErrorStreamCaptureUnsupported);
  return enqueue(stream, [shape, body = std::move(body)](cudaError_t& error) {
    if (error != cudaSuccess) return;
    const std::string report = run_grid(shape, body);
    if (report.empty()) return;
    set_report(report);
    error = cudaErrorLaunchFailure;
  });
}

void block_allocated(cudaStream_t stream, void* data, uint64_t bytes, uint64_t guard) {
  enqueue(stream, [=](cudaError_t&) { open_block(data, bytes, guard); });
}

void block_released(cudaStream_t stream, void* data) {
  enqueue(stream, [=](cudaError_t& error) {
    const std::string report = close_block(data);
    if (report.empty() || error != cudaSuccess) return;
    set_report(report);
    error = cudaErrorLaunchFailure;
  });
}

}  // namespace polylora::emulator

extern "C" {

cudaError_t cudaDriverGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  return returned(device == 0 ? cudaSuccess : cudaErrorInvalidDevice);
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  std::snprintf(properties->name, sizeof properties->name, "CUDA emulator");
  return cudaSuccess;
}

namespace {
// POLYLORA_EMULATOR_ARCHITECTURE: 80 (as sm_86, 99 KB of shared memory) or 90.
int architecture() {
  static const int value = [] {
    const char* text = std::getenv("POLYLORA_EMULATOR_ARCHITECTURE");
    return text && !std::strcmp(text, "80") ? 80 : 90;
  }();
  return value;
}
}  // namespace

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = 4;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
      *value = architecture() / 10;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      *value = architecture() == 90 ? 0 : 6;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = architecture() == 90 ? 227 << 10 : 99 << 10;
      return cudaSuccess;
  }
  return returned(cudaErrorInvalidValue);
}
cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** function, unsigned,
                                             unsigned long long,
                                             cudaDriverEntryPointQueryResult* result) {
  const bool known = !std::strcmp(symbol, "cuTensorMapEncodeTiled");
  *function = known ? reinterpret_cast<void*>(&cuTensorMapEncodeTiled) : nullptr;
  *result = known ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return returned(known ? cudaSuccess : cudaErrorInvalidValue);
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *free = *total = kMemory;
  return cudaSuccess;
}
cudaError_t cudaGetLastError() {
  const cudaError_t error = last_error;
  last_error = cudaSuccess;
  return error;
}
const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorLaunchFailure:
      return "cudaErrorLaunchFailure";
    default:
      return "cudaError";
  }
}
const char* cudaGetErrorString(cudaError_t error) {
  if (error != cudaErrorLaunchFailure) return cudaGetErrorName(error);
  static thread_local std::string text;
  std::lock_guard<std::mutex> lock(report_mutex);
  text = last_report();
  return text.c_str();
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new CUstream_st;
  (*stream)->thread = std::thread(stream_main, *stream);
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  {
    std::lock_guard<std::mutex> lock(stream->mutex);
    stream->ending = true;
    stream->wake.notify_all();
  }
  stream->thread.join();
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (spoils_capture()) return returned(cudaErrorStreamCaptureUnsupported);
  std::unique_lock<std::mutex> lock(stream->mutex);
  stream->wake.wait(lock, [&] { return stream->tasks.empty() && !stream->busy; });
  return returned(stream->error);
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (spoils_capture() || stream->capture) return returned(cudaErrorInvalidValue);
  std::lock_guard<std::mutex> lock(stream->mutex);
  stream->capture = thread_capture = new CUgraph_st;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  std::lock_guard<std::mutex> lock(stream->mutex);
  *graph = nullptr;
  if (!stream->capture || stream->capture != thread_capture) return returned(cudaErrorInvalidValue);
  std::unique_ptr<CUgraph_st> capture(stream->capture);
  stream->capture = thread_capture = nullptr;
  if (!capture->is_valid) return returned(cudaErrorStreamCaptureInvalidated);
  *graph = capture.release();
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  *exec = new CUgraphExec_st{std::make_shared<const std::vector<StreamTask>>(graph->tasks)};
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  delete exec;
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  return enqueue(stream, [tasks = exec->tasks](cudaError_t& error) {
    for (const StreamTask& task : *tasks) task(error);
  });
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new CUevent_st;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  if (spoils_capture()) return returned(cudaErrorStreamCaptureUnsupported);
  {
    std::lock_guard<std::mutex> lock(event->mutex);
    event->done = false;
  }
  const cudaError_t queued = enqueue(stream, [event](cudaError_t& error) {
    std::lock_guard<std::mutex> lock(event->mutex);
    event->done = true;
    event->error = error;
    event->time = std::chrono::steady_clock::now();
    event->wake.notify_all();
  });
  if (queued != cudaSuccess) {
    std::lock_guard<std::mutex> lock(event->mutex);
    event->done = true;
    event->error = queued;
  }
  return queued;
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  std::lock_guard<std::mutex> lock(event->mutex);
  return event->done ? event->error : cudaErrorNotReady;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  std::unique_lock<std::mutex> lock(event->mutex);
  event->wake.wait(lock, [&] { return event->done; });
  return returned(event->error);
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  *milliseconds = std::chrono::duration<float, std::milli>(end->time - begin->time).count();
  return cudaSuccess;
}

cudaError_t cudaMemPoolCreate(cudaMemPool_t* pool, const cudaMemPoolProps*) {
  *pool = new CUmemPoolHandle_st;
  return cudaSuccess;
}
cudaError_t cudaMemPoolDestroy(cudaMemPool_t pool) {
  for (void* region : pool->regions) {
    {
      std::unique_lock<std::shared_mutex> lock(blocks().mutex);
      blocks().pools.erase(region);
    }
    free_region(region);
  }
  delete pool;
  return cudaSuccess;
}
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) { return cudaSuccess; }
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t, size_t) { return cudaSuccess; }
cudaError_t cudaMallocFromPoolAsync(void** data, size_t bytes, cudaMemPool_t pool,
                                    cudaStream_t stream) {
  if (spoils_capture()) return returned(cudaErrorStreamCaptureUnsupported);
  {
    std::lock_guard<std::mutex> lock(stream->mutex);
    if (stream->capture) {  // of another thread
      stream->capture->is_valid = false;
      return returned(cudaErrorStreamCaptureUnsupported);
    }
    if (stream->error != cudaSuccess) return returned(stream->error);
  }
  void* const memory = make_region(bytes);
  if (!memory) return returned(cudaErrorMemoryAllocation);
  std::unique_lock<std::shared_mutex> lock(blocks().mutex);
  pool->regions.insert(memory);
  blocks().pools[memory] = pool;
  *data = memory;
  return cudaSuccess;
}
cudaError_t cudaFreeAsync(void* data, cudaStream_t stream) {
  if (spoils_capture()) return returned(cudaErrorStreamCaptureUnsupported);
  return enqueue(stream, [data](cudaError_t&) {
    {
      std::unique_lock<std::shared_mutex> lock(blocks().mutex);
      const auto found = blocks().pools.find(data);
      found->second->regions.erase(data);
      blocks().pools.erase(found);
    }
    free_region(data);
  });
}
cudaError_t cudaMalloc(void** data, size_t bytes) {
  if (spoils_capture()) return returned(cudaErrorStreamCaptureUnsupported);
  *data = make_region(bytes + kGuardBytes);
  if (!*data) return returned(cudaErrorMemoryAllocation);
  open_block(*data, bytes, kGuardBytes);
  return cudaSuccess;
}
cudaError_t cudaFree(void* data) {
  const std::string report = close_block(data);
  free_region(data);
  if (report.empty()) return cudaSuccess;
  set_report(report);
  return returned(cudaErrorLaunchFailure);
}
cudaError_t cudaHostAlloc(void** data, size_t bytes, unsigned) {
  if (spoils_capture()) return returned(cudaErrorStreamCaptureUnsupported);
  *data = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  return returned(*data ? cudaSuccess : cudaErrorMemoryAllocation);
}
cudaError_t cudaFreeHost(void* data) {
  std::free(data);
  return cudaSuccess;
}
cudaError_t cudaHostGetDevicePointer(void** device, void* host, unsigned) {
  *device = host;
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                            cudaStream_t stream) {
  return enqueue(stream, [=](cudaError_t& error) {
    if (error == cudaSuccess && bytes > 0) std::memcpy(to, from, bytes);  // null goes with 0
  });
}
cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t stream) {
  return enqueue(stream, [=](cudaError_t& error) {
    if (error == cudaSuccess && bytes > 0) std::memset(data, value, bytes);
  });
}

CUresult cuTensorMapEncodeTiled(CUtensorMap* out, CUtensorMapDataType type, cuuint32_t rank,
                                void* base, const cuuint64_t* dims, const cuuint64_t* strides,
                                const cuuint32_t* box, const cuuint32_t* element_strides,
                                CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                                CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
  polylora::emulator::TensorMap map = {};
  static_assert(sizeof map <= sizeof *out, "a map must fit");
  map.magic = polylora::emulator::kTensorMapMagic;
  map.element_bytes = type == CU_TENSOR_MAP_DATA_TYPE_FLOAT32    ? 4
                      : type == CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 ? 2
                                                                 : 0;
  constexpr uint32_t swizzles[] = {0, 32, 64, 128};
  map.swizzle_bytes = swizzles[swizzle];
  map.rank = rank;
  map.base = static_cast<const char*>(base);
  if (!map.element_bytes || rank < 1 || rank > 3 || interleave != CU_TENSOR_MAP_INTERLEAVE_NONE ||
      reinterpret_cast<uintptr_t>(base) % 16)
    return CUDA_ERROR_INVALID_VALUE;
  for (cuuint32_t i = 0; i < rank; ++i) {
    map.dims[i] = dims[i];
    map.strides[i] = i == 0 ? map.element_bytes : strides[i - 1];
    map.box[i] = box[i];
    if (box[i] < 1 || box[i] > 256 || element_strides[i] != 1 || dims[i] == 0 ||
        dims[i] > (uint64_t(1) << 32) || (i > 0 && map.strides[i] % 16))
      return CUDA_ERROR_INVALID_VALUE;
  }
  const uint64_t row = uint64_t(box[0]) * map.element_bytes;
  if (row % 16 || (map.swizzle_bytes && row > map.swizzle_bytes)) return CUDA_ERROR_INVALID_VALUE;
  std::memset(out, 0, sizeof *out);
  std::memcpy(out, &map, sizeof map);
  return CUDA_SUCCESS;
}

}  // extern "C"
