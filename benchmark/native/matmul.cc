// Products against the peaks measured in the same run with the same threads: the float32 FMA and
// bf16 dot product rates of the cores, and the rate at which they read memory.
//
//   matmul [threads] [instruction set] [filter]
//
// Every repetition measures the peak and the product one after the other; printed are the median of
// their shares, and what the fastest repetition has of the highest peak. The two agree on a machine
// of one's own; where the neighbours of a virtual machine take units of its cores away for a while,
// the first says what they left to either, and the second compares both at their best.
#define PL_TARGET_FILE "../benchmark/native/matmul.cc"
#include "cpu/for_each_target.h"
#ifdef PL_TARGET
namespace polylora::cpu::PL_TARGET {
namespace {

constexpr int kChains = kLanes == 16 ? 24 : 12;

// Returns the floating-point operations it made.
static double fma_peak(int64_t repetitions, float* sink) {
  Floats chains[kChains];
  const Floats x = broadcast(1.0f), y = broadcast(sink[0] * 1e-9f);
#pragma GCC unroll 32
  for (int i = 0; i < kChains; ++i) chains[i] = broadcast(float(i));
  for (int64_t r = 0; r < repetitions; ++r) {
#pragma GCC unroll 32
    for (int i = 0; i < kChains; ++i) chains[i] = fma(chains[i], x, y);
#pragma GCC unroll 32
    for (int i = 0; i < kChains; ++i) asm volatile("" : "+v"(chains[i]));
  }
  Floats total = zeros();
#pragma GCC unroll 32
  for (int i = 0; i < kChains; ++i) total = total + chains[i];
  sink[0] = sum(total);
  return 2.0 * kLanes * kChains * double(repetitions);
}

static void read_memory(const float* data, int64_t count, float* sink) {
  Floats totals[8];
  for (int i = 0; i < 8; ++i) totals[i] = zeros();
  for (int64_t at = 0; at + 8 * kLanes <= count; at += 8 * kLanes)
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) totals[i] = totals[i] + load(data + at + i * kLanes);
  for (int i = 1; i < 8; ++i) totals[0] = totals[0] + totals[i];
  sink[0] = sum(totals[0]);
}

}  // namespace
}  // namespace polylora::cpu::PL_TARGET
#else
#include <dirent.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "cpu/operations.h"
#include "cpu/weight.h"
#include "measure.h"
#include "runtime/heap.h"

#if defined(__x86_64__)
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512bf16"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bf16")
#endif
namespace {
double dot_peak(int64_t repetitions, float* sink) {
  __m512 chains[24];
  const __m512bh x = (__m512bh)_mm512_set1_epi32(int(sink[0])), y = x;
#pragma GCC unroll 32
  for (int i = 0; i < 24; ++i) chains[i] = _mm512_setzero_ps();
  for (int64_t r = 0; r < repetitions; ++r) {
#pragma GCC unroll 32
    for (int i = 0; i < 24; ++i) chains[i] = _mm512_dpbf16_ps(chains[i], x, y);
#pragma GCC unroll 32
    for (int i = 0; i < 24; ++i) asm volatile("" : "+v"(chains[i]));
  }
#pragma GCC unroll 32
  for (int i = 1; i < 24; ++i) chains[0] = chains[0] + chains[i];
  sink[0] = chains[0][0];
  return 2.0 * 32 * 24 * double(repetitions);
}
}  // namespace
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

using namespace polylora::cpu;

