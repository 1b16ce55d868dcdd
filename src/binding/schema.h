// How each operation's struct in kernels.h is filled from a JavaScript object: its fields, in
// camelCase.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "kernels.h"

namespace polylora::binding {

enum class FieldKind : uint8_t {
  tensor,
  optional_tensor,
  weight,
  optional_weight,
  flag,  // int32_t from a boolean, 0 or 1; absent is 0
  uint32,
  uint64,  // a size or a BigInt
  int64,   // a size
  float32,
  float64,
  layout,        // 'nt', 'nn', 'tn'
  distribution,  // 'uniform', 'normal'
  dropout,       // pl_dropout; absent turns it off
  segments,      // list and count of pl_segment
  parameters,    // list and count of pl_adamw_parameter
  tensors        // list and count of pl_tensor
};

struct Field {
  std::string name;
  FieldKind kind;
  size_t offset;
  size_t count_offset;  // of a list's length, uint32_t
  uint32_t key;         // index of the interned name
};

struct OperationSchema {
  std::string name;
  pl_operation operation;
  size_t size;
  std::vector<Field> fields;
  pl_status (*check)(const void* args);
  pl_status (*enqueue)(const pl_device_table& table, pl_stream* stream, const void* args);
};

struct Schemas {
  std::vector<OperationSchema> operations;         // in the order of PL_OPERATIONS
  std::vector<Field> dropout, segment, parameter;  // of the structs within
  std::vector<std::string> keys;                   // what Field::key indexes
};

Schemas make_schemas();

}  // namespace polylora::binding
