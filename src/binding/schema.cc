#include "binding/schema.h"

#include <algorithm>

#include "runtime/status.h"

namespace polylora::binding {

namespace {

using K = FieldKind;

// d_weight -> dWeight
std::string camel_case(const char* name) {
  std::string out;
  for (const char* c = name; *c; ++c) {
    if (*c == '_' && c[1] >= 'a' && c[1] <= 'z')
      out += char(*++c - 'a' + 'A');
    else
      out += *c;
  }
  return out;
}

Field field(const char* name, K kind, size_t offset, size_t count_offset = 0) {
  return {camel_case(name), kind, offset, count_offset, 0};
}

// Within FIELDS the struct is `A`.
#define TENSOR(name) field(#name, K::tensor, offsetof(A, name))
#define OPTIONAL(name) field(#name, K::optional_tensor, offsetof(A, name))
#define WEIGHT(name) field(#name, K::weight, offsetof(A, name))
#define OPTIONAL_WEIGHT(name) field(#name, K::optional_weight, offsetof(A, name))
#define FIELD(kind, name) field(#name, K::kind, offsetof(A, name))
#define LIST(kind, name, count) field(#name, K::kind, offsetof(A, name), offsetof(A, count))

template <class Args>
std::vector<Field> fields_of();

#define FIELDS(operation, ...)                            \
  template <>                                             \
  std::vector<Field> fields_of<pl_##operation##_args>() { \
    using A = pl_##operation##_args;                      \
    return {__VA_ARGS__};                                 \
  }

FIELDS(matmul, FIELD(layout, layout), LIST(segments, segments, segment_count),
       FIELD(dropout, dropout), OPTIONAL(column_scale), OPTIONAL(bias), OPTIONAL(residual),
       TENSOR(y), FIELD(flag, bf16_operands))
FIELDS(low_rank_project, TENSOR(x), TENSOR(a), TENSOR(rank_scale), FIELD(dropout, dropout),
       TENSOR(s), FIELD(flag, bf16_operands))
FIELDS(low_rank_backward, TENSOR(dy), TENSOR(b), TENSOR(p), TENSOR(rank_scale), TENSOR(t),
       OPTIONAL(d_b), FIELD(flag, bf16_operands))
FIELDS(weight_update, WEIGHT(weight), TENSOR(source), FIELD(int64, row_begin))
FIELDS(weight_read, WEIGHT(weight), FIELD(int64, row_begin), TENSOR(y))
FIELDS(weight_row_norms, WEIGHT(weight), TENSOR(y))
FIELDS(gather_rows, OPTIONAL(source), OPTIONAL_WEIGHT(weight), TENSOR(indices), TENSOR(y))
FIELDS(scatter_add_rows, TENSOR(x), TENSOR(indices), TENSOR(y))
FIELDS(rms_norm, TENSOR(x), TENSOR(weight), FIELD(float32, epsilon), TENSOR(y), OPTIONAL(rstd))
FIELDS(rms_norm_backward, TENSOR(dy), TENSOR(x), TENSOR(weight), TENSOR(rstd), OPTIONAL(residual),
       TENSOR(dx), OPTIONAL(d_weight))
FIELDS(rope, TENSOR(x), TENSOR(positions), TENSOR(cosines), TENSOR(sines), FIELD(flag, inverse),
       TENSOR(y))
FIELDS(attention, TENSOR(q), TENSOR(k), TENSOR(v), TENSOR(cu_seqlens), FIELD(float32, scale),
       TENSOR(o), OPTIONAL(lse), FIELD(flag, bf16_operands))
FIELDS(attention_backward, TENSOR(q), TENSOR(k), TENSOR(v), TENSOR(o), TENSOR(lse), TENSOR(d_o),
       TENSOR(cu_seqlens), FIELD(float32, scale), TENSOR(dq), TENSOR(dk), TENSOR(dv),
       FIELD(flag, bf16_operands))
FIELDS(cache_append, TENSOR(x), TENSOR(row_sequence), TENSOR(row_position), TENSOR(cache))
FIELDS(attention_cached, TENSOR(q), TENSOR(k_cache), TENSOR(v_cache), TENSOR(row_sequence),
       TENSOR(row_position), FIELD(float32, scale), TENSOR(o))
FIELDS(swiglu, TENSOR(gate), TENSOR(up), TENSOR(y))
FIELDS(swiglu_backward, TENSOR(dy), TENSOR(gate), TENSOR(up), TENSOR(d_gate), TENSOR(d_up))
FIELDS(head_cross_entropy, TENSOR(x), WEIGHT(weight), TENSOR(rows), TENSOR(labels),
       OPTIONAL(row_weight), TENSOR(loss_scale), TENSOR(loss), OPTIONAL(argmax), OPTIONAL(d_x),
       OPTIONAL(d_weight))
FIELDS(adamw, LIST(parameters, parameters, parameter_count), FIELD(float32, beta1),
       FIELD(float32, beta2), FIELD(float32, epsilon), TENSOR(learning_rate), TENSOR(step),
       TENSOR(gradient_scale), TENSOR(finite))
FIELDS(gradient_norm, LIST(tensors, gradients, gradient_count), FIELD(float32, max_norm),
       OPTIONAL(watched), TENSOR(result))
FIELDS(fill, TENSOR(y), FIELD(float64, value))
FIELDS(copy, TENSOR(x), TENSOR(y))
FIELDS(add, TENSOR(a), TENSOR(b), FIELD(float32, alpha), FIELD(float32, beta), TENSOR(y))
FIELDS(column_sum, TENSOR(x), TENSOR(y))
FIELDS(random, FIELD(distribution, distribution), FIELD(float32, first), FIELD(float32, second),
       FIELD(uint64, seed), FIELD(uint64, subsequence), TENSOR(y))
FIELDS(softmax, TENSOR(x), FIELD(float32, scale), TENSOR(y))
FIELDS(softmax_backward, TENSOR(dy), TENSOR(y), FIELD(float32, scale), TENSOR(dx))
FIELDS(top_k, TENSOR(x), TENSOR(values), TENSOR(indices))
FIELDS(top_k_backward, TENSOR(d_values), TENSOR(indices), TENSOR(dx))
FIELDS(argmax, TENSOR(x), TENSOR(indices))
FIELDS(log_probability, TENSOR(x), TENSOR(labels), TENSOR(y))
FIELDS(sort, TENSOR(keys), TENSOR(order), OPTIONAL(counts))
FIELDS(quantile, TENSOR(x), FIELD(float64, q), FIELD(flag, absolute), TENSOR(y))
FIELDS(segmented_matmul, TENSOR(x), TENSOR(w), TENSOR(segment_of), FIELD(flag, transpose),
       TENSOR(y))
FIELDS(segmented_matmul_backward, TENSOR(x), TENSOR(dy), TENSOR(segment_of), TENSOR(d_w))
FIELDS(sample, TENSOR(logits), TENSOR(temperature), TENSOR(top_k), TENSOR(top_p), TENSOR(sample),
       TENSOR(position), FIELD(uint64, seed), TENSOR(tokens))
FIELDS(mixture, TENSOR(s), TENSOR(gate), TENSOR(p))
FIELDS(mixture_backward, TENSOR(g), TENSOR(s), TENSOR(gate), TENSOR(rank_scale), OPTIONAL(d_gate),
       TENSOR(t))
FIELDS(router, TENSOR(logits), OPTIONAL(bias), FIELD(float32, scale), FIELD(flag, absolute),
       FIELD(uint32, top_k), TENSOR(gate))
FIELDS(router_backward, TENSOR(d_gate), TENSOR(logits), TENSOR(gate), FIELD(float32, scale),
       FIELD(flag, absolute), FIELD(uint32, top_k), FIELD(float32, balance),
       FIELD(float32, variance), FIELD(float32, z), FIELD(float32, supervised),
       OPTIONAL(loss_scale), OPTIONAL(expert_of_row), TENSOR(d_logits))
FIELDS(router_statistics, TENSOR(logits), TENSOR(gate), FIELD(float32, scale),
       FIELD(flag, absolute), FIELD(uint32, top_k), TENSOR(row_group), OPTIONAL(expert_of_row),
       TENSOR(statistics))
FIELDS(magnitude_scale, TENSOR(base_norm), TENSOR(u), TENSOR(b), TENSOR(magnitude), TENSOR(norm),
       TENSOR(scale))
FIELDS(scale_columns, TENSOR(x), TENSOR(scale), OPTIONAL(bias), OPTIONAL(residual), TENSOR(y))
FIELDS(scale_columns_backward, TENSOR(dy), TENSOR(x), TENSOR(scale), TENSOR(norm), TENSOR(dx),
       OPTIONAL(d_magnitude))

std::vector<Field> dropout_fields() {
  using A = pl_dropout;
  return {FIELD(float32, probability), FIELD(uint32, module), FIELD(uint64, seed), TENSOR(step),
          TENSOR(row_sample),          TENSOR(row_position)};
}

std::vector<Field> segment_fields() {
  using A = pl_segment;
  return {TENSOR(x), OPTIONAL(w), OPTIONAL_WEIGHT(weight), FIELD(flag, mask_after),
          FIELD(flag, mask_w)};
}

std::vector<Field> parameter_fields() {
  using A = pl_adamw_parameter;
  return {TENSOR(parameter),
          TENSOR(gradient),
          TENSOR(moment),
          TENSOR(variance),
          FIELD(float32, learning_rate_scale),
          FIELD(float32, weight_decay)};
}

#undef TENSOR
#undef OPTIONAL
#undef WEIGHT
#undef OPTIONAL_WEIGHT
#undef FIELD
#undef LIST
#undef FIELDS

void intern(std::vector<Field>& fields, std::vector<std::string>* keys) {
  for (Field& field : fields) {
    const auto found = std::find(keys->begin(), keys->end(), field.name);
    field.key = uint32_t(found - keys->begin());
    if (found == keys->end()) keys->push_back(field.name);
  }
}

}  // namespace

