// p_e = gate_e s_e, and back: t_e = rank_scale gate_e g_e, d_gate_e = <g_e, s_e>. All overwrite.
//
// Both ways are the same weighting of E slices of a row: each apart, one slice E times, or the sum
// over the experts in their order, as s, p or neither are shared.
#include "cuda/layout.h"
#include "cuda/operations.h"
#include "cuda/rows.h"

namespace polylora::cuda {
namespace {

// The steps from one expert's columns to the next are 0 where A (s) or B (p, g) is shared.
struct Ranks {
  int64_t experts, rank, s_step, p_step;
};

// From the columns of s and p (or g); checked to fit.
Ranks ranks_of(int64_t s, int64_t p, int64_t experts) {
  if (s == p) return {experts, s / experts, s / experts, s / experts};
  return s < p ? Ranks{experts, s, 0, s} : Ranks{experts, p, p, 0};
}

// Four columns of a slice of `to` for each i.
template <bool kAligned>
struct Weigh {
  Rows from, gate, to;
  const float* rank_scale;  // null: 1
  int64_t from_step, to_step, experts, rank;
  int64_t fours;   // of a slice
  int64_t slices;  // of a row of `to`

  __device__ void operator()(int64_t i) const {
    const int64_t column = i % fours * 4, slice = i / fours % slices, row = i / fours / slices;
    const float* const gates = gate.at(row);
    float4 sum = {0, 0, 0, 0};
    if (slices == experts) {
      const float g = gates[slice];
      const float4 v = load_four<kAligned>(from.at(row) + slice * from_step, column, rank);
      sum = {g * v.x, g * v.y, g * v.z, g * v.w};
    } else {
      for (int64_t e = 0; e < experts; ++e) {
        const float g = gates[e];
        const float4 v = load_four<kAligned>(from.at(row) + e * from_step, column, rank);
        sum = {fmaf(g, v.x, sum.x), fmaf(g, v.y, sum.y), fmaf(g, v.z, sum.z), fmaf(g, v.w, sum.w)};
      }
    }
    if (rank_scale) {
      const float4 s = load_four<kAligned>(rank_scale + slice * to_step, column, rank);
      sum = {s.x * sum.x, s.y * sum.y, s.z * sum.z, s.w * sum.w};
    }
    store_four<kAligned>(to.at(row) + slice * to_step, column, rank, sum);
  }
};

void weigh(Stream& stream, const Rows& from, int64_t from_step, const Rows& gate, const Rows& to,
           int64_t to_step, const float* rank_scale, const Ranks& ranks) {
  const int64_t fours = (ranks.rank + 3) / 4, slices = to_step == 0 ? 1 : ranks.experts;
  const int64_t count = to.count * slices * fours;
  if (ranks.rank % 4 == 0 && are_aligned(from) && are_aligned(to) &&
      rows_are_aligned(rank_scale, 0))
    for_each_element(stream, count,
                     Weigh<true>{from, gate, to, rank_scale, from_step, to_step, ranks.experts,
                                 ranks.rank, fours, slices});
  else
    for_each_element(stream, count,
                     Weigh<false>{from, gate, to, rank_scale, from_step, to_step, ranks.experts,
                                  ranks.rank, fours, slices});
}

// One expert of a row for each i. Ranks are short: a thread goes through one, from first to last.
struct GateGradient {
  Rows g, s, d_gate;
  Ranks ranks;
  __device__ void operator()(int64_t i) const {
    const int64_t row = i / ranks.experts, expert = i % ranks.experts;
    float sum = 0;
    if (ranks.rank > 0) {
      const float* const gs = g.at(row) + expert * ranks.p_step;
      const float* const ss = s.at(row) + expert * ranks.s_step;
      for (int64_t j = 0; j < ranks.rank; ++j) sum = fmaf(gs[j], ss[j], sum);
    }
    d_gate.at(row)[expert] = sum;
  }
};

}  // namespace

void run_mixture(Stream& stream, const pl_mixture_args& args) {
  const Ranks ranks = ranks_of(args.s.shape[1], args.p.shape[1], args.gate.shape[1]);
  weigh(stream, rows_of(args.s), ranks.s_step, rows_of(args.gate), rows_of(args.p), ranks.p_step,
        nullptr, ranks);
}

void run_mixture_backward(Stream& stream, const pl_mixture_backward_args& args) {
  const Ranks ranks = ranks_of(args.s.shape[1], args.g.shape[1], args.gate.shape[1]);
  const Rows g = rows_of(args.g), s = rows_of(args.s), gate = rows_of(args.gate);
  if (args.d_gate.dtype != PL_NONE)
    for_each_element(stream, gate.count * ranks.experts,
                     GateGradient{g, s, rows_of(args.d_gate), ranks});
  weigh(stream, g, ranks.p_step, gate, rows_of(args.t), ranks.s_step,
        static_cast<const float*>(args.rank_scale.data), ranks);
}

}  // namespace polylora::cuda
