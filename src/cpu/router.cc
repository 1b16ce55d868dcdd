#include "cpu/indices.h"
#include "cpu/operations.h"
#include "cpu/rows.h"

#ifndef PL_TARGET_FILE

namespace polylora::cpu {
namespace {

constexpr int64_t kMostExperts = 1024;  // as the checks

// How logits become probabilities, and what is added to their gradient.
struct Routing {
  int64_t experts;
  int64_t top_k;
  float scale;
  bool absolute;
};

struct AuxiliaryLosses {
  float loss_scale;  // of a row; 0: there are none
  float balance, variance, z, supervised;
};

}  // namespace
}  // namespace polylora::cpu

#endif

#define PL_TARGET_FILE "cpu/router.cc"
#include "cpu/for_each_target.h"

#ifdef PL_TARGET
#include "cpu/exponentials.h"

namespace polylora::cpu::PL_TARGET {
namespace {

// z of one row and p = softmax(z); returns log(sum exp z).
float probabilities(const Routing& routing, const float* logits, float* z, float* p) {
  for (int64_t e = 0; e < routing.experts; ++e)
    z[e] = routing.scale * (routing.absolute ? __builtin_fabsf(logits[e]) : logits[e]);
  const float most = largest_of(z, routing.experts, 1.0f);
  const double total = sum_of_exponentials(z, routing.experts, 1.0f, most, p);
  const float over = float(1 / total);
  for (int64_t e = 0; e < routing.experts; ++e) p[e] *= over;
  return most + float(__builtin_log(total));
}

void gate_of(const Routing& routing, const float* logits, const float* bias, float* gate) {
  float z[kMostExperts], p[kMostExperts];
  probabilities(routing, logits, z, p);
  if (routing.top_k == routing.experts) {
    for (int64_t e = 0; e < routing.experts; ++e) gate[e] = p[e];
    return;
  }
  bool chosen[kMostExperts] = {};
  float total = 0;
  for (int64_t k = 0; k < routing.top_k; ++k) {
    int64_t best = -1;
    float most = 0;
    for (int64_t e = 0; e < routing.experts; ++e) {
      const float score = bias ? p[e] + bias[e] : p[e];
      if (!chosen[e] && (best < 0 || score > most)) {
        best = e;
        most = score;
      }
    }
    chosen[best] = true;
    total += p[best];
  }
  for (int64_t e = 0; e < routing.experts; ++e) gate[e] = chosen[e] ? p[e] / total : 0.0f;
}

// Adds 1 for each choice of a row.
void count_choices(const Routing& routing, const float* gate, float* counts) {
  if (routing.top_k == routing.experts) {
    int64_t best = 0;
    for (int64_t e = 1; e < routing.experts; ++e)
      if (gate[e] > gate[best]) best = e;
    counts[best] += 1;
    return;
  }
  for (int64_t e = 0; e < routing.experts; ++e)
    if (gate[e] != 0) counts[e] += 1;
}

// What the losses over all rows add to every row's gradients of gate and p; one mixture.
void shared_gradients(const Routing& routing, const AuxiliaryLosses& losses, const Rows& gate,
                      int64_t mixture, int64_t mixtures, float* of_gate, float* of_p) {
  const int64_t experts = routing.experts;
  const int64_t rows = gate.count / mixtures;
  float counts[kMostExperts] = {}, sums[kMostExperts] = {};
  for (int64_t t = 0; t < rows; ++t) {
    const float* const row = gate.at(t * mixtures + mixture);
    count_choices(routing, row, counts);
    for (int64_t e = 0; e < experts; ++e) sums[e] += row[e];
  }
  float choices = 0, mean = 0, squares = 0;
  for (int64_t e = 0; e < experts; ++e) {
    choices += counts[e];
    mean += sums[e];
  }
  mean /= float(experts);
  for (int64_t e = 0; e < experts; ++e) squares += (sums[e] - mean) * (sums[e] - mean);
  const float variance = experts > 1 ? squares / float(experts - 1) : 0.0f;
  const float weight = losses.variance * losses.loss_scale * float(rows);
  for (int64_t e = 0; e < experts; ++e) {
    of_p[e] = choices > 0
                  ? losses.balance * losses.loss_scale * float(experts) * (counts[e] / choices)
                  : 0.0f;
    of_gate[e] = experts > 1 && mean > 0
                     ? weight * (2 * (sums[e] - mean) / (float(experts - 1) * mean * mean) -
                                 2 * variance / (mean * mean * mean * float(experts)))
                     : 0.0f;
  }
}

void gate_backward(const Routing& routing, const AuxiliaryLosses& losses, const float* of_gate,
                   const float* of_p, const float* d_gate, const float* logits, const float* gate,
                   int32_t expert, float* d_logits) {
  const int64_t experts = routing.experts;
  float d_z[kMostExperts];
  float mean = 0;
  for (int64_t e = 0; e < experts; ++e) {
    d_z[e] = of_gate ? d_gate[e] + of_gate[e] : d_gate[e];
    mean += d_z[e] * gate[e];
  }
  for (int64_t e = 0; e < experts; ++e) d_z[e] = gate[e] * (d_z[e] - mean);
  if (of_p) {
    float z[kMostExperts], p[kMostExperts];
    const float log_sum = probabilities(routing, logits, z, p);
    const float z_part = 2 * losses.z * losses.loss_scale * log_sum;
    const float supervised = expert >= 0 ? losses.supervised * losses.loss_scale : 0.0f;
    float mean_p = 0;
    for (int64_t e = 0; e < experts; ++e) mean_p += of_p[e] * p[e];
    for (int64_t e = 0; e < experts; ++e)
      d_z[e] +=
          p[e] * (of_p[e] - mean_p + z_part) + supervised * (p[e] - (e == expert ? 1.0f : 0.0f));
  }
  for (int64_t e = 0; e < experts; ++e) {
    const float sign = routing.absolute && logits[e] < 0 ? -routing.scale : routing.scale;
    d_logits[e] = sign * d_z[e];
  }
}

void count_row(const Routing& routing, const float* logits, const float* gate, int32_t expert,
               float* statistics) {
  const int64_t experts = routing.experts;
  float z[kMostExperts], p[kMostExperts];
  const float log_sum = probabilities(routing, logits, z, p);
  float chosen = 0, expected = 0;
  for (int64_t e = 0; e < experts; ++e) {
    statistics[e] += gate[e];
    statistics[2 * experts + e] += p[e];
    if (gate[e] == 0) continue;
    chosen += p[e];
    expected += gate[e] * (z[e] - log_sum);
  }
  count_choices(routing, gate, statistics + experts);
  float* const rest = statistics + 3 * experts;
  rest[0] += 1;
  // gate_e = exp(z_e - log_sum) / chosen
  rest[1] += float(__builtin_log(double(chosen))) - expected;
  rest[2] += log_sum * log_sum;
  if (expert >= 0) rest[3] += log_sum - z[expert];
}

}  // namespace
}  // namespace polylora::cpu::PL_TARGET

