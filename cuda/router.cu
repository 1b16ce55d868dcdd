// Gates from logits, their way back with the auxiliary losses, and what happened by group of rows
// (src/kernels.h has the formulas). Gates and d_logits overwrite; statistics accumulate.
//
// A warp a row and mixture: lane l holds experts l, l + 32 ... Sums over rows are those of
// column_sums.h.
#include <type_traits>

#include "cuda/column_sums.h"
#include "cuda/launch.h"
#include "cuda/layout.h"
#include "cuda/operations.h"
#include "cuda/order.h"
#include "cuda/reduce.h"
#include "cuda/rows.h"

namespace polylora::cuda {
namespace {

constexpr int kThreads = 128;

// How logits become probabilities.
struct Routing {
  int64_t mixtures;
  int experts, top_k;
  float scale;
  bool absolute;
};

// Of the row's experts, kEach a lane; those beyond the last have p = 0.
template <int kEach>
struct Probabilities {
  float z[kEach], p[kEach];
  float log_sum;  // log(sum exp z)
};

template <int kEach>
__device__ Probabilities<kEach> probabilities_of(const Routing& routing, const float* logits) {
  const int lane = threadIdx.x % 32;
  Probabilities<kEach> of;
  float most = -INFINITY;
#pragma unroll
  for (int j = 0; j < kEach; ++j) {
    const int e = lane + 32 * j;
    of.z[j] = -INFINITY;
    if (e < routing.experts) {
      of.z[j] = routing.scale * (routing.absolute ? fabsf(logits[e]) : logits[e]);
      most = fmaxf(most, of.z[j]);  // NaN is passed over
    }
  }
  most = warp_max(most);
  float sum = 0;
#pragma unroll
  for (int j = 0; j < kEach; ++j) {
    of.p[j] = lane + 32 * j < routing.experts ? expf(of.z[j] - most) : 0.0f;
    sum += of.p[j];
  }
  sum = warp_sum(sum);
  const float over = 1.0f / sum;
#pragma unroll
  for (int j = 0; j < kEach; ++j) of.p[j] *= over;
  of.log_sum = most + logf(sum);
  return of;
}

// The row and mixture of a warp: row t of mixture m is at t * mixtures + m.
__device__ inline int64_t warp_row() {
  return int64_t(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32;
}

template <int kEach>
__global__ void __launch_bounds__(kThreads)
    router_kernel(Routing routing, Rows logits, const float* bias, int64_t bias_row, Rows gate) {
  const int64_t row = warp_row();
  if (row >= logits.count) return;  // whole warps
  const int lane = threadIdx.x % 32;
  const auto of = probabilities_of<kEach>(routing, logits.at(row));
  float gates[kEach];
  if (routing.top_k == routing.experts) {
#pragma unroll
    for (int j = 0; j < kEach; ++j) gates[j] = of.p[j];
  } else {
    const float* const biases = bias ? bias + row % routing.mixtures * bias_row : nullptr;
    uint64_t keys[kEach];  // 0: no expert, or chosen
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      const int e = lane + 32 * j;
      gates[j] = 0;
      keys[j] = e < routing.experts ? key_of(biases ? of.p[j] + biases[e] : of.p[j], e) : 0;
    }
    float total = 0;
    for (int k = 0; k < routing.top_k; ++k) {
      uint64_t best = 0;
#pragma unroll
      for (int j = 0; j < kEach; ++j) best = larger(best, keys[j]);
      best = warp_max(best);
      float chosen = 0;
#pragma unroll
      for (int j = 0; j < kEach; ++j)
        if (keys[j] == best) {
          keys[j] = 0;
          gates[j] = chosen = of.p[j];
        }
      total += __shfl_sync(kAllLanes, chosen, index_of(best) % 32);
    }
#pragma unroll
    for (int j = 0; j < kEach; ++j) gates[j] /= total;
  }
#pragma unroll
  for (int j = 0; j < kEach; ++j)
    if (lane + 32 * j < routing.experts) gate.at(row)[lane + 32 * j] = gates[j];
}

// What counts as a row's choice: where all experts are used, the one with the largest gate; this
// finds it. Otherwise every gate that is not 0.
template <int kEach>
__device__ int favourite(const Routing& routing, const float (&gates)[kEach]) {
  uint64_t best = 0;
#pragma unroll
  for (int j = 0; j < kEach; ++j) {
    const int e = threadIdx.x % 32 + 32 * j;
    if (e < routing.experts) best = larger(best, key_of(gates[j], e));
  }
  return index_of(warp_max(best));
}
template <int kEach>
__device__ void load_gates(const Routing& routing, const float* gate, float (&gates)[kEach]) {
#pragma unroll
  for (int j = 0; j < kEach; ++j) {
    const int e = threadIdx.x % 32 + 32 * j;
    gates[j] = e < routing.experts ? gate[e] : 0.0f;
  }
}

// ---- Backward

struct AuxiliaryLosses {
  const float* loss_scale;
  float balance, variance, z, supervised;
};

template <int kEach>
__global__ void __launch_bounds__(kThreads)
    favourites_kernel(Routing routing, Rows gate, int32_t* favourites) {
  const int64_t row = warp_row();
  if (row >= gate.count) return;  // whole warps
  float gates[kEach];
  load_gates(routing, gate.at(row), gates);
  const int expert = favourite(routing, gates);
  if (threadIdx.x % 32 == 0) favourites[row] = expert;
}

// A plane is a mixture; of its columns the first E are gates and the others choices.
struct GateTerm {
  Rows gate;
  int64_t mixtures, experts;
  const int32_t* favourites;  // null: the gates that are not 0
  __device__ float operator()(float sum, int64_t mixture, int64_t t, int64_t column) const {
    const int64_t row = t * mixtures + mixture;
    if (column < experts) return sum + gate.at(row)[column];
    const int64_t e = column - experts;
    const bool is_choice = favourites ? favourites[row] == e : gate.at(row)[e] != 0;
    return is_choice ? sum + 1 : sum;
  }
};
struct GateStore {
  float* totals;  // [M][2 E]
  int64_t columns;
  __device__ void operator()(int64_t mixture, int64_t column, float total) const {
    totals[mixture * columns + column] = total;
  }
};

// What the losses over all rows add to every row's gradients: the totals become those of gate_e and
// p_e. A warp a mixture.
__global__ void __launch_bounds__(32)
    shared_gradients_kernel(int experts, int64_t rows, AuxiliaryLosses losses, float* totals) {
  float* const of_gate = totals + int64_t(blockIdx.x) * 2 * experts;
  float* const of_p = of_gate + experts;
  const int lane = threadIdx.x;
  float choices = 0, mean = 0, squares = 0;
  for (int e = lane; e < experts; e += 32) {
    mean += of_gate[e];
    choices += of_p[e];
  }
  choices = warp_sum(choices);
  mean = warp_sum(mean) / float(experts);
  for (int e = lane; e < experts; e += 32) squares += (of_gate[e] - mean) * (of_gate[e] - mean);
  squares = warp_sum(squares);
  const float variance = experts > 1 ? squares / float(experts - 1) : 0.0f;
  const float balance = losses.balance * *losses.loss_scale * float(experts);
  const float weight = losses.variance * *losses.loss_scale * float(rows);
  for (int e = lane; e < experts; e += 32) {
    of_p[e] = choices > 0 ? balance * (of_p[e] / choices) : 0.0f;
    of_gate[e] = experts > 1 && mean > 0
                     ? weight * (2 * (of_gate[e] - mean) / (float(experts - 1) * mean * mean) -
                                 2 * variance / (mean * mean * mean * float(experts)))
                     : 0.0f;
  }
}

// -1 if nothing is known of the row's expert; what is out of range is reported, and taken for that.
__device__ inline int expert_at(const int32_t* expert_of_row, int64_t t, int experts,
                                pl_operation operation, Failure* failure) {
  if (!expert_of_row) return -1;
  const int expert = expert_of_row[t];
  if (expert >= -1 && expert < experts) return expert;
  report_index(failure, operation, "expert_of_row", t, expert, experts);
  return -1;
}

// shared: [M][2 E] as above, null if there are no auxiliary losses.
template <int kEach>
__global__ void __launch_bounds__(kThreads)
    router_backward_kernel(Routing routing, Rows d_gate, Rows logits, Rows gate,
                           AuxiliaryLosses losses, const float* shared,
                           const int32_t* expert_of_row, Rows d_logits, Failure* failure) {
  const int64_t row = warp_row();
  if (row >= logits.count) return;  // whole warps
  const int lane = threadIdx.x % 32, experts = routing.experts;
  const float* const of_gate = shared ? shared + row % routing.mixtures * 2 * experts : nullptr;
  const float* const of_p = of_gate ? of_gate + experts : nullptr;
  const int expert = expert_at(expert_of_row, row / routing.mixtures, experts,
                               PL_OPERATION_router_backward, failure);
  float gates[kEach], d_z[kEach];
  load_gates(routing, gate.at(row), gates);
  float mean = 0;
#pragma unroll
  for (int j = 0; j < kEach; ++j) {
    const int e = lane + 32 * j;
    d_z[j] = 0;
    if (e < experts) d_z[j] = of_gate ? d_gate.at(row)[e] + of_gate[e] : d_gate.at(row)[e];
    mean += d_z[j] * gates[j];
  }
  mean = warp_sum(mean);
#pragma unroll
  for (int j = 0; j < kEach; ++j) d_z[j] = gates[j] * (d_z[j] - mean);
  if (of_p) {
    const auto of = probabilities_of<kEach>(routing, logits.at(row));
    const float loss_scale = *losses.loss_scale;
    const float z_part = 2 * losses.z * loss_scale * of.log_sum;
    const float supervised = expert >= 0 ? losses.supervised * loss_scale : 0.0f;
    float mean_p = 0;
#pragma unroll
    for (int j = 0; j < kEach; ++j)
      if (lane + 32 * j < experts) mean_p += of_p[lane + 32 * j] * of.p[j];
    mean_p = warp_sum(mean_p);
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      const int e = lane + 32 * j;
      if (e < experts)
        d_z[j] += of.p[j] * (of_p[e] - mean_p + z_part) +
                  supervised * (of.p[j] - (e == expert ? 1.0f : 0.0f));
    }
  }
#pragma unroll
  for (int j = 0; j < kEach; ++j) {
    const int e = lane + 32 * j;
    if (e >= experts) continue;
    const bool turns = routing.absolute && logits.at(row)[e] < 0;
    d_logits.at(row)[e] = (turns ? -routing.scale : routing.scale) * d_z[j];
  }
}

// ---- Statistics

// parts[t][m] = what the row adds to the statistics of its group, [3 E + 4].
template <int kEach>
__global__ void __launch_bounds__(kThreads)
    row_statistics_kernel(Routing routing, Rows logits, Rows gate, const int32_t* row_group,
                          int64_t groups, const int32_t* expert_of_row, float* parts,
                          Failure* failure) {
  const int64_t row = warp_row();
  if (row >= logits.count) return;  // whole warps
  const int lane = threadIdx.x % 32, experts = routing.experts;
  const int64_t t = row / routing.mixtures;
  const int64_t group = row_group[t];
  if ((group < 0 || group >= groups) && lane == 0)
    report_index(failure, PL_OPERATION_router_statistics, "row_group", t, group, groups);
  const int expert = expert_at(expert_of_row, t, experts, PL_OPERATION_router_statistics, failure);
  float* const to = parts + row * (3 * int64_t(experts) + 4);
  float gates[kEach];
  load_gates(routing, gate.at(row), gates);
  const auto of = probabilities_of<kEach>(routing, logits.at(row));
  const int best = routing.top_k == experts ? favourite(routing, gates) : -1;
  float chosen = 0, expected = 0;
#pragma unroll
  for (int j = 0; j < kEach; ++j) {
    const int e = lane + 32 * j;
    if (e >= experts) continue;
    to[e] = gates[j];
    to[experts + e] = (best >= 0 ? e == best : gates[j] != 0) ? 1.0f : 0.0f;
    to[2 * experts + e] = of.p[j];
    if (e == expert) to[3 * experts + 3] = of.log_sum - of.z[j];
    if (gates[j] == 0) continue;
    chosen += of.p[j];
    expected += gates[j] * (of.z[j] - of.log_sum);
  }
  chosen = warp_sum(chosen);
  expected = warp_sum(expected);
  if (lane != 0) return;
  to[3 * experts] = 1;
  to[3 * experts + 1] = logf(chosen) - expected;  // gate_e = exp(z_e - log_sum) / chosen
  to[3 * experts + 2] = of.log_sum * of.log_sum;
  if (expert < 0) to[3 * experts + 3] = 0;
}

// A plane is a group of a mixture.
struct StatisticsTerm {
  const float* parts;
  const int32_t* row_group;
  int64_t mixtures, groups, columns;
  __device__ float operator()(float sum, int64_t plane, int64_t t, int64_t column) const {
    if (row_group[t] != plane % groups) return sum;
    return sum + parts[(t * mixtures + plane / groups) * columns + column];
  }
};
struct StatisticsStore {
  float* statistics;
  int64_t groups, mixture_stride, group_stride;
  __device__ void operator()(int64_t plane, int64_t column, float total) const {
    statistics[plane / groups * mixture_stride + plane % groups * group_stride + column] += total;
  }
};

// ---- Launching

template <class Args>
Routing routing_of(const Args& args) {
  return {args.logits.shape[1], int(args.logits.shape[2]), int(args.top_k), args.scale,
          args.absolute != 0};
}

// Calls body with the experts of a lane, a constant.
template <class Body>
void with_experts_of_a_lane(int experts, const Body& body) {
  if (experts <= 32)
    body(std::integral_constant<int, 1>());
  else if (experts <= 128)
    body(std::integral_constant<int, 4>());
  else
    body(std::integral_constant<int, 32>());  // 1024, as the checks allow
}

LaunchShape shape_of(const Rows& logits) {
  return {blocks_for(logits.count, kThreads / 32), kThreads};
}

const int32_t* optional_ints(const pl_tensor& tensor) {
  return tensor.dtype == PL_NONE ? nullptr : static_cast<const int32_t*>(tensor.data);
}

bool has_losses(const pl_router_backward_args& args) {
  return args.loss_scale.dtype != PL_NONE &&
         (args.balance > 0 || args.variance > 0 || args.z > 0 ||
          (args.supervised > 0 && args.expert_of_row.dtype != PL_NONE));
}

// The workspace: totals [M][2 E], favourites [T][M], and what the sums want.
struct BackwardWorkspace {
  float* totals;
  int32_t* favourites;
  ColumnSums sums;
  uint64_t bytes;
};
BackwardWorkspace backward_workspace(const pl_router_backward_args& args) {
  const int64_t rows = args.logits.shape[0], mixtures = args.logits.shape[1];
  const int64_t columns = 2 * args.logits.shape[2];
  auto* const memory = static_cast<float*>(args.header.workspace);
  const int64_t favourites = mixtures * columns, partials = favourites + rows * mixtures;
  const ColumnSums sums = {mixtures, rows, columns, memory + partials};
  return {memory, reinterpret_cast<int32_t*>(memory + favourites), sums,
          uint64_t(partials) * sizeof(float) + sums.workspace_bytes()};
}

struct StatisticsWorkspace {
  float* parts;  // [T][M][3 E + 4]
  ColumnSums sums;
  uint64_t bytes;
};
StatisticsWorkspace statistics_workspace(const pl_router_statistics_args& args) {
  const int64_t rows = args.logits.shape[0], mixtures = args.logits.shape[1];
  const int64_t groups = args.statistics.shape[1], columns = args.statistics.shape[2];
  auto* const memory = static_cast<float*>(args.header.workspace);
  const int64_t partials = rows * mixtures * columns;
  const ColumnSums sums = {mixtures * groups, rows, columns, memory + partials};
  return {memory, sums, uint64_t(partials) * sizeof(float) + sums.workspace_bytes()};
}

}  // namespace

