/* The table of operations that every device fills in: the CPU in src/cpu, CUDA in cuda/.
 *
 * Contract
 * - An entry takes a stream and a size-prefixed plain struct. It only enqueues: it never allocates
 * device memory, never waits and never reads device data. Tensors, lists and strings in the struct
 * need to live only until the entry returns; what the tensors point to must live until the stream
 * has passed the operation. Because memory is allocated and released in stream order, releasing a
 * tensor right after the call is correct.
 * - The caller has checked shapes, dtypes and strides with pl_check_<operation> (src/checks). A
 * device may assume what those functions guarantee; it must still survive any *values* (token ids,
 * cumulative lengths, NaN): an index out of range fails the stream with a message, never the
 * process.
 * - Outputs and scratch are the caller's. `workspace(stream, operation, args)` is the number of
 * bytes of scratch an operation wants; the caller puts it in header.workspace.
 * - What changes between steps (learning rate, step, dropout step, gradient scale, skip flag,
 * cumulative lengths) is read from device memory, so that a step can be recorded and replayed.
 * - Outputs are overwritten unless the struct's comment says "accumulates".
 * - Entries and fields are appended, never reordered; a struct's size says which fields its writer
 * knew.
 * - A failure while running is sticky: later operations of the stream do not run, and every host
 * callback and synchronisation reports the first cause until the device is closed.
 */
#ifndef POLYLORA_KERNELS_H
#define POLYLORA_KERNELS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PL_ABI_VERSION 1
#define PL_MAX_RANK 4

typedef enum pl_dtype {
  PL_NONE = 0,
  PL_F32 = 1,
  PL_BF16 = 2,
  PL_F16 = 3,
  PL_I32 = 4,
  PL_U8 = 5
} pl_dtype;

typedef enum pl_code {
  PL_OK = 0,
  PL_ARGUMENT = 1,      /* a value is outside what is allowed */
  PL_SHAPE = 2,         /* shapes do not fit each other */
  PL_DTYPE = 3,         /* an element type is not supported here */
  PL_OUT_OF_MEMORY = 4, /* the budget or the device is exhausted */
  PL_DEVICE = 5,        /* the stream has failed; the message is the first cause */
  PL_UNSUPPORTED = 6    /* this device has no such operation */
} pl_code;

typedef struct pl_status {
  int32_t code; /* pl_code */
  char message[508];
} pl_status;

/* A strided view of device memory. Strides count elements. An absent optional tensor has dtype
 * PL_NONE. */
typedef struct pl_tensor {
  void* data;
  int32_t dtype; /* pl_dtype */
  int32_t rank;
  int64_t shape[PL_MAX_RANK];
  int64_t strides[PL_MAX_RANK];
} pl_tensor;

typedef struct pl_stream pl_stream; /* a device with its one queue */
typedef struct pl_weight
    pl_weight; /* a [rows, columns] matrix in the layout and format the device likes best */
typedef struct pl_recording pl_recording; /* operations to be queued again as a whole */

typedef struct pl_header {
  uint32_t size; /* sizeof of the whole struct */
  uint32_t reserved;
  void* workspace;
  uint64_t workspace_bytes;
} pl_header;

/* Dropout by Philox4x32-10 (src/philox.h has the numbering). No mask is stored: the same five
 * values give the same mask in forward and backward, whatever the batch, the packing and the
 * tiling. The kept elements are scaled by 1 / (1 - p), p being rounded to a multiple of 2^-16.
 * `columns` of the mask are the input features. */
typedef struct pl_dropout {
  float probability;      /* 0 turns it off; below 1 */
  uint32_t module;        /* which linear input of the model, < 2^16 */
  uint64_t seed;          /* the adapter's */
  pl_tensor step;         /* i32 [1]: the optimiser step */
  pl_tensor row_sample;   /* i32 [T]: global index of the row's sample */
  pl_tensor row_position; /* i32 [T]: the row's position in its sample */
} pl_dropout;

/* ---- Products
 * --------------------------------------------------------------------------------------------------
 */

typedef enum pl_layout {
  PL_NT = 0, /* y[M,N] = sum_i x_i[M,K_i] w_i[N,K_i]^T: forward */
  PL_NN = 1, /* y[M,N] = sum_i x_i[M,K_i] w_i[K_i,N]: data gradient */
  PL_TN = 2  /* y[M,N] = sum_i x_i[R,M]^T w_i[R,N]: weight gradient; rows are summed in blocks
                counted from row 0 */
} pl_layout;