#else

namespace polylora::cpu {

namespace {

template <class Args>
Routing routing_of(const Args& args) {
  return {args.logits.shape[2], int64_t(args.top_k), args.scale, args.absolute != 0};
}

const int32_t* experts_of(const char* operation, const pl_tensor& expert_of_row, int64_t experts) {
  if (expert_of_row.dtype == PL_NONE) return nullptr;
  const int32_t* const values = ints_of(expert_of_row);
  for (int64_t t = 0; t < expert_of_row.shape[0]; ++t)
    if (values[t] < -1 || values[t] >= experts)
      fail_index(operation, "expert_of_row", t, values[t], experts);
  return values;
}

}  // namespace

void run_router(Pool& pool, const pl_router_args& args) {
  const Rows logits = rows_of(args.logits), gate = rows_of(args.gate);
  const Routing routing = routing_of(args);
  const int64_t mixtures = args.logits.shape[1];
  const float* const bias =
      args.bias.dtype == PL_NONE ? nullptr : static_cast<const float*>(args.bias.data);
  const auto gate_of = PL_SELECT(pool, gate_of);
  pool.parallel_ranges(
      logits.count, rows_per_piece(16 * routing.experts), [&](int64_t begin, int64_t end, Worker&) {
        for (int64_t i = begin; i < end; ++i)
          gate_of(routing, logits.at(i),
                  bias ? bias + i % mixtures * args.bias.strides[0] : nullptr, gate.at(i));
      });
}

void run_router_backward(Pool& pool, const pl_router_backward_args& args) {
  const Rows d_gate = rows_of(args.d_gate), logits = rows_of(args.logits),
             gate = rows_of(args.gate), d_logits = rows_of(args.d_logits);
  const Routing routing = routing_of(args);
  const int64_t mixtures = args.logits.shape[1];
  const int32_t* const experts = experts_of("router_backward", args.expert_of_row, routing.experts);
  const AuxiliaryLosses losses = {
      args.loss_scale.dtype == PL_NONE ? 0.0f : *static_cast<const float*>(args.loss_scale.data),
      args.balance, args.variance, args.z, args.supervised};
  const bool has_losses =
      args.loss_scale.dtype != PL_NONE &&
      (args.balance > 0 || args.variance > 0 || args.z > 0 || (args.supervised > 0 && experts));
  const auto shared_gradients = PL_SELECT(pool, shared_gradients);
  const auto gate_backward = PL_SELECT(pool, gate_backward);
  // Every mixture's rows are summed by one worker, in their order.
  const int64_t rows = mixtures > 0 ? logits.count / mixtures : 0;
  const int64_t rows_a_piece =
      has_losses ? (rows > 0 ? rows : 1) : rows_per_piece(8 * routing.experts);
  const int64_t pieces = (rows + rows_a_piece - 1) / rows_a_piece;
  pool.parallel(mixtures * pieces, [&](int64_t index, Worker&) {
    const int64_t mixture = index / pieces, begin = index % pieces * rows_a_piece;
    const int64_t end = begin + rows_a_piece < rows ? begin + rows_a_piece : rows;
    float of_gate[kMostExperts], of_p[kMostExperts];
    if (has_losses) shared_gradients(routing, losses, gate, mixture, mixtures, of_gate, of_p);
    for (int64_t t = begin; t < end; ++t) {
      const int64_t i = t * mixtures + mixture;
      gate_backward(routing, losses, has_losses ? of_gate : nullptr, has_losses ? of_p : nullptr,
                    d_gate.at(i), logits.at(i), gate.at(i), experts ? experts[t] : -1,
                    d_logits.at(i));
    }
  });
}

void run_router_statistics(Pool& pool, const pl_router_statistics_args& args) {
  const Rows logits = rows_of(args.logits), gate = rows_of(args.gate);
  const Routing routing = routing_of(args);
  const int64_t mixtures = args.logits.shape[1];
  const int32_t* const experts =
      experts_of("router_statistics", args.expert_of_row, routing.experts);
  require_indices("router_statistics", "row_group", args.row_group, args.statistics.shape[1]);
  const int32_t* const groups = ints_of(args.row_group);
  const auto count_row = PL_SELECT(pool, count_row);
  pool.parallel(mixtures, [&](int64_t mixture, Worker&) {
    float* const statistics =
        static_cast<float*>(args.statistics.data) + mixture * args.statistics.strides[0];
    for (int64_t t = 0; t < args.logits.shape[0]; ++t) {
      const int64_t i = t * mixtures + mixture;
      count_row(routing, logits.at(i), gate.at(i), experts ? experts[t] : -1,
                statistics + groups[t] * args.statistics.strides[1]);
    }
  });
}

}  // namespace polylora::cpu

#endif
