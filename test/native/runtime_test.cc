// The heap, the queue, and the CPU's device table as C sees it; also meant for the sanitizers.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <map>
#include <thread>

#include "io/safetensors_header.h"
#include "native_test.h"
#include "runtime/failure.h"
#include "runtime/heap.h"
#include "runtime/queue.h"
#include "runtime/red_zone.h"

using namespace polylora;
using namespace polylora::test;

namespace {

constexpr uint64_t kMiB = uint64_t(1) << 20;

// Random blocks, each filled with its own byte: none overlaps another, and all memory comes back.
void test_heap(Random& random) {
  uint64_t retired = 0;
  Heap heap(256 * kMiB, [&](void* base, size_t bytes) {
    unmap_memory(base, bytes);
    retired += bytes;
  });
  std::map<unsigned char*, std::pair<uint64_t, unsigned char>> live;
  const uint64_t sizes[] = {0, 1, 64, 65, 1000, 4096, 32768, 32769, 100000, kMiB, 3 * kMiB + 5};
  uint64_t refused = 0;
  bool whole = true, aligned = true;
  for (int i = 0; i < 20000; ++i) {
    if (live.size() < 400 && random.below(100) < 55) {
      const uint64_t bytes = random.below(4) ? uint64_t(random.below(20000)) : random.pick(sizes);
      void* data;
      const pl_status status = heap.allocate(bytes, &data);
      if (status.code != PL_OK) {
        refused += status.code == PL_OUT_OF_MEMORY;
        continue;
      }
      aligned = aligned && reinterpret_cast<uintptr_t>(data) % 64 == 0;
      const auto mark = static_cast<unsigned char>(random.next());
      std::memset(data, mark, bytes);
      live[static_cast<unsigned char*>(data)] = {bytes, mark};
    } else if (!live.empty()) {
      auto it = live.begin();
      std::advance(it, random.below(int64_t(live.size())));
      for (uint64_t k = 0; k < it->second.first; k += 61)
        whole = whole && it->first[k] == it->second.second;
      heap.release(it->first);
      live.erase(it);
    }
    if (i % 5000 == 4999) heap.trim();
  }
  expect(whole, "blocks keep what was written");
  expect(aligned, "blocks are aligned to 64 bytes");
  expect(heap.usage().reserved <= 256 * kMiB && heap.usage().peak <= 256 * kMiB,
         "the heap stays within its budget");
  for (const auto& block : live) heap.release(block.first);
  expect(heap.usage().used == 0, "nothing is used when all is released");
  const uint64_t reserved = heap.usage().reserved, before = retired;
  heap.trim();
  expect(heap.usage().reserved == 0 && retired - before == reserved, "a trim retires every region");
  void* data;
  expect(heap.allocate(uint64_t(1) << 63, &data).code == PL_OUT_OF_MEMORY, "2^63 bytes");
  expect(heap.allocate(257 * kMiB, &data).code == PL_OUT_OF_MEMORY && !data,
         "more than the budget");
  expect(heap.lend(200 * kMiB).code == PL_OK && heap.allocate(57 * kMiB, &data).code != PL_OK,
         "lent memory counts");
  heap.give_back(200 * kMiB);
  // 192 MiB are held in fragments between blocks that stay: what is free side by side is one.
  std::vector<void*> blocks(6);
  for (void*& block : blocks) heap.allocate(40 * kMiB, &block);
  for (int i = 1; i < 5; ++i) heap.release(blocks[size_t(i)]);
  expect(heap.allocate(120 * kMiB, &data).code == PL_OK, "free regions make room for larger ones");
  heap.release(nullptr);
  heap.release(&heap);
  for (void* block : {blocks[0], blocks[5], data}) heap.release(block);
}

void test_heap_of_heap() {
  Heap lender(100 * kMiB, unmap_memory);
  void *first, *gap, *last, *block, *small;
  for (void** data : {&first, &gap, &last}) lender.allocate(20 * kMiB, data);
  lender.release(gap);
  const uint64_t reserved = lender.usage().reserved, used = lender.usage().used;
  const uint64_t held = Heap::held();
  {
    Heap heap(lender);
    heap.allocate(15 * kMiB, &block);
    expect(block == gap && lender.usage().reserved == reserved, "a gap of the lender is used");
    expect(heap.usage().used == 15 * kMiB && lender.usage().used == used,
           "what is lent counts where it is used");
    heap.release(block);
    void* other;
    lender.allocate(15 * kMiB, &other);
    expect(other != gap, "what is free there is not the lender's");
    lender.release(other);
    heap.allocate(10 * kMiB, &block);
    expect(block == gap, "and serves again");
    heap.release(block);
    heap.trim();
    lender.allocate(20 * kMiB, &other);
    expect(other == gap, "a trim gives it back");
    lender.release(other);
    heap.allocate(100, &small);
    expect(heap.allocate(200 * kMiB, &block).code == PL_OUT_OF_MEMORY && !block,
           "the budget is the lender's");
  }
  lender.allocate(20 * kMiB, &block);
  expect(block == gap, "its end gives everything back");
  expect(Heap::held() - held <= 32 * kMiB, "no byte is counted twice");
  for (void* data : {first, block, last}) lender.release(data);
  expect(lender.usage().used == 0, "nothing is used when all is released");
}

struct Note final : Task {
  Note(std::vector<int>* out, int value, std::vector<int>* codes)
      : out(out), value(value), codes(codes) {}
  void execute(const pl_status& state) override {
    out->push_back(value);
    codes->push_back(state.code);
    if (value == 500) throw cpu::KernelError("the 500th failed");
    if (value == 700) throw cpu::KernelError("the 700th failed");
  }
  std::vector<int>* out;
  int value;
  std::vector<int>* codes;
};

void test_queue() {
  std::vector<int> order, codes;
  bool began = false, ended = false;
  {
    Queue queue(1 << 20);
    queue.start(
        [&] {
          began = true;
          return ok_status();
        },
        [&] { ended = true; });
    for (int i = 0; i < 1000; ++i) queue.push(std::make_unique<Note>(&order, i, &codes));
    while (queue.depth() != 0) std::this_thread::yield();
  }
  bool sorted = order.size() >= 1000;
  for (int i = 0; sorted && i < 1000; ++i)
    sorted = order[size_t(i)] == i && codes[size_t(i)] == (i <= 500 ? PL_OK : PL_DEVICE);
  expect(sorted, "tasks run once and in order, and know of the first failure");
  expect(began && ended, "the queue's thread begins and ends");
}

// Tasks from many threads while the queue closes: each that was accepted is called once.
void test_closing() {
  for (int round = 0; round < 20; ++round) {
    struct Count final : Task {
      explicit Count(std::atomic<int>* calls) : calls(calls) {}
      void execute(const pl_status&) override { ++*calls; }
      std::atomic<int>* calls;
    };
    std::atomic<int> calls{0}, accepted{0}, refused{0};
    Queue queue(1000);
    queue.start([] { return ok_status(); }, [] {});
    std::vector<std::thread> producers;
    for (int t = 0; t < 3; ++t)
      producers.emplace_back([&] {
        for (int i = 0; i < 3000; ++i)
          ++(queue.push(std::make_unique<Count>(&calls)).code == PL_OK ? accepted : refused);
      });
    std::this_thread::sleep_for(std::chrono::microseconds(200 * round));
    queue.close();
    for (std::thread& producer : producers) producer.join();
    expect(calls == accepted && accepted + refused == 9000, "every accepted task is called once");
    int always = 0;
    struct Always final : Task {
      explicit Always(int* calls) : calls(calls) {}
      void execute(const pl_status& state) override { *calls += state.code != PL_OK; }
      int* calls;
    };
    queue.push_always(std::make_unique<Always>(&always));
    expect(always == 1, "what must happen happens on a closed queue too");
  }
}

struct Device {
  const pl_device_table& table = *pl_cpu_device_table();
  pl_stream* stream = nullptr;