typedef struct pl_segment {
  pl_tensor x;        /* f32, last stride 1 */
  pl_tensor w;        /* f32, last stride 1; absent if `weight` is given */
  pl_weight* weight;  /* NT: [N,K_i]; NN: [K_i,N]; not in TN */
  int32_t mask_after; /* NN: multiply the accumulators by the dropout mask after this segment */
  int32_t mask_w;     /* TN: w is dropout(w) */
} pl_segment;

/* y = column_scale * (sum of segments, in the listed order) + bias + residual. K_i == 0 is allowed.
 */
typedef struct pl_matmul_args {
  pl_header header;
  int32_t layout; /* pl_layout */
  uint32_t segment_count;
  const pl_segment* segments;
  pl_dropout dropout;     /* for mask_after and mask_w */
  pl_tensor column_scale; /* optional f32 [N] */
  pl_tensor bias;         /* optional f32 [N] */
  pl_tensor residual;     /* optional f32 [M,N], may be y itself: then the product accumulates */
  pl_tensor y;            /* f32 [M,N], last stride 1 */
  int32_t bf16_operands;  /* products of tensors may round them to bf16, as those with a weight that
                             computes in bf16 do by themselves; sums stay float32 */
} pl_matmul_args;

/* s[t,r] = rank_scale[r] * sum_k dropout(x)[t,k] a[r,k]: the shrink of every adapter that shares x.
 */
typedef struct pl_low_rank_project_args {
  pl_header header;
  pl_tensor x;          /* f32 [T,K] */
  pl_tensor a;          /* f32 [R,K] */
  pl_tensor rank_scale; /* f32 [R] */
  pl_dropout dropout;
  pl_tensor s;           /* f32 [T,R] */
  int32_t bf16_operands; /* as in matmul */
} pl_low_rank_project_args;

/* One read of dy gives t[t,r] = rank_scale[r] * sum_n dy[t,n] b[n,r] and d_b[n,r] += sum_t dy[t,n]
 * p[t,r]. */
typedef struct pl_low_rank_backward_args {
  pl_header header;
  pl_tensor dy;          /* f32 [T,N] */
  pl_tensor b;           /* f32 [N,R] */
  pl_tensor p;           /* f32 [T,R], row stride free */
  pl_tensor rank_scale;  /* f32 [R] */
  pl_tensor t;           /* f32 [T,R], row stride free */
  pl_tensor d_b;         /* optional f32 [N,R]; accumulates */
  int32_t bf16_operands; /* as in matmul */
} pl_low_rank_backward_args;

/* Rows row_begin .. row_begin + source rows of a weight become `source` (f32, bf16 or f16; widened
 * or rounded to the weight's storage). */
typedef struct pl_weight_update_args {
  pl_header header;
  pl_weight* weight;
  pl_tensor source; /* [n, columns] */
  int64_t row_begin;
} pl_weight_update_args;

/* y = rows row_begin .. row_begin + n of the weight, exactly as stored. */
typedef struct pl_weight_read_args {
  pl_header header;
  pl_weight* weight;
  int64_t row_begin;
  pl_tensor y; /* f32 or bf16 [n, columns] */
} pl_weight_read_args;

/* y[n] = sqrt(sum_k weight[n,k]^2) */
typedef struct pl_weight_row_norms_args {
  pl_header header;
  pl_weight* weight;
  pl_tensor y; /* f32 [rows] */
} pl_weight_row_norms_args;

/* ---- Decoder
 * ---------------------------------------------------------------------------------------------------
 */

/* y[t] = source[indices[t]]; an index out of range fails the stream. The embedding's forward. */
typedef struct pl_gather_rows_args {
  pl_header header;
  pl_tensor source;  /* f32 [V,D]; absent if `weight` is given */
  pl_weight* weight; /* [V,D] */
  pl_tensor indices; /* i32 [T] */
  pl_tensor y;       /* f32 [T,D] */
} pl_gather_rows_args;

/* y[indices[t]] += x[t], rows with one index added in the order of t: deterministic. Accumulates.
 */
