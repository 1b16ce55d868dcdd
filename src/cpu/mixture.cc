#include "cpu/operations.h"
#include "cpu/rows.h"

#define PL_TARGET_FILE "cpu/mixture.cc"
#include "cpu/for_each_target.h"

#ifdef PL_TARGET

namespace polylora::cpu::PL_TARGET {
namespace {

// One row; the steps from one expert to the next are 0 where A or B is shared.
void mix(const float* s, int64_t s_step, const float* gate, float* p, int64_t p_step,
         int64_t experts, int64_t rank) {
  if (p_step == 0) {
    for (int64_t i = 0; i < rank; i += kLanes) {
      Floats sums = zeros();
      for (int64_t e = 0; e < experts; ++e)
        sums = fma(broadcast(gate[e]), load_some(s + e * s_step + i, rank - i), sums);
      store_some(p + i, sums, rank - i);
    }
    return;
  }
  for (int64_t e = 0; e < experts; ++e)
    for (int64_t i = 0; i < rank; i += kLanes)
      store_some(p + e * p_step + i, broadcast(gate[e]) * load_some(s + e * s_step + i, rank - i),
                 rank - i);
}

void mix_backward(const float* g, int64_t g_step, const float* s, int64_t s_step, const float* gate,
                  const float* rank_scale, float* d_gate, float* t, int64_t experts, int64_t rank) {
  if (d_gate)
    for (int64_t e = 0; e < experts; ++e) {
      Floats sums = zeros();
      for (int64_t i = 0; i < rank; i += kLanes)
        sums = fma(load_some(g + e * g_step + i, rank - i), load_some(s + e * s_step + i, rank - i),
                   sums);
      d_gate[e] = sum(sums);
    }
  if (s_step == 0) {
    for (int64_t i = 0; i < rank; i += kLanes) {
      Floats sums = zeros();
      for (int64_t e = 0; e < experts; ++e)
        sums = fma(broadcast(gate[e]), load_some(g + e * g_step + i, rank - i), sums);
      store_some(t + i, load_some(rank_scale + i, rank - i) * sums, rank - i);
    }
    return;
  }
  for (int64_t e = 0; e < experts; ++e)
    for (int64_t i = 0; i < rank; i += kLanes)
      store_some(t + e * s_step + i,
                 load_some(rank_scale + e * s_step + i, rank - i) *
                     (broadcast(gate[e]) * load_some(g + e * g_step + i, rank - i)),
                 rank - i);
}

}  // namespace
}  // namespace polylora::cpu::PL_TARGET

#else

namespace polylora::cpu {

namespace {

struct Ranks {
  int64_t rank, s_step, p_step;
};

// From the columns of s and p (or g); checked to fit.
Ranks ranks_of(int64_t s, int64_t p, int64_t experts) {
  if (s == p) return {s / experts, s / experts, s / experts};
  return s < p ? Ranks{s, 0, s} : Ranks{p, p, 0};
}

}  // namespace

void run_mixture(Pool& pool, const pl_mixture_args& args) {
  const int64_t experts = args.gate.shape[1], columns = args.s.shape[1];
  const Rows s = rows_of(args.s), gate = rows_of(args.gate), p = rows_of(args.p);
  const Ranks ranks = ranks_of(columns, args.p.shape[1], experts);
  if (ranks.rank == 0) return;
  const auto mix = PL_SELECT(pool, mix);
  pool.parallel_ranges(
      s.count, rows_per_piece(experts * ranks.rank), [&](int64_t begin, int64_t end, Worker&) {
        for (int64_t t = begin; t < end; ++t)
          mix(s.at(t), ranks.s_step, gate.at(t), p.at(t), ranks.p_step, experts, ranks.rank);
      });
}

void run_mixture_backward(Pool& pool, const pl_mixture_backward_args& args) {
  const int64_t experts = args.gate.shape[1], columns = args.s.shape[1];
  const bool wants_gate = args.d_gate.dtype != PL_NONE;
  const Rows g = rows_of(args.g), s = rows_of(args.s), gate = rows_of(args.gate),
             t_rows = rows_of(args.t);
  const Rows d_gate = wants_gate ? rows_of(args.d_gate) : Rows{};
  const Ranks ranks = ranks_of(columns, args.g.shape[1], experts);
  const float* const rank_scale = static_cast<const float*>(args.rank_scale.data);
  const auto backward = PL_SELECT(pool, mix_backward);
  // Of rank 0 there is nothing but a gate that moves nothing.
  pool.parallel_ranges(gate.count, rows_per_piece(experts * (ranks.rank + 1)),
                       [&](int64_t begin, int64_t end, Worker&) {
                         for (int64_t t = begin; t < end; ++t)
                           backward(ranks.rank ? g.at(t) : nullptr, ranks.p_step,
                                    ranks.rank ? s.at(t) : nullptr, ranks.s_step, gate.at(t),
                                    rank_scale, wants_gate ? d_gate.at(t) : nullptr,
                                    ranks.rank ? t_rows.at(t) : nullptr, experts, ranks.rank);
                       });
}

}  // namespace polylora::cpu

#endif
