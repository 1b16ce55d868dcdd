// Attention's share of the multiply-add peak: attention [instruction set] [threads]
#define PL_TARGET_FILE "../benchmark/native/attention.cc"
#include "cpu/for_each_target.h"

#ifdef PL_TARGET

namespace polylora::cpu::PL_TARGET {
namespace {

// Twelve independent chains; returns the flops done.
double multiply_adds(int64_t rounds, float* sink) {
  Floats chains[12];
  for (int i = 0; i < 12; ++i) chains[i] = broadcast(float(i));
  const Floats a = broadcast(0.999f), b = broadcast(1e-3f);
  for (int64_t round = 0; round < rounds; ++round)
#pragma GCC unroll 12
    for (int i = 0; i < 12; ++i) chains[i] = fma(chains[i], a, b);
  Floats total = zeros();
  for (int i = 0; i < 12; ++i) total = total + chains[i];
  *sink = sum(total);
  return double(rounds) * 12 * kLanes * 2;
}

}  // namespace
}  // namespace polylora::cpu::PL_TARGET

#else

#include <cmath>

#include "measure.h"

using namespace polylora;
using namespace polylora::benchmark;

int main(int count, char** arguments) {
  const cpu::InstructionSet set = instruction_set_of(count, arguments);
  const int threads = threads_of(count, arguments);
  cpu::Pool pool(threads, set);
  using namespace polylora::cpu;
  std::vector<float> sinks(64);
  const auto peak_of = [&] {
    double flops = 0;
    const double time = best_time(threads, [&] {
      std::vector<double> done(static_cast<size_t>(threads));
      pool.parallel(threads, [&](int64_t i, Worker&) {
        done[size_t(i)] = PL_SELECT(pool, multiply_adds)(1 << 18, &sinks[size_t(i)]);
      });
      flops = 0;
      for (double d : done) flops += d;
    });
    return flops / time;
  };
  const bool json = prints_json();
  if (!json) {
    std::printf("%s, %d threads, multiply-add peak %.1f GFLOP/s\n", instruction_set_name(set),
                threads, peak_of() * 1e-9);
    std::printf("%-34s %9s %7s %9s %7s\n", "", "forward", "", "backward", "");
  }
  struct Case {
    int64_t sequences, length, heads, key_heads, d;
  };
  const Case cases[] = {{16, 50, 12, 12, 16}, {8, 64, 6, 6, 32},    {8, 256, 6, 6, 32},
                        {8, 64, 14, 2, 64},   {4, 128, 14, 2, 64},  {2, 256, 14, 2, 64},
                        {1, 512, 14, 2, 64},  {1, 1024, 14, 2, 64}, {8, 64, 32, 8, 128},
                        {1, 512, 32, 8, 128}, {1, 1024, 8, 8, 128}, {1, 512, 8, 4, 256}};
  for (const Case& c : cases) {
    const int64_t total = c.sequences * c.length;
    // As from one product for q, k and v.
    const int64_t width = (c.heads + 2 * c.key_heads) * c.d;
    Buffer qkv({total, width}), o({total, c.heads, c.d}), d_o({total, c.heads, c.d}),
        lse({c.heads, total}), dqkv({total, width});
    const auto part = [&](Buffer& buffer, int64_t first, int64_t heads) {
      pl_tensor t = buffer.tensor();
      t.data = static_cast<float*>(t.data) + first * c.d;
      t.rank = 3;
      t.shape[1] = heads;
      t.shape[2] = c.d;
      t.strides[1] = c.d;
      t.strides[2] = 1;
      return t;
    };
    std::vector<int32_t> bounds;
    for (int64_t s = 0; s <= c.sequences; ++s) bounds.push_back(int32_t(s * c.length));
    pl_attention_args args = {};
    args.q = part(qkv, 0, c.heads);
    args.k = part(qkv, c.heads, c.key_heads);
    args.v = part(qkv, c.heads + c.key_heads, c.key_heads);
    args.cu_seqlens = int_tensor(bounds);
    args.scale = float(1 / std::sqrt(double(c.d)));
    args.o = o.tensor();
    args.lse = lse.tensor();
    pl_attention_backward_args backward = {};
    backward.q = args.q;
    backward.k = args.k;
    backward.v = args.v;
    backward.o = args.o;
    backward.lse = args.lse;
    backward.d_o = d_o.tensor();
    backward.cu_seqlens = args.cu_seqlens;
    backward.scale = args.scale;
    backward.dq = part(dqkv, 0, c.heads);
    backward.dk = part(dqkv, c.heads, c.key_heads);
    backward.dv = part(dqkv, c.heads + c.key_heads, c.key_heads);
    std::vector<float> workspace;
    const double peak = peak_of();
    const double forward_time = best_time(
        threads, [&] { execute(PL_OPERATION_attention, run_attention, pool, args, workspace); });
    const double backward_time = best_time(threads, [&] {
      execute(PL_OPERATION_attention_backward, run_attention_backward, pool, backward, workspace);
    });
    // Query-key pairs below and on the diagonal; 2 products forward, 5 backward.
    const double pairs =
        double(c.sequences) * double(c.length) * double(c.length + 1) / 2 * double(c.heads);
    const double forward = 2 * 2 * pairs * double(c.d), back = 5 * 2 * pairs * double(c.d);
    if (json) {
      char name[80];
      std::snprintf(name, sizeof name, "%ldx%ld heads %ld/%ld of %ld", long(c.sequences),
                    long(c.length), long(c.heads), long(c.key_heads), long(c.d));
      print_json("attention", name,
                 {{"seconds", forward_time},
                  {"share", forward / forward_time / peak},
                  {"backwardSeconds", backward_time},
                  {"backwardShare", back / backward_time / peak}});
      continue;
    }
    std::printf("%3ld x %4ld, heads %2ld/%2ld of %3ld %6.0f us %6.1f%% %7.0f us %6.1f%%\n",
                long(c.sequences), long(c.length), long(c.heads), long(c.key_heads), long(c.d),
                forward_time * 1e6, 100 * forward / forward_time / peak, backward_time * 1e6,
                100 * back / backward_time / peak);
  }

  if (!json) std::printf("%-34s %9s\n", "against the cache", "");
  struct CachedCase {
    int64_t sequences, rows, length, heads, key_heads,
        d;  // rows of each sequence, the last of `length` positions
  };
  const CachedCase cached_cases[] = {{1, 1, 200, 14, 2, 64},   {1, 1, 1000, 14, 2, 64},
                                     {8, 1, 500, 14, 2, 64},   {1, 500, 500, 14, 2, 64},
                                     {4, 100, 100, 14, 2, 64}, {8, 1, 200, 6, 6, 32},
                                     {8, 100, 100, 6, 6, 32},  {1, 500, 500, 32, 8, 128}};
  for (const CachedCase& c : cached_cases) {
    Buffer q({c.sequences * c.rows, c.heads, c.d}), o({c.sequences * c.rows, c.heads, c.d});
    Buffer k({c.sequences, c.length, c.key_heads, c.d}),
        v({c.sequences, c.length, c.key_heads, c.d});
    std::vector<int32_t> sequence, position;
    double pairs = 0;
    for (int64_t b = 0; b < c.sequences; ++b)
      for (int64_t i = 0; i < c.rows; ++i) {
        sequence.push_back(int32_t(b));
        position.push_back(int32_t(c.length - c.rows + i));
        pairs += double(position.back() + 1) * double(c.heads);
      }
    pl_attention_cached_args args = {};
    args.q = q.tensor();
    args.k_cache = k.tensor();
    args.v_cache = v.tensor();
    args.row_sequence = int_tensor(sequence);
    args.row_position = int_tensor(position);
    args.scale = 0.1f;
    args.o = o.tensor();
    std::vector<float> workspace;
    const double peak = peak_of();
    const double time = best_time(threads, [&] {
      execute(PL_OPERATION_attention_cached, run_attention_cached, pool, args, workspace);
    });
    if (json) {
      char name[80];
      std::snprintf(name, sizeof name, "%ldx%ld of %ld, heads %ld/%ld of %ld", long(c.sequences),
                    long(c.rows), long(c.length), long(c.heads), long(c.key_heads), long(c.d));
      print_json("cache", name,
                 {{"seconds", time}, {"share", 4 * pairs * double(c.d) / time / peak}});
      continue;
    }
    std::printf("%3ld x %4ld of %4ld, heads %2ld/%2ld of %3ld %6.0f us %6.1f%%, cache %5.1f GB/s\n",
                long(c.sequences), long(c.rows), long(c.length), long(c.heads), long(c.key_heads),
                long(c.d), time * 1e6, 100 * 4 * pairs * double(c.d) / time / peak,
                8e-9 * double(c.sequences * c.length * c.key_heads * c.d) / time);
  }
  return 0;
}

#endif