typedef struct pl_scatter_add_rows_args {
  pl_header header;
  pl_tensor x;       /* f32 [T,D] */
  pl_tensor indices; /* i32 [T] */
  pl_tensor y;       /* f32 [V,D] */
} pl_scatter_add_rows_args;

/* y = x * rstd * weight over the last dimension, rstd = 1/sqrt(mean(x^2) + epsilon). x is [T,D] or
 * [T,H,D]. */
typedef struct pl_rms_norm_args {
  pl_header header;
  pl_tensor x;      /* f32 */
  pl_tensor weight; /* f32 [D] */
  float epsilon;
  pl_tensor y;    /* f32, x's shape; may be x */
  pl_tensor rstd; /* optional f32 [T] or [T,H], contiguous */
} pl_rms_norm_args;

typedef struct pl_rms_norm_backward_args {
  pl_header header;
  pl_tensor dy; /* f32, x's shape */
  pl_tensor x;
  pl_tensor weight;
  pl_tensor rstd;
  pl_tensor
      residual; /* optional f32, x's shape, added to dx: the gradient that bypasses the norm */
  pl_tensor dx; /* may be dy or residual */
  pl_tensor d_weight; /* optional f32 [D]; accumulates */
} pl_rms_norm_backward_args;

/* Rotates split halves: (a, b) -> (a cos - b sin, b cos + a sin), or back if inverse. */
typedef struct pl_rope_args {
  pl_header header;
  pl_tensor x;         /* f32 [T,H,D] */
  pl_tensor positions; /* i32 [T], each in [0, P) */
  pl_tensor cosines;   /* f32 [P,D/2] */
  pl_tensor sines;     /* f32 [P,D/2] */
  int32_t inverse;
  pl_tensor y; /* may be x */
} pl_rope_args;

/* Causal attention within each sequence of a packed batch; query head h reads key-value head h /
 * (Hq / Hkv). */
typedef struct pl_attention_args {
  pl_header header;
  pl_tensor q;          /* f32 [T,Hq,D], last stride 1 */
  pl_tensor k;          /* f32 [T,Hkv,D] */
  pl_tensor v;          /* f32 [T,Hkv,D] */
  pl_tensor cu_seqlens; /* i32 [S+1], from 0 to T, not decreasing */
  float scale;
  pl_tensor o;   /* f32 [T,Hq,D] */
  pl_tensor lse; /* optional f32 [Hq,T]: log of the sum of exponentials of the scaled scores */
  int32_t bf16_operands; /* products may round their operands to bf16; sums stay float32 */
} pl_attention_args;

typedef struct pl_attention_backward_args {
  pl_header header;
  pl_tensor q;
  pl_tensor k;
  pl_tensor v;
  pl_tensor o;
  pl_tensor lse;
  pl_tensor d_o;
  pl_tensor cu_seqlens;
  float scale;
  pl_tensor dq;
  pl_tensor dk;
  pl_tensor dv;
  int32_t bf16_operands;
} pl_attention_backward_args;

/* cache[row_sequence[t], row_position[t]] = x[t] */
typedef struct pl_cache_append_args {
  pl_header header;
  pl_tensor x;            /* f32 [T,Hkv,D] */
  pl_tensor row_sequence; /* i32 [T] */
  pl_tensor row_position; /* i32 [T] */
  pl_tensor cache;        /* f32 [B,L,Hkv,D] */
} pl_cache_append_args;

/* Row t attends to positions 0 .. row_position[t] of sequence row_sequence[t] in the cache:
 * decoding (one row a sequence) and continued prefill (many). */
typedef struct pl_attention_cached_args {
  pl_header header;
  pl_tensor q;            /* f32 [T,Hq,D] */
  pl_tensor k_cache;      /* f32 [B,L,Hkv,D] */
  pl_tensor v_cache;      /* f32 [B,L,Hkv,D] */
  pl_tensor row_sequence; /* i32 [T] */
  pl_tensor row_position; /* i32 [T] */
  float scale;
  pl_tensor o; /* f32 [T,Hq,D] */
} pl_attention_cached_args;

/* y = gate * sigmoid(gate) * up */
typedef struct pl_swiglu_args {
  pl_header header;
  pl_tensor gate; /* f32 [T,I], last stride 1 */
  pl_tensor up;
  pl_tensor y; /* may be gate or up */
} pl_swiglu_args;