void run_router(Stream& stream, const pl_router_args& args) {
  const Rows logits = rows_of(args.logits), gate = rows_of(args.gate);
  const Routing routing = routing_of(args);
  const bool biased = args.bias.dtype != PL_NONE;
  const auto* const bias = biased ? static_cast<const float*>(args.bias.data) : nullptr;
  with_experts_of_a_lane(routing.experts, [&](auto each) {
    launch(stream, shape_of(logits), router_kernel<each()>, routing, logits, bias,
           biased ? args.bias.strides[0] : int64_t(0), gate);
  });
}

uint64_t workspace_router_backward(const Stream&, const pl_router_backward_args& args) {
  return has_losses(args) ? backward_workspace(args).bytes : 0;
}

void run_router_backward(Stream& stream, const pl_router_backward_args& args) {
  const Rows logits = rows_of(args.logits), gate = rows_of(args.gate);
  const Routing routing = routing_of(args);
  const AuxiliaryLosses losses = {static_cast<const float*>(args.loss_scale.data), args.balance,
                                  args.variance, args.z, args.supervised};
  const float* shared = nullptr;
  if (has_losses(args) && logits.count > 0) {
    const BackwardWorkspace workspace = backward_workspace(args);
    const bool counts_all = routing.top_k == routing.experts;
    if (counts_all)
      with_experts_of_a_lane(routing.experts, [&](auto each) {
        launch(stream, shape_of(gate), favourites_kernel<each()>, routing, gate,
               workspace.favourites);
      });
    sum_columns(stream, workspace.sums,
                GateTerm{gate, routing.mixtures, routing.experts,
                         counts_all ? workspace.favourites : nullptr},
                GateStore{workspace.totals, workspace.sums.columns});
    launch(stream, {unsigned(routing.mixtures), 32}, shared_gradients_kernel, routing.experts,
           workspace.sums.rows, losses, workspace.totals);
    shared = workspace.totals;
  }
  with_experts_of_a_lane(routing.experts, [&](auto each) {
    launch(stream, shape_of(logits), router_backward_kernel<each()>, routing, rows_of(args.d_gate),
           logits, gate, losses, shared, optional_ints(args.expert_of_row), rows_of(args.d_logits),
           stream.failure());
  });
}

uint64_t workspace_router_statistics(const Stream&, const pl_router_statistics_args& args) {
  return statistics_workspace(args).bytes;
}

void run_router_statistics(Stream& stream, const pl_router_statistics_args& args) {
  const Rows logits = rows_of(args.logits), gate = rows_of(args.gate);
  if (logits.count == 0) return;
  const Routing routing = routing_of(args);
  const StatisticsWorkspace workspace = statistics_workspace(args);
  const int64_t groups = args.statistics.shape[1];
  const auto* const row_group = static_cast<const int32_t*>(args.row_group.data);
  with_experts_of_a_lane(routing.experts, [&](auto each) {
    launch(stream, shape_of(logits), row_statistics_kernel<each()>, routing, logits, gate,
           row_group, groups, optional_ints(args.expert_of_row), workspace.parts, stream.failure());
  });
  sum_columns(
      stream, workspace.sums,
      StatisticsTerm{workspace.parts, row_group, routing.mixtures, groups, workspace.sums.columns},
      StatisticsStore{static_cast<float*>(args.statistics.data), groups, args.statistics.strides[0],
                      args.statistics.strides[1]});
}

}  // namespace polylora::cuda