Schemas make_schemas() {
  Schemas schemas;
  schemas.dropout = dropout_fields();
  schemas.segment = segment_fields();
  schemas.parameter = parameter_fields();
  schemas.operations = {
#define PL_ENTRY(operation)                                                                        \
  {#operation,                                                                                     \
   PL_OPERATION_##operation,                                                                       \
   sizeof(pl_##operation##_args),                                                                  \
   fields_of<pl_##operation##_args>(),                                                             \
   [](const void* args) {                                                                          \
     return pl_check_##operation(static_cast<const pl_##operation##_args*>(args));                 \
   },                                                                                              \
   [](const pl_device_table& table, pl_stream* stream, const void* args) {                         \
     if (table.operation)                                                                          \
       return table.operation(stream, static_cast<const pl_##operation##_args*>(args));            \
     return make_status(PL_UNSUPPORTED, "the %s device has no operation " #operation, table.kind); \
   }},
      PL_OPERATIONS(PL_ENTRY)
#undef PL_ENTRY
  };
  intern(schemas.dropout, &schemas.keys);
  intern(schemas.segment, &schemas.keys);
  intern(schemas.parameter, &schemas.keys);
  for (OperationSchema& operation : schemas.operations) intern(operation.fields, &schemas.keys);
  return schemas;
}

}  // namespace polylora::binding