typedef struct pl_swiglu_backward_args {
  pl_header header;
  pl_tensor dy;
  pl_tensor gate;
  pl_tensor up;
  pl_tensor d_gate; /* may be gate */
  pl_tensor d_up;   /* may be up */
} pl_swiglu_backward_args;

/* Output head and cross entropy, only on the labelled rows; logits never exist as a whole.
 * loss[l] = logsumexp(x[rows[l]] W^T) - logit[labels[l]] (not weighted).
 * If d_x is given: d_x[rows[l]] = row_weight[l] * loss_scale * d loss[l] / d x; all other rows
 * become 0. If d_weight is given it accumulates the same for W. rows strictly increase. */
typedef struct pl_head_cross_entropy_args {
  pl_header header;
  pl_tensor x;          /* f32 [T,D] */
  pl_weight* weight;    /* [V,D] */
  pl_tensor rows;       /* i32 [L] */
  pl_tensor labels;     /* i32 [L] */
  pl_tensor row_weight; /* optional f32 [L], else 1 */
  pl_tensor loss_scale; /* f32 [1]: one over the trained tokens of the optimiser step */
  pl_tensor loss;       /* f32 [L] */
  pl_tensor argmax;     /* optional i32 [L], ties to the lowest index */
  pl_tensor d_x;        /* optional f32 [T,D] */
  pl_tensor d_weight;   /* optional f32 [V,D]; accumulates */
} pl_head_cross_entropy_args;

/* ---- Optimiser
 * -------------------------------------------------------------------------------------------------
 */

typedef struct pl_adamw_parameter {
  pl_tensor parameter; /* f32, contiguous, as the next three */
  pl_tensor gradient;
  pl_tensor moment;   /* first */
  pl_tensor variance; /* second */
  float learning_rate_scale;
  float weight_decay;
} pl_adamw_parameter;

/* Decoupled weight decay (Loshchilov and Hutter 2019): p -= lr * (wd * p + m^ / (sqrt(v^) +
 * epsilon)), with the gradient times gradient_scale[0]. Nothing changes if finite[0] is 0. */
typedef struct pl_adamw_args {
  pl_header header;
  const pl_adamw_parameter* parameters;
  uint32_t parameter_count;
  float beta1, beta2, epsilon;
  pl_tensor learning_rate;  /* f32 [1] */
  pl_tensor step;           /* i32 [1], the first update is 1 */
  pl_tensor gradient_scale; /* f32 [1] */
  pl_tensor finite;         /* f32 [1] */
} pl_adamw_args;

/* norm = sqrt(sum over all tensors of x^2); result = {norm, min(1, max_norm / (norm + 1e-6)),
 * finite ? 1 : 0}. max_norm 0 means no clipping. finite covers the norm and every element of
 * `watched`. */
typedef struct pl_gradient_norm_args {
  pl_header header;
  const pl_tensor* gradients; /* f32, contiguous */
  uint32_t gradient_count;
  float max_norm;
  pl_tensor watched; /* optional f32, contiguous: the losses */
  pl_tensor result;  /* f32 [3] */
} pl_gradient_norm_args;

/* ---- Small ones
 * ------------------------------------------------------------------------------------------------
 */

typedef struct pl_fill_args {
  pl_header header;
  pl_tensor y; /* any dtype and strides */
  double value;
} pl_fill_args;

/* y = x with any strides on both sides and a conversion of dtype: also transpose, concat and split,
 * through views. */
typedef struct pl_copy_args {
  pl_header header;
  pl_tensor x;
  pl_tensor y;
} pl_copy_args;

/* y = alpha * a + beta * b, same shapes, f32, any strides */
typedef struct pl_add_args {
  pl_header header;
  pl_tensor a;
  pl_tensor b;
  float alpha, beta;
  pl_tensor y; /* may be a or b */
} pl_add_args;

/* y[n] += sum_t x[t,n]: a bias gradient. Accumulates. */
typedef struct pl_column_sum_args {
  pl_header header;
  pl_tensor x; /* f32 [T,N] */
  pl_tensor y; /* f32 [N] */
} pl_column_sum_args;

typedef enum pl_distribution { PL_UNIFORM = 0, PL_NORMAL = 1 } pl_distribution;

/* Element i (C order) of tensor `subsequence` under `seed`; uniform in [first, second), or normal
 * with mean first and standard deviation second (Box-Muller). */