namespace {

using polylora::benchmark::now;

// Of all threads: what other programs take from the cores does not count. The clock of the process
// would leave out what threads have run since the last tick; those of the threads do not.
std::vector<clockid_t> thread_clocks;

void find_thread_clocks() {
  DIR* tasks = opendir("/proc/self/task");
  if (!tasks) return;
  while (const dirent* entry = readdir(tasks))
    if (const int id = std::atoi(entry->d_name); id > 0)
      thread_clocks.push_back(clockid_t(~unsigned(id) << 3 | 6));  // as pthread_getcpuclockid
  closedir(tasks);
}

double processor_time() {
  double total = 0;
  timespec time;
  for (const clockid_t clock : thread_clocks)
    if (clock_gettime(clock, &time) == 0)
      total += double(time.tv_sec) + double(time.tv_nsec) * 1e-9;
  return total;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Memory as a device hands it out: in huge pages where the system has them.
template <class T>
struct Allocator {
  using value_type = T;
  Allocator() = default;
  template <class U>
  Allocator(const Allocator<U>&) {}
  T* allocate(size_t count) {
    void* data = polylora::map_memory(count * sizeof(T));
    if (!data) throw std::bad_alloc();
    return static_cast<T*>(data);
  }
  void deallocate(T* data, size_t count) { polylora::unmap_memory(data, count * sizeof(T)); }
  bool operator==(const Allocator&) const { return true; }
  bool operator!=(const Allocator&) const { return false; }
};
using Buffer = std::vector<float, Allocator<float> >;

Pool* pool;
const char* filter = "";
Buffer memory;  // beyond every cache

// Rates of one thread of the pool while all are busy.
double fma_rate() {
  float sinks[256] = {};
  double work[256] = {};
  const double start = processor_time();
  pool->parallel(pool->threads(), [&](int64_t i, Worker&) {
    work[i] = PL_SELECT(*pool, fma_peak)(60000, sinks + i);
  });
  double total = 0;
  for (int i = 0; i < pool->threads(); ++i) total += work[i];
  return total / (processor_time() - start);
}

double dot_rate() {
#if defined(__x86_64__)
  if (pool->instruction_set() == InstructionSet::avx512_bf16) {
    float sinks[256] = {};
    double work[256] = {};
    const double start = processor_time();
    pool->parallel(pool->threads(),
                   [&](int64_t i, Worker&) { work[i] = dot_peak(60000, sinks + i); });
    double total = 0;
    for (int i = 0; i < pool->threads(); ++i) total += work[i];
    return total / (processor_time() - start);
  }
#endif
  return fma_rate();
}

double read_rate() {
  std::vector<float> sinks(4096);
  const double start = now();
  pool->parallel_ranges(int64_t(memory.size()), 1 << 18, [&](int64_t begin, int64_t end, Worker&) {
    PL_SELECT(*pool, read_memory)
    (memory.data() + begin, end - begin, &sinks[size_t(begin >> 18) % 4096]);
  });
  return double(memory.size()) * 4 / (now() - start);
}

// Shares of the arithmetic peak: by the clock (which idle workers and other programs lengthen) and
// by the time the processor spent.
void measure(const char* kind, const std::string& name, double operations, double bytes, bool dot,
             const std::function<void()>& body) {
  if (name.find(filter) == std::string::npos) return;
  body();
  std::vector<double> shares, seconds, busy_shares, rates;
  const double begun = now();
  for (int repetition = 0;
       repetition < 300 &&
       (repetition < 7 || now() - begun < 0.5 * polylora::benchmark::patience());
       ++repetition) {
    rates.push_back(dot ? dot_rate() : fma_rate());
    const double arithmetic = operations / rates.back();
    const double start = now(), start_busy = processor_time();
    body();
    const double took = now() - start, busy = processor_time() - start_busy;
    seconds.push_back(took);
    shares.push_back(arithmetic / took / pool->threads());
    busy_shares.push_back(arithmetic / busy);
  }
  std::sort(busy_shares.begin(), busy_shares.end());
  const double best_share = operations / *std::max_element(rates.begin(), rates.end()) /
                            *std::min_element(seconds.begin(), seconds.end()) / pool->threads();
  if (polylora::benchmark::prints_json()) {
    polylora::benchmark::print_json(kind, name,
                                    {{"seconds", median(seconds)},
                                     {"flops", operations},
                                     {"bytes", bytes},
                                     {"share", median(shares)},
                                     {"busyShare", median(busy_shares)},
                                     {"bestShare", best_share}});
    return;
  }
  std::printf(
      "%-40s %9.3f ms %6.1f GFLOP/s  %5.1f%% of peak, busy %5.1f%% (%5.1f to %5.1f), best %5.1f%%  "
      "%6.2f GB/s\n",
      name.c_str(), median(seconds) * 1e3, operations / median(seconds) * 1e-9,
      median(shares) * 100, median(busy_shares) * 100, busy_shares[busy_shares.size() / 10] * 100,
      busy_shares[busy_shares.size() * 9 / 10] * 100, best_share * 100,
      bytes / median(seconds) * 1e-9);
  std::fflush(stdout);
}

pl_tensor tensor(float* data, int64_t rows, int64_t columns) {
  pl_tensor t = {};
  t.data = data;
  t.dtype = PL_F32;
  t.rank = 2;
  t.shape[0] = rows;
  t.shape[1] = columns;
  t.strides[0] = columns;
  t.strides[1] = 1;
  return t;
}

pl_tensor vector(float* data, int64_t count) {
  pl_tensor t = tensor(data, count, 1);
  t.rank = 1;
  t.strides[0] = 1;
  return t;
}

Buffer random_floats(int64_t count) {
  Buffer out(static_cast<size_t>(count));
  uint32_t state = 12345;
  for (float& value : out) {
    state = state * 1664525u + 1013904223u;
    value = float(int32_t(state)) * 0x1p-31f;
  }
  return out;
}

struct PackedWeight {
  Buffer memory;
  pl_weight* handle;
  PackedWeight(int64_t rows, int64_t columns, pl_dtype storage, pl_dtype compute, Buffer& source) {
    pl_weight_options options = {sizeof(pl_weight_options), rows, columns, storage, compute};
    memory.resize(weight_bytes(options) / 4);
    handle = create_weight(options, memory.data());
    pl_weight_update_args update = {};
    update.weight = handle;
    update.source = tensor(source.data(), rows, columns);
    run_weight_update(*pool, update);
  }
  ~PackedWeight() { destroy_weight(handle); }
};

const char* layout_names[] = {"NT", "NN", "TN"};

// rank 0: no low-rank segment
void product(pl_layout layout, int64_t m, int64_t k, int64_t n, pl_dtype storage, pl_dtype compute,
             int64_t rank, float dropout) {
  Buffer x = random_floats(m * k), w = random_floats(k * n), y(static_cast<size_t>(m * n));
  Buffer p = random_floats(m * rank + 1), b = random_floats(n * rank + 1);
  std::vector<int32_t> rows(static_cast<size_t>(std::max(m, k)), 3);
  int32_t step = 1;
  std::unique_ptr<PackedWeight> weight;
  if (layout != PL_TN)
    weight.reset(
        new PackedWeight(layout == PL_NT ? n : k, layout == PL_NT ? k : n, storage, compute, w));
  pl_segment base = {}, low = {};
  base.x = layout == PL_TN ? tensor(x.data(), k, m) : tensor(x.data(), m, k);
  if (weight)
    base.weight = weight->handle;
  else
    base.w = tensor(w.data(), k, n);
  low.x = tensor(p.data(), m, rank);
  low.w = layout == PL_NT ? tensor(b.data(), n, rank) : tensor(b.data(), rank, n);
  std::vector<pl_segment> segments;
  if (layout == PL_NT)
    segments = {base, low};
  else
    segments = {low, base};
  if (rank == 0) segments = {base};
  pl_matmul_args args = {};
  args.header.size = sizeof args;
  args.layout = layout;
  args.segments = segments.data();
  args.segment_count = uint32_t(segments.size());
  args.y = tensor(y.data(), m, n);
  if (dropout > 0) {
    (layout == PL_NN ? segments[0].mask_after : segments[0].mask_w) = 1;
    args.dropout.probability = dropout;
    args.dropout.step = vector(nullptr, 1);
    args.dropout.step.data = &step;
    args.dropout.row_sample.data = args.dropout.row_position.data = rows.data();
  }
  std::string name = std::string(layout_names[layout]) + " " + std::to_string(m) + "x" +
                     std::to_string(k) + "x" + std::to_string(n);
  if (layout != PL_TN)
    name += storage == PL_F32 ? " f32" : compute == PL_F32 ? " bf16->f32" : " bf16";
  if (rank) name += " + rank " + std::to_string(rank);
  if (dropout > 0) name += " dropout";
  const double element = storage == PL_F32 ? 4 : 2;
  const char* const kind = layout == PL_TN && m <= 64 ? "rank" : m <= 32 ? "row" : "product";
  measure(kind, name, 2.0 * double(m) * double(n) * double(k + rank),
          double(k * n) * element + double(m * k + m * n) * 4, compute == PL_BF16,
          [&] { run_matmul(*pool, args); });
}

void project(int64_t t, int64_t k, int64_t r, float dropout) {
  Buffer x = random_floats(t * k), a = random_floats(r * k), scale = random_floats(r);
  Buffer s(static_cast<size_t>(t * r));
  std::vector<int32_t> rows(static_cast<size_t>(t), 3);
  int32_t step = 1;
  pl_low_rank_project_args args = {};
  args.x = tensor(x.data(), t, k);
  args.a = tensor(a.data(), r, k);
  args.rank_scale = vector(scale.data(), r);
  args.s = tensor(s.data(), t, r);
  args.dropout.probability = dropout;
  args.dropout.step.data = &step;
  args.dropout.row_sample.data = args.dropout.row_position.data = rows.data();
  measure("rank",
          "project " + std::to_string(t) + "x" + std::to_string(k) + " rank " + std::to_string(r) +
              (dropout > 0 ? " dropout" : ""),
          2.0 * double(t * k * r), double(t * k + t * r + r * k) * 4, false,
          [&] { run_low_rank_project(*pool, args); });
}

void backward(int64_t t, int64_t n, int64_t r) {
  Buffer dy = random_floats(t * n), b = random_floats(n * r), p = random_floats(t * r);
  Buffer scale = random_floats(r), out(static_cast<size_t>(t * r)), d_b(static_cast<size_t>(n * r));
  pl_low_rank_backward_args args = {};
  args.dy = tensor(dy.data(), t, n);
  args.b = tensor(b.data(), n, r);
  args.p = tensor(p.data(), t, r);
  args.rank_scale = vector(scale.data(), r);
  args.t = tensor(out.data(), t, r);
  args.d_b = tensor(d_b.data(), n, r);
  Buffer workspace(workspace_of(PL_OPERATION_low_rank_backward, &args, pool->threads()) / 4 + 1);
  args.header.workspace = workspace.data();
  args.header.workspace_bytes = workspace.size() * 4;
  measure("rank",
          "backward " + std::to_string(t) + "x" + std::to_string(n) + " rank " + std::to_string(r),
          4.0 * double(t * n * r), double(t * n + 2 * t * r + 3 * n * r) * 4, false,
          [&] { run_low_rank_backward(*pool, args); });
}

void expand(int64_t t, int64_t n, int64_t r) {
  Buffer p = random_floats(t * r), b = random_floats(n * r), y(static_cast<size_t>(t * n));
  pl_segment segment = {};
  segment.x = tensor(p.data(), t, r);
  segment.w = tensor(b.data(), n, r);
  pl_matmul_args args = {};
  args.layout = PL_NT;
  args.segments = &segment;
  args.segment_count = 1;
  args.y = tensor(y.data(), t, n);
  measure("rank",
          "expand " + std::to_string(t) + "x" + std::to_string(n) + " rank " + std::to_string(r),
          2.0 * double(t * n * r), double(2 * t * n + t * r + n * r) * 4, false,
          [&] { run_matmul(*pool, args); });
}

void head(int64_t t, int64_t d, int64_t v, pl_dtype storage, pl_dtype compute) {
  Buffer x = random_floats(t * d), w = random_floats(v * d), d_x(static_cast<size_t>(t * d));
  Buffer loss(static_cast<size_t>(t));
  std::vector<int32_t> rows(static_cast<size_t>(t)), labels(static_cast<size_t>(t));
  for (int64_t i = 0; i < t; ++i) {
    rows[size_t(i)] = int32_t(i);
    labels[size_t(i)] = int32_t(i * 37 % v);
  }
  float scale = 1;
  PackedWeight weight(v, d, storage, compute, w);
  pl_head_cross_entropy_args args = {};
  args.x = tensor(x.data(), t, d);
  args.weight = weight.handle;
  args.rows = vector(nullptr, t);
  args.rows.data = rows.data();
  args.labels = args.rows;
  args.labels.data = labels.data();
  args.loss_scale = vector(&scale, 1);
  args.loss = vector(loss.data(), t);
  args.d_x = tensor(d_x.data(), t, d);
  Buffer workspace(workspace_of(PL_OPERATION_head_cross_entropy, &args, pool->threads()) / 4 + 1);
  args.header.workspace = workspace.data();
  args.header.workspace_bytes = workspace.size() * 4;
  measure("head",
          "head " + std::to_string(t) + "x" + std::to_string(d) + "x" + std::to_string(v) +
              (storage == PL_F32   ? " f32"
               : compute == PL_F32 ? " bf16->f32"
                                   : " bf16"),
          4.0 * double(t) * double(d) * double(v), 0, compute == PL_BF16,
          [&] { run_head_cross_entropy(*pool, args); });
}

void gather(int64_t t, int64_t d, int64_t v, pl_dtype storage) {
  Buffer w = random_floats(v * d), y(static_cast<size_t>(t * d));
  std::vector<int32_t> indices(static_cast<size_t>(t));
  for (int64_t i = 0; i < t; ++i) indices[size_t(i)] = int32_t(i * 7919 % v);
  PackedWeight weight(v, d, storage, PL_F32, w);
  pl_gather_rows_args args = {};
  args.weight = weight.handle;
  args.indices = vector(nullptr, t);
  args.indices.data = indices.data();
  args.y = tensor(y.data(), t, d);
  measure("memory",
          "gather " + std::to_string(t) + " of " + std::to_string(v) + "x" + std::to_string(d), 0,
          double(t * d) * 4, false, [&] { run_gather_rows(*pool, args); });
}

void update(int64_t rows, int64_t columns, pl_dtype storage) {
  Buffer w = random_floats(rows * columns);
  PackedWeight weight(rows, columns, storage, PL_F32, w);
  pl_weight_update_args args = {};
  args.weight = weight.handle;
  args.source = tensor(w.data(), rows, columns);
  measure("memory",
          "update " + std::to_string(rows) + "x" + std::to_string(columns) +
              (storage == PL_F32 ? " f32" : " bf16"),
          0, double(rows * columns) * 4, false, [&] { run_weight_update(*pool, args); });
}

}  // namespace

int main(int count, char** list) {
  const int threads = count > 1 ? std::atoi(list[1]) : 2;
  InstructionSet set = detect_instruction_set();
  if (count > 2 && !parse_instruction_set(list[2], &set)) return 2;
  if (set > detect_instruction_set()) return 2;
  if (count > 3) filter = list[3];
  Pool workers(threads < 1 ? 1 : threads, set);
  pool = &workers;
  find_thread_clocks();
  memory.assign(size_t(64) << 20, 1.0f);
  const auto usual = [](double (*rate)()) {
    std::vector<double> rates;
    for (int i = 0; i < 21; ++i) rates.push_back(rate());
    return median(rates);
  };
  const double fma = usual(fma_rate), dot = usual(dot_rate), read = usual(read_rate);
  if (polylora::benchmark::prints_json())
    polylora::benchmark::print_json("peak", instruction_set_name(set),
                                    {{"threads", double(workers.threads())},
                                     {"fmaFlopsPerThread", fma},
                                     {"dotFlopsPerThread", dot},
                                     {"readBytes", read}});
  else
    std::printf(
        "%s, %d threads: a thread's FMA %.1f GFLOP/s, dot product %.1f GFLOP/s, reading %.1f "
        "GB/s\n",
        instruction_set_name(set), workers.threads(), fma * 1e-9, dot * 1e-9, read * 1e-9);
  const pl_dtype kinds[][2] = {{PL_F32, PL_F32}, {PL_BF16, PL_F32}, {PL_BF16, PL_BF16}};
  for (const auto& kind : kinds)
    for (const pl_layout layout : {PL_NT, PL_NN}) {
      product(layout, 1024, 1024, 1024, kind[0], kind[1], 0, 0);
      product(layout, 512, 896, 4864, kind[0], kind[1], 0, 0);
      product(layout, 512, 4864, 896, kind[0], kind[1], 0, 0);
      product(layout, 1024, 1024, 1024, kind[0], kind[1], 16, 0);
      for (const int64_t r : {4, 16, 64}) product(layout, 512, 4864, 896, kind[0], kind[1], r, 0);
      product(layout, 512, 896, 896, kind[0], kind[1], 0, 0);
      product(layout, 512, 896, 896, kind[0], kind[1], 16, 0);
      product(layout, 2048, 192, 512, kind[0], kind[1], 0, 0);
      product(layout, 2048, 192, 512, kind[0], kind[1], 16, 0);
      product(layout, 2048, 192, 192, kind[0], kind[1], 0, 0);
      product(layout, 100, 896, 896, kind[0], kind[1], 0, 0);
    }
  product(PL_NN, 512, 896, 896, PL_F32, PL_F32, 16, 0.1f);
  product(PL_TN, 1024, 1024, 1024, PL_F32, PL_F32, 0, 0);
  product(PL_TN, 4864, 512, 896, PL_F32, PL_F32, 0, 0);
  product(PL_TN, 512, 2048, 192, PL_F32, PL_F32, 0, 0);
  for (const int64_t r : {4, 16, 64}) product(PL_TN, r, 512, 4864, PL_F32, PL_F32, 0, 0);
  product(PL_TN, 16, 512, 896, PL_F32, PL_F32, 0, 0);
  product(PL_TN, 16, 2048, 896, PL_F32, PL_F32, 0, 0);
  product(PL_TN, 16, 2048, 192, PL_F32, PL_F32, 0, 0);
  product(PL_TN, 16, 2048, 896, PL_F32, PL_F32, 0, 0.1f);
  for (const int64_t r : {4, 16, 64, 80}) {
    project(512, 896, r, 0);
    project(512, 4864, r, 0);
    project(2048, 192, r, 0);
    project(512, 896, r, 0.1f);
    backward(512, 896, r);
    backward(512, 4864, r);
    backward(2048, 192, r);
    expand(512, 896, r);
    expand(512, 4864, r);
  }
  for (const auto& kind : kinds)
    for (const int64_t m : {1, 2, 4, 8, 16, 32})
      product(PL_NT, m, 896, 4864 * 8, kind[0], kind[1], 0, 0);
  for (const auto& kind : kinds) {
    head(256, 896, 50000, kind[0], kind[1]);
    head(1024, 192, 4096, kind[0], kind[1]);
  }
  gather(2048, 192, 4096, PL_F32);
  gather(2048, 896, 50000, PL_F32);
  update(4864, 896, PL_F32);
  update(4864, 896, PL_BF16);
  return 0;
}
#endif