  explicit Device(int threads) {
    pl_device_options options = {};
    options.size = sizeof options;
    options.threads = threads;
    options.memory_budget = 512 * kMiB;
    expect(accepted(table.open(&options, &stream)), "a device opens");
  }
  ~Device() { table.close(stream); }
  pl_tensor floats(int64_t size) {
    pl_tensor tensor = {};
    expect(accepted(table.allocate(stream, uint64_t(size) * 4, &tensor.data)), "memory");
    tensor.dtype = PL_F32;
    tensor.rank = 1;
    tensor.shape[0] = size;
    tensor.strides[0] = 1;
    return tensor;
  }
  void fill(const pl_tensor& y, double value) {
    auto args = arguments<pl_fill_args>();
    args.y = y;
    args.value = value;
    expect(accepted(table.fill(stream, &args)), "fill");
  }
};

// Structs, lists and host memory may change as soon as an entry has returned; released memory is
// reused at once.
void test_table() {
  Device device(2);
  const pl_device_table& table = device.table;
  for (int64_t size : {int64_t(1), int64_t(100), int64_t(100000), int64_t(3000000)}) {
    pl_tensor sum = device.floats(size);
    device.fill(sum, 0);
    std::vector<float> host(static_cast<size_t>(size));
    double expected = 0;
    for (int i = 1; i <= 20; ++i) {
      const pl_tensor term = device.floats(size);
      std::fill(host.begin(), host.end(), float(i));
      expect(
          accepted(table.copy_from_host(device.stream, term.data, host.data(), uint64_t(size) * 4)),
          "copy_from_host");
      std::fill(host.begin(), host.end(), -1.0f);
      auto args = arguments<pl_add_args>();
      args.a = args.y = sum;
      args.b = term;
      args.alpha = args.beta = 1;
      expect(accepted(table.add(device.stream, &args)), "add");
      std::memset(static_cast<void*>(&args), 0xff, sizeof args);
      table.release(device.stream, term.data);
      expected += i;
    }
    table.copy_to_host(device.stream, host.data(), sum.data, uint64_t(size) * 4);
    table.release(device.stream, sum.data);
    expect(accepted(table.synchronize(device.stream)), "synchronize");
    expect(std::all_of(host.begin(), host.end(), [&](float value) { return value == expected; }),
           "a sum of terms that share their memory");
  }
  // A list of gradients that is gone when the operation runs.
  const pl_tensor result = device.floats(3);
  {
    std::vector<pl_tensor> gradients;
    for (int i = 0; i < 3; ++i) {
      gradients.push_back(device.floats(4));
      device.fill(gradients.back(), i + 1);
    }
    auto args = arguments<pl_gradient_norm_args>();
    args.gradients = gradients.data();
    args.gradient_count = 3;
    args.result = result;
    args.header.workspace_bytes = table.workspace(device.stream, PL_OPERATION_gradient_norm, &args);
    table.allocate(device.stream, args.header.workspace_bytes, &args.header.workspace);
    expect(accepted(table.gradient_norm(device.stream, &args)), "gradient_norm");
    table.release(device.stream, args.header.workspace);
    for (pl_tensor& gradient : gradients) {
      table.release(device.stream, gradient.data);
      gradient = pl_tensor();
    }
  }
  float norm[3];
  table.copy_to_host(device.stream, norm, result.data, sizeof norm);
  table.synchronize(device.stream);
  expect(std::abs(norm[0] - std::sqrt(4.0f * (1 + 4 + 9))) < 1e-5, "the norm of a list");
  // A writer that is older: its struct ends before the last field. One that says nothing is
  // refused.
  pl_fill_args old = arguments<pl_fill_args>();
  old.y = result;
  old.value = 7;
  old.header.size = offsetof(pl_fill_args, value);
  table.fill(device.stream, &old);
  table.copy_to_host(device.stream, norm, result.data, sizeof norm);
  table.synchronize(device.stream);
  expect(norm[0] == 0, "fields that the writer did not know are zero");
  old.header.size = 0;
  expect(table.fill(device.stream, &old).code == PL_ARGUMENT, "a struct without a size");
  expect(table.fill(device.stream, nullptr).code == PL_ARGUMENT, "no struct");

  pl_device_info info = {};
  info.size = offsetof(pl_device_info, memory_budget);
  info.memory_budget = 77;
  table.describe(device.stream, &info);
  expect(info.threads == 2 && info.memory_budget == 77, "describe writes what its caller knows");
}

#ifdef POLYLORA_ADDRESS_SANITIZER
// What belongs to no tensor is forbidden, from the byte behind one to its whole when it is
// released.
void test_red_zones() {
  const auto forbidden = [](const void* data, int64_t at) {
    return __asan_address_is_poisoned(static_cast<const unsigned char*>(data) + at) != 0;
  };
  Device device(2);
  const pl_device_table& table = device.table;
  for (int64_t size : {int64_t(1), int64_t(16), int64_t(1001), int64_t(3000000)}) {
    const pl_tensor tensor = device.floats(size), next = device.floats(size);
    device.fill(tensor, 1);
    device.fill(next, 2);
    table.synchronize(device.stream);
    expect(!forbidden(tensor.data, 0) && !forbidden(tensor.data, 4 * size - 1),
           "a block is allowed");
    expect(forbidden(tensor.data, 4 * size), "the first byte behind a block is not");
    expect(forbidden(std::max(tensor.data, next.data), -1), "nor is the last before one");
    // What is queued before a release may use the block, what comes after it may not.
    device.fill(tensor, 3);
    table.release(device.stream, tensor.data);
    table.synchronize(device.stream);
    expect(forbidden(tensor.data, 0) && forbidden(tensor.data, 4 * size - 1), "a released block");
    table.release(device.stream, next.data);
  }
}
#endif

// A device that closes calls every callback, whatever is queued; weights and memory left behind are
// freed.
void test_device_close() {
  static std::atomic<int> calls;
  calls = 0;
  {
    Device device(2);
    pl_weight_options options = {};
    options.size = sizeof options;
    options.rows = options.columns = 300;
    options.storage = options.compute = PL_F32;
    pl_weight *kept, *released;
    expect(accepted(device.table.weight_create(device.stream, &options, &kept)), "a weight");
    expect(accepted(device.table.weight_create(device.stream, &options, &released)), "a weight");
    device.table.weight_release(device.stream, released);
    device.table.weight_release(device.stream, released);
    const pl_tensor big = device.floats(8 << 20);
    for (int i = 0; i < 200; ++i) {
      device.fill(big, i);
      device.table.callback(
          device.stream, [](void*, const pl_status*) { ++calls; }, nullptr);
    }
  }
  expect(calls == 200, "every callback comes");
}

// Whatever happens to a header, it is refused by a Failure or describes the file.
void test_headers(Random& random) {
  const std::string whole =
      R"({"__metadata__":{"format":"pt"},"aé":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},)"
      R"("b":{"dtype":"BF16","shape":[3],"data_offsets":[16,22]}})";
  const char* pieces[] = {"{", "}", "[", "]", "\"",   "\\u", "0", "9",
                          "-", ".", ",", ":", "\xff", "\n",  "b", " "};
  int good = 0, bad = 0;
  for (int i = 0; i < 30000; ++i) {
    std::string text = whole;
    for (int64_t k = random.below(4); k >= 0; --k) {
      const size_t at = size_t(random.below(int64_t(text.size())));
      const int64_t kind = random.below(4);
      if (kind == 0) text.erase(at, size_t(random.below(5)));
      if (kind == 1) text.insert(at, random.pick(pieces));
      if (kind == 2) text[at] = char(random.next());
      if (kind == 3) text += text.substr(at, size_t(random.below(20)));
      if (text.empty()) break;
    }
    if (i == 0) text = whole;
    try {
      const auto header = io::parse_header("file", text, 8 + text.size() + 22);
      uint64_t end = 8 + text.size();
      bool filled = true;
      for (const io::SafetensorsEntry& entry : header.entries) {
        filled = filled && entry.begin == end && entry.end >= entry.begin;
        end = entry.end;
      }
      if (!filled || end != 8 + text.size() + 22) expect(false, "tensors fill the file: " + text);
      ++good;
    } catch (const Failure&) {
      ++bad;
    }
  }
  expect(good > 0 && bad > 10000, "some headers are whole and many are not");
}

}  // namespace

int main(int count, char** arguments) {
  Random random{seed_of(count, arguments)};
  test_heap(random);
  test_heap_of_heap();
  test_queue();
  test_closing();
  test_table();
#ifdef POLYLORA_ADDRESS_SANITIZER
  test_red_zones();
#endif
  test_device_close();
  test_headers(random);
  return report();
}