typedef struct pl_random_args {
  pl_header header;
  int32_t distribution; /* pl_distribution */
  float first, second;
  uint64_t seed;
  uint64_t subsequence;
  pl_tensor y; /* f32, contiguous */
} pl_random_args;

/* y = softmax(scale * x) over the last dimension, in float32 */
typedef struct pl_softmax_args {
  pl_header header;
  pl_tensor x; /* f32 [T,N] */
  float scale;
  pl_tensor y; /* may be x */
} pl_softmax_args;

/* dx = scale * y * (dy - sum(dy * y)) */
typedef struct pl_softmax_backward_args {
  pl_header header;
  pl_tensor dy;
  pl_tensor y;
  float scale;
  pl_tensor dx; /* may be dy */
} pl_softmax_backward_args;

/* The k largest of each row, largest first; ties: lowest index */
typedef struct pl_top_k_args {
  pl_header header;
  pl_tensor x;       /* f32 [T,N] */
  pl_tensor values;  /* f32 [T,k] */
  pl_tensor indices; /* i32 [T,k] */
} pl_top_k_args;

/* dx[t, indices[t,j]] = d_values[t,j], 0 elsewhere */
typedef struct pl_top_k_backward_args {
  pl_header header;
  pl_tensor d_values; /* f32 [T,k] */
  pl_tensor indices;  /* i32 [T,k] */
  pl_tensor dx;       /* f32 [T,N] */
} pl_top_k_backward_args;

/* indices[t] = position of the largest of row t; ties: lowest; NaN counts as -infinity */
typedef struct pl_argmax_args {
  pl_header header;
  pl_tensor x;       /* f32 [T,N] */
  pl_tensor indices; /* i32 [T] */
} pl_argmax_args;

/* y[t] = log softmax(x[t])[labels[t]] */
typedef struct pl_log_probability_args {
  pl_header header;
  pl_tensor x;      /* f32 [T,N] */
  pl_tensor labels; /* i32 [T] */
  pl_tensor y;      /* f32 [T] */
} pl_log_probability_args;

/* order = stable permutation that sorts keys upward; counts[b] = how many keys equal b (optional)
 */
typedef struct pl_sort_args {
  pl_header header;
  pl_tensor keys;   /* i32 [T], each in [0, 2^30) */
  pl_tensor order;  /* i32 [T] */
  pl_tensor counts; /* optional i32 [E]; then every key must be < E */
} pl_sort_args;

/* y[0] = the element of rank floor(q (n - 1)) of |x| if absolute, else of x, counted upward from 0
 */
typedef struct pl_quantile_args {
  pl_header header;
  pl_tensor x; /* f32, contiguous, not empty */
  double q;    /* [0, 1] */
  int32_t absolute;
  pl_tensor y; /* f32 [1] */
} pl_quantile_args;

/* y[t] = x[t] w[segment_of[t]] (or its transpose): the small square matrices of MTL-LoRA */
typedef struct pl_segmented_matmul_args {
  pl_header header;
  pl_tensor x;          /* f32 [T,R] */
  pl_tensor w;          /* f32 [E,R,R] */
  pl_tensor segment_of; /* i32 [T] */
  int32_t transpose;
  pl_tensor y; /* f32 [T,R] */
} pl_segmented_matmul_args;

/* d_w[e] += sum over t in segment e of x[t]^T dy[t], in an order that the positions of the rows
 * fix. Accumulates. */
typedef struct pl_segmented_matmul_backward_args {
  pl_header header;
  pl_tensor x;
  pl_tensor dy;
  pl_tensor segment_of;
  pl_tensor d_w;
} pl_segmented_matmul_backward_args;

/* Next tokens. Row b: logits / temperature, keep the top_k largest (0: all), then the smallest set
 * whose probability reaches top_p (at least one), then draw by Philox keyed by (seed, sample[b],
 * position[b]). temperature 0: argmax. */
typedef struct pl_sample_args {
  pl_header header;
  pl_tensor logits;      /* f32 [B,V] */
  pl_tensor temperature; /* f32 [B] */
  pl_tensor top_k;       /* i32 [B] */
  pl_tensor top_p;       /* f32 [B] */
  pl_tensor sample;      /* i32 [B] */
  pl_tensor position;    /* i32 [B] */
  uint64_t seed;
  pl_tensor tokens; /* i32 [B] */
} pl_sample_args;

