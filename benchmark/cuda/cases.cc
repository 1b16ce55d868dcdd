#include "cases.h"

#include <cmath>
#include <utility>

namespace polylora::benchmark {
namespace {

#define PREPARE(name) device.prepare(PL_OPERATION_##name, device.table().name, name)

float bound_of(int64_t columns) { return 1 / std::sqrt(float(columns)); }

double real(int64_t value) { return double(value); }

// ---- Products

Case product(pl_layout layout, int64_t m, int64_t n, int64_t k) {
  const char* const kind = layout == PL_NT ? "product-nt" : "product-nn";
  return {kind,
          {m, n, k},
          2 * real(m) * real(n) * real(k),
          4 * real(m) * real(n + k) + 2 * real(n) * real(k),
          [=](Device& device) {
            const pl_tensor x = device.uniform({m, k}), y = device.empty({m, n});
            pl_weight* const weight = layout == PL_NT ? device.weight(n, k, bound_of(k))
                                                      : device.weight(k, n, bound_of(k));
            return Prepared{{device.product(layout, {segment(x, weight)}, y)}, {y}};
          }};
}

// ---- A linear layer, forward and data gradient: frozen, and with low-rank experts beside it

struct Layer {
  int64_t tokens, in, out;
  double operations() const { return 4 * real(tokens) * real(in) * real(out); }
  double bytes() const { return 8 * real(tokens) * real(in + out) + 4 * real(in) * real(out); }
};

Case frozen(Layer layer) {
  return {"frozen",
          {layer.tokens, layer.in, layer.out},
          layer.operations(),
          layer.bytes(),
          [=](Device& device) {
            const auto [tokens, in, out] = layer;
            const pl_tensor x = device.uniform({tokens, in}), dy = device.uniform({tokens, out});
            const pl_tensor y = device.empty({tokens, out}), dx = device.empty({tokens, in});
            pl_weight* const weight = device.weight(out, in, bound_of(in));
            return Prepared{{device.product(PL_NT, {segment(x, weight)}, y),
                             device.product(PL_NN, {segment(dy, weight)}, dx)},
                            {y, dx}};
          }};
}

// Shrink; the product with its rank segment; both rank gradients from one read of dy; dX; dA.
Case lora(Layer layer, int64_t rank) {
  return {"lora",
          {layer.tokens, layer.in, layer.out, rank},
          layer.operations() + 6 * real(layer.tokens) * real(layer.in + layer.out) * real(rank),
          layer.bytes(),
          [=](Device& device) {
            const auto [tokens, in, out] = layer;
            const pl_tensor x = device.uniform({tokens, in}), dy = device.uniform({tokens, out});
            const pl_tensor a = device.uniform({rank, in}, bound_of(in));
            const pl_tensor b = device.uniform({out, rank}, bound_of(rank));
            const pl_tensor scale = device.filled({rank}, 2);
            const pl_tensor s = device.empty({tokens, rank}), t = device.empty({tokens, rank});
            const pl_tensor y = device.empty({tokens, out}), dx = device.empty({tokens, in});
            const pl_tensor da = device.empty({rank, in}), db = device.filled({out, rank}, 0);
            pl_weight* const weight = device.weight(out, in, bound_of(in));
            pl_low_rank_project_args low_rank_project = {};
            low_rank_project.x = x;
            low_rank_project.a = a;
            low_rank_project.rank_scale = scale;
            low_rank_project.s = s;
            low_rank_project.bf16_operands = 1;
            pl_low_rank_backward_args low_rank_backward = {};
            low_rank_backward.dy = dy;
            low_rank_backward.b = b;
            low_rank_backward.p = s;
            low_rank_backward.rank_scale = scale;
            low_rank_backward.t = t;
            low_rank_backward.d_b = db;
            low_rank_backward.bf16_operands = 1;
            return Prepared{{PREPARE(low_rank_project),
                             device.product(PL_NT, {segment(x, weight), segment(s, b)}, y),
                             PREPARE(low_rank_backward),
                             device.product(PL_NN, {segment(t, a), segment(dy, weight)}, dx),
                             device.product(PL_TN, {segment(t, x)}, da)},
                            {y, dx, da, db}};
          }};
}

// HydraLoRA's layer: one A, experts' B, and a softmax router whose rows are stacked onto A's, so
// that its logits come from the same read of x and its gradient goes into the same products.
Case hydra(Layer layer, int64_t rank, int64_t experts) {
  const double ranks = real(rank + experts) + real(rank * experts);
  return {
      "hydra",
      {layer.tokens, layer.in, layer.out, rank, experts},
      layer.operations() + 3 * real(layer.tokens) * real(layer.in + layer.out) * ranks,
      layer.bytes(),
      [=](Device& device) {
        const auto [tokens, in, out] = layer;
        const int64_t stacked = rank + experts, all = rank * experts;
        const pl_tensor x = device.uniform({tokens, in}), dy = device.uniform({tokens, out});
        const pl_tensor a = device.uniform({stacked, in}, bound_of(in));
        const pl_tensor b = device.uniform({out, all}, bound_of(rank));
        const pl_tensor ones = device.filled({stacked > all ? stacked : all}, 1);
        const pl_tensor sl = device.empty({tokens, stacked});
        const pl_tensor td = device.empty({tokens, stacked});
        const pl_tensor s = columns_of(sl, 0, rank), t = columns_of(td, 0, rank);
        const pl_tensor logits = reshaped(columns_of(sl, rank, experts), {tokens, 1, experts});
        const pl_tensor d_logits = reshaped(columns_of(td, rank, experts), {tokens, 1, experts});
        const pl_tensor gate = device.empty({tokens, experts});
        const pl_tensor d_gate = device.empty({tokens, experts});
        const pl_tensor p = device.empty({tokens, all}), g = device.empty({tokens, all});
        const pl_tensor y = device.empty({tokens, out}), dx = device.empty({tokens, in});
        const pl_tensor da = device.empty({stacked, in}), db = device.filled({out, all}, 0);
        pl_weight* const weight = device.weight(out, in, bound_of(in));
        const auto first = [&](int64_t count) {
          pl_tensor part = ones;
          part.shape[0] = count;
          return part;
        };

        pl_low_rank_project_args low_rank_project = {};
        low_rank_project.x = x;
        low_rank_project.a = a;
        low_rank_project.rank_scale = first(stacked);
        low_rank_project.s = sl;
        low_rank_project.bf16_operands = 1;
        pl_router_args router = {};
        router.logits = logits;
        router.scale = 1;
        router.top_k = uint32_t(experts);
        router.gate = reshaped(gate, {tokens, 1, experts});
        pl_mixture_args mixture = {};
        mixture.s = s;
        mixture.gate = gate;
        mixture.p = p;
        pl_low_rank_backward_args low_rank_backward = {};
        low_rank_backward.dy = dy;
        low_rank_backward.b = b;
        low_rank_backward.p = p;
        low_rank_backward.rank_scale = first(all);
        low_rank_backward.t = g;
        low_rank_backward.d_b = db;
        low_rank_backward.bf16_operands = 1;
        pl_mixture_backward_args mixture_backward = {};
        mixture_backward.g = g;
        mixture_backward.s = s;
        mixture_backward.gate = gate;
        mixture_backward.rank_scale = first(rank);
        mixture_backward.d_gate = d_gate;
        mixture_backward.t = t;
        pl_router_backward_args router_backward = {};
        router_backward.d_gate = reshaped(d_gate, {tokens, 1, experts});
        router_backward.logits = logits;
        router_backward.gate = router.gate;
        router_backward.scale = 1;
        router_backward.top_k = uint32_t(experts);
        router_backward.d_logits = d_logits;
        return Prepared{
            {PREPARE(low_rank_project), PREPARE(router), PREPARE(mixture),
             device.product(PL_NT, {segment(x, weight), segment(p, b)}, y),
             PREPARE(low_rank_backward), PREPARE(mixture_backward), PREPARE(router_backward),
             device.product(PL_NN, {segment(td, a), segment(dy, weight)}, dx),
             device.product(PL_TN, {segment(td, x)}, da)},
            {y, dx, da, db}};
      }};
}

// ---- Cross entropy of a frozen head, and the gradient of its input

Case cross_entropy(int64_t rows, int64_t columns, int64_t vocabulary) {
  return {"cross-entropy",
          {rows, columns, vocabulary},
          4 * real(rows) * real(columns) * real(vocabulary),
          8 * real(rows) * real(columns) + 4 * real(columns) * real(vocabulary),
          [=](Device& device) {
            std::vector<int32_t> numbers, labels;
            for (int64_t i = 0; i < rows; ++i) {
              numbers.push_back(int32_t(i));
              labels.push_back(int32_t(i * 7919 % vocabulary));
            }
            pl_head_cross_entropy_args head_cross_entropy = {};
            head_cross_entropy.x = device.uniform({rows, columns});
            head_cross_entropy.weight = device.weight(vocabulary, columns, bound_of(columns) * 4);
            head_cross_entropy.rows = device.integers(numbers);
            head_cross_entropy.labels = device.integers(labels);
            head_cross_entropy.loss_scale = device.filled({1}, 1 / real(rows));
            head_cross_entropy.loss = device.empty({rows});
            head_cross_entropy.d_x = device.empty({rows, columns});
            return Prepared{{PREPARE(head_cross_entropy)},
                            {head_cross_entropy.loss, head_cross_entropy.d_x}};
          }};
}

// ---- Causal attention over sequences of one length

Case attention(bool backward, int64_t sequences, int64_t length, int64_t heads, int64_t key_heads,
               int64_t d) {
  const int64_t tokens = sequences * length;
  const double product = real(heads) * real(d) * real(tokens) * real(length + 1);  // causal half
  const double floats = 2 * real(heads + key_heads) * real(tokens) * real(d);
  return {backward ? "attention-both" : "attention",
          {sequences, length, heads, key_heads, d},
          (backward ? 7 : 2) * product,
          4 * floats * (backward ? 3 : 1),
          [=](Device& device) {
            std::vector<int32_t> bounds;
            for (int64_t s = 0; s <= sequences; ++s) bounds.push_back(int32_t(s * length));
            pl_attention_args attention = {};
            attention.q = device.uniform({tokens, heads, d}, 2);
            attention.k = device.uniform({tokens, key_heads, d}, 2);
            attention.v = device.uniform({tokens, key_heads, d});
            attention.cu_seqlens = device.integers(bounds);
            attention.scale = bound_of(d);
            attention.o = device.empty({tokens, heads, d});
            attention.lse = device.empty({heads, tokens});
            attention.bf16_operands = 1;
            Prepared prepared{{PREPARE(attention)}, {attention.o, attention.lse}};
            if (!backward) return prepared;
            pl_attention_backward_args attention_backward = {};
            attention_backward.q = attention.q;
            attention_backward.k = attention.k;
            attention_backward.v = attention.v;
            attention_backward.o = attention.o;
            attention_backward.lse = attention.lse;
            attention_backward.d_o = device.uniform({tokens, heads, d});
            attention_backward.cu_seqlens = attention.cu_seqlens;
            attention_backward.scale = attention.scale;
            attention_backward.dq = device.empty({tokens, heads, d});
            attention_backward.dk = device.empty({tokens, key_heads, d});
            attention_backward.dv = device.empty({tokens, key_heads, d});
            attention_backward.bf16_operands = 1;
            prepared.operations.push_back(PREPARE(attention_backward));
            for (const pl_tensor& gradient :
                 {attention_backward.dq, attention_backward.dk, attention_backward.dv})
              prepared.outputs.push_back(gradient);
            return prepared;
          }};
}

// ---- What memory limits

Case copy(int64_t count) {
  return {"copy", {count}, 0, 8 * real(count), [=](Device& device) {
            pl_copy_args copy = {};
            copy.x = device.uniform({count});
            copy.y = device.empty({count});
            return Prepared{{PREPARE(copy)}, {copy.y}, 0};
          }};
}

Case rms_norm(int64_t rows, int64_t columns) {
  return {"rms-norm", {rows, columns}, 0, 20 * real(rows) * real(columns), [=](Device& device) {
            pl_rms_norm_args rms_norm = {};
            rms_norm.x = device.uniform({rows, columns});
            rms_norm.weight = device.uniform({columns});
            rms_norm.epsilon = 1e-6f;
            rms_norm.y = device.empty({rows, columns});
            rms_norm.rstd = device.empty({rows});
            pl_rms_norm_backward_args rms_norm_backward = {};
            rms_norm_backward.dy = device.uniform({rows, columns});
            rms_norm_backward.x = rms_norm.x;
            rms_norm_backward.weight = rms_norm.weight;
            rms_norm_backward.rstd = rms_norm.rstd;
            rms_norm_backward.dx = device.empty({rows, columns});
            return Prepared{{PREPARE(rms_norm), PREPARE(rms_norm_backward)},
                            {rms_norm.y, rms_norm_backward.dx},
                            1e-5};
          }};
}

Case swiglu(int64_t rows, int64_t columns) {
  return {"swiglu", {rows, columns}, 0, 32 * real(rows) * real(columns), [=](Device& device) {
            pl_swiglu_args swiglu = {};
            swiglu.gate = device.uniform({rows, columns}, 4);
            swiglu.up = device.uniform({rows, columns});
            swiglu.y = device.empty({rows, columns});
            pl_swiglu_backward_args swiglu_backward = {};
            swiglu_backward.dy = device.uniform({rows, columns});
            swiglu_backward.gate = swiglu.gate;
            swiglu_backward.up = swiglu.up;
            swiglu_backward.d_gate = device.empty({rows, columns});
            swiglu_backward.d_up = device.empty({rows, columns});
            return Prepared{{PREPARE(swiglu), PREPARE(swiglu_backward)},
                            {swiglu.y, swiglu_backward.d_gate, swiglu_backward.d_up},
                            1e-5};
          }};
}

}  // namespace

std::vector<Case> all_cases(bool small) {
  if (small)
    return {product(PL_NT, 131, 137, 72),
            product(PL_NN, 131, 136, 77),
            frozen({70, 136, 129}),
            lora({70, 136, 129}, 5),
            hydra({70, 136, 129}, 3, 4),
            cross_entropy(37, 72, 515),
            attention(false, 2, 75, 4, 2, 40),
            attention(true, 2, 75, 4, 2, 40),
            copy(12345),
            rms_norm(33, 515),
            swiglu(33, 515)};
  const Layer square = {8192, 4096, 4096}, wide = {8192, 4096, 14336};
  return {product(PL_NT, 4096, 4096, 4096),
          product(PL_NT, 4096, 14336, 4096),
          product(PL_NT, 8192, 8192, 8192),
          product(PL_NN, 4096, 4096, 4096),
          product(PL_NN, 8192, 8192, 8192),
          frozen(square),
          lora(square, 16),
          lora(square, 64),
          hydra(square, 16, 4),
          frozen(wide),
          lora(wide, 16),
          cross_entropy(4096, 3584, 152064),
          attention(false, 8, 1024, 28, 4, 128),
          attention(true, 8, 1024, 28, 4, 128),
          copy(int64_t(1) << 28),
          rms_norm(8192, 3584),
          swiglu(8192, 18944)};
}

}  // namespace polylora::benchmark