/* ---- Mixtures of low-rank experts
 * ------------------------------------------------------------------------------------------------
 */

/* What multiplies the B of every expert: p_e[t] = gate[t,e] s_e[t]. E experts of rank r; s is
 * [T, E r], or [T, r] where all share one A; p is [T, E r], or [T, r] where all share one B: then
 * it is the sum over the experts, in their order. */
typedef struct pl_mixture_args {
  pl_header header;
  pl_tensor s;    /* f32, row stride free */
  pl_tensor gate; /* f32 [T,E], row stride free */
  pl_tensor p;    /* f32, row stride free */
} pl_mixture_args;

/* With g_e = dY B_e, in the shape of p: d_gate[t,e] = <g_e[t], s_e[t]>, and t in the shape of s =
 * rank_scale * gate[t,e] g_e[t], summed over the experts where they share A. */
typedef struct pl_mixture_backward_args {
  pl_header header;
  pl_tensor g;          /* f32 [T, E r] or [T, r] */
  pl_tensor s;          /* f32 [T, E r] or [T, r] */
  pl_tensor gate;       /* f32 [T,E] */
  pl_tensor rank_scale; /* f32 [columns of s] */
  pl_tensor d_gate;     /* optional f32 [T,E] */
  pl_tensor t;          /* f32, s's shape */
} pl_mixture_backward_args;

/* Gates from logits, for each of M mixtures apart. With z = scale * logits (scale * |logits| if
 * absolute) and p = softmax(z) over the E experts, the top_k experts with the largest p + bias are
 * chosen (ties: lowest index); gate = p over the sum of the chosen p, and 0 for the others. */
typedef struct pl_router_args {
  pl_header header;
  pl_tensor logits; /* f32 [T,M,E] */
  pl_tensor bias;   /* optional f32 [M,E] */
  float scale;
  int32_t absolute;
  uint32_t top_k; /* 1 .. E */
  pl_tensor gate; /* f32 [T,M,E] */
} pl_router_args;

/* d_logits from d_gate and from the auxiliary losses, each given by its coefficient and counted
 * T loss_scale[0] times (sums over the T rows: loss_scale[0] times a row). For every mixture, with
 * f_e the part of all choices that fell on e (of the largest gates where top_k is E), P_e the mean
 * of p_e and Z_e the sum of gate_e over the rows:
 *   balance     E sum_e f_e P_e (Fedus et al. 2022; f is a constant)
 *   variance    var(Z) / mean(Z)^2, var over E - 1 (LoRAMoE, Dou et al. 2024)
 *   z           mean over the rows of log(sum exp z)^2 (Zoph et al. 2022)
 *   supervised  mean over the rows of -log p[expert_of_row[t]]; rows with -1 count 0 */
typedef struct pl_router_backward_args {
  pl_header header;
  pl_tensor d_gate; /* f32 [T,M,E] */
  pl_tensor logits; /* f32 [T,M,E] */
  pl_tensor gate;   /* f32 [T,M,E] */
  float scale;
  int32_t absolute;
  uint32_t top_k;
  float balance, variance, z, supervised;
  pl_tensor loss_scale;    /* optional f32 [1]; absent: no auxiliary losses */
  pl_tensor expert_of_row; /* optional i32 [T], -1 .. E - 1 */
  pl_tensor d_logits;      /* f32 [T,M,E]; may be d_gate */
} pl_router_backward_args;

/* Sums over the rows of each group, for each of M mixtures: statistics[m,d] += gate_e (E columns),
 * choices of e (E; the largest gate where top_k is E), p_e (E), rows, entropy of the gate,
 * log(sum exp z)^2, and -log p[expert_of_row[t]]. Accumulates, in an order that the positions of
 * the rows fix. */
typedef struct pl_router_statistics_args {
  pl_header header;
  pl_tensor logits; /* f32 [T,M,E] */
  pl_tensor gate;   /* f32 [T,M,E] */
  float scale;
  int32_t absolute;
  uint32_t top_k;
  pl_tensor row_group;     /* i32 [T], below D */
  pl_tensor expert_of_row; /* optional i32 [T], -1 .. E - 1 */
  pl_tensor statistics;    /* f32 [M, D, 3 E + 4] */
} pl_router_statistics_args;

/* DoRA's scale of output n: norm[n] = sqrt(base_norm[n]^2 + <u[n], b[n]>), scale = magnitude /
 * norm. With u = 2 s W A^T + s^2 B A A^T that is the norm of row n of W + s B A. */
typedef struct pl_magnitude_scale_args {
  pl_header header;
  pl_tensor base_norm; /* f32 [N] */
  pl_tensor u;         /* f32 [N,R] */
  pl_tensor b;         /* f32 [N,R] */
  pl_tensor magnitude; /* f32 [N] */
  pl_tensor norm;      /* f32 [N] */
  pl_tensor scale;     /* f32 [N] */
} pl_magnitude_scale_args;

/* y = scale * x + bias + residual, by column */
typedef struct pl_scale_columns_args {
  pl_header header;
  pl_tensor x;        /* f32 [T,N] */
  pl_tensor scale;    /* f32 [N] */
  pl_tensor bias;     /* optional f32 [N] */
  pl_tensor residual; /* optional f32 [T,N] */
  pl_tensor y;        /* f32 [T,N]; may be x or residual */
} pl_scale_columns_args;

/* dx = scale * dy, and d_magnitude[n] += sum_t dy[t,n] x[t,n] / norm[n]: the norm is held constant.
 * Accumulates. */
typedef struct pl_scale_columns_backward_args {
  pl_header header;
  pl_tensor dy;          /* f32 [T,N] */
  pl_tensor x;           /* f32 [T,N] */
  pl_tensor scale;       /* f32 [N] */
  pl_tensor norm;        /* f32 [N] */
  pl_tensor dx;          /* f32 [T,N]; may be x */
  pl_tensor d_magnitude; /* optional f32 [N] */
} pl_scale_columns_backward_args;

/* Every operation once: the table's entries, their numbers, their names and their checks all come
 * from this list. */
#define PL_OPERATIONS(X)       \
  X(matmul)                    \
  X(low_rank_project)          \
  X(low_rank_backward)         \
  X(weight_update)             \
  X(weight_read)               \
  X(weight_row_norms)          \
  X(gather_rows)               \
  X(scatter_add_rows)          \
  X(rms_norm)                  \
  X(rms_norm_backward)         \
  X(rope)                      \
  X(attention)                 \
  X(attention_backward)        \
  X(cache_append)              \
  X(attention_cached)          \
  X(swiglu)                    \
  X(swiglu_backward)           \
  X(head_cross_entropy)        \
  X(adamw)                     \
  X(gradient_norm)             \
  X(fill)                      \
  X(copy)                      \
  X(add)                       \
  X(column_sum)                \
  X(random)                    \
  X(softmax)                   \
  X(softmax_backward)          \
  X(top_k)                     \
  X(top_k_backward)            \
  X(argmax)                    \
  X(log_probability)           \
  X(sort)                      \
  X(quantile)                  \
  X(segmented_matmul)          \
  X(segmented_matmul_backward) \
  X(sample)                    \
  X(mixture)                   \
  X(mixture_backward)          \
  X(router)                    \
  X(router_backward)           \
  X(router_statistics)         \
  X(magnitude_scale)           \
  X(scale_columns)             \
  X(scale_columns_backward)

typedef enum pl_operation {
#define PL_ENTRY(name) PL_OPERATION_##name,
  PL_OPERATIONS(PL_ENTRY)
#undef PL_ENTRY
      PL_OPERATION_COUNT
} pl_operation;

/* ---- Runtime
 * ---------------------------------------------------------------------------------------------------
 */

typedef struct pl_device_options {
  uint32_t size;
  int32_t index;   /* which device of the kind */
  int32_t threads; /* CPU: workers, the stream's thread included; 0 picks */
  /* "", or the highest allowed. CPU: portable, avx2, avx512, avx512-bf16. CUDA: sm_80, or the
   * device's own. */
  char instruction_set[16];
  uint64_t memory_budget; /* bytes; 0 picks */
} pl_device_options;

typedef struct pl_device_info {
  uint32_t size;
  int32_t threads;
  char name[128];
  char instruction_set[16];
  uint64_t memory_budget;
  uint64_t memory_used;     /* live tensors and weights */
  uint64_t memory_reserved; /* used, and what is cached for reuse */
  uint64_t memory_peak;     /* of memory_used */
  uint64_t queue_depth;     /* operations not finished */
  uint64_t replays;         /* of recordings, that have run */
  uint64_t graph_replays;   /* of these, by one launch of a graph */
} pl_device_info;

typedef struct pl_weight_options {
  uint32_t size;
  int64_t rows;
  int64_t columns;
  int32_t storage; /* PL_F32 or PL_BF16 */
  int32_t
      compute; /* PL_F32: float32 products; PL_BF16: both operands rounded, float32 accumulation */
} pl_weight_options;

typedef void (*pl_host_callback)(void* user, const pl_status* status);

typedef struct pl_operation_time {
  uint64_t count;       /* operations that have run */
  uint64_t nanoseconds; /* in them, on the device's clock */
} pl_operation_time;

typedef struct pl_device_table {
  uint32_t abi_version;
  uint32_t size;
  const char* kind; /* "cpu", "cuda", "cuda-emulated" */

  pl_status (*open)(const pl_device_options* options, pl_stream** stream);
  void (*close)(
      pl_stream* stream); /* drops what is queued, waits for what runs, frees everything */
  void (*describe)(pl_stream* stream, pl_device_info* info);

  /* Stream-ordered memory, aligned to 64 bytes at least: a released block may be handed out again
   * at once. */
  pl_status (*allocate)(pl_stream* stream, uint64_t bytes, void** data);
  void (*release)(pl_stream* stream, void* data);
  void (*trim)(pl_stream* stream); /* gives cached memory back to the system, in stream order */

  pl_status (*copy_from_host)(pl_stream* stream, void* data, const void* host,
                              uint64_t bytes); /* host is free on return */
  pl_status (*copy_to_host)(pl_stream* stream, void* host, const void* data,
                            uint64_t bytes); /* host is filled in stream order */
  /* Calls back once, on a thread of the device, when the stream arrives there or has failed or is
   * closed. */
  pl_status (*callback)(pl_stream* stream, pl_host_callback function, void* user);
  pl_status (*synchronize)(pl_stream* stream);
  /* Times each operation while on; off at first. `times` is null, or receives PL_OPERATION_COUNT
   * entries: what has run since profiling was last turned on. */
  void (*profile)(pl_stream* stream, int32_t on, pl_operation_time* times);

  pl_status (*weight_create)(pl_stream* stream, const pl_weight_options* options,
                             pl_weight** weight);
  void (*weight_release)(pl_stream* stream, pl_weight* weight); /* stream-ordered */
  void (*weight_describe)(const pl_weight* weight, pl_weight_options* options, uint64_t* bytes);

  uint64_t (*workspace)(pl_stream* stream, pl_operation operation, const void* args);

#define PL_ENTRY(name) pl_status (*name)(pl_stream * stream, const pl_##name##_args* args);
  PL_OPERATIONS(PL_ENTRY)
#undef PL_ENTRY

  /* Recordings: a step whose shapes stay the same is put together once. Between begin and end the
   * operations of the calling thread are kept instead of queued. What it allocates meanwhile is the
   * recording's, and must have been released by the end; nobody else is given that memory as long
   * as the recording lives. Copies from and to the host, callbacks and new weights are refused with
   * PL_UNSUPPORTED. One thread records at a time.
   *
   * replay() queues all of it as one; every other memory that the operations name must live until
   * the recording is released, which is in stream order. CUDA makes a graph of it at the first
   * replay, or, where something in it does not go into a graph, launches its operations one by one.
   */
  pl_status (*recording_begin)(pl_stream* stream);
  /* Null for `recording`: what was kept is dropped. */
  pl_status (*recording_end)(pl_stream* stream, pl_recording** recording);
  pl_status (*recording_replay)(pl_stream* stream, pl_recording* recording);
  void (*recording_release)(pl_stream* stream, pl_recording* recording);
} pl_device_table;

/* Shape, dtype and stride checks, the same for all devices (src/checks). They read nothing but the
 * struct. */
#define PL_ENTRY(name) pl_status pl_check_##name(const pl_##name##_args* args);
PL_OPERATIONS(PL_ENTRY)
#undef PL_ENTRY

/* The description of a weight for the checks; set by whichever device made it. Every pl_weight
 * begins with this. */
typedef struct pl_weight_base {
  const pl_device_table* table;
  pl_weight_options options;
} pl_weight_base;

const pl_device_table* pl_cpu_device_table(void);

#ifdef __cplusplus
}
#endif
#endif
