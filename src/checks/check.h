// What the checks of all operations share. A check reads the struct alone, never what a tensor
// points to, and reports the first thing that is wrong as one sentence: operation, field, value
// received, what is allowed.
//
//   pl_status pl_check_rms_norm(const pl_rms_norm_args* args) {
//     Check check("rms_norm");
//     if (!check.arguments(args)) return check.status();
//     check.input("x", args->x, PL_F32, {kAny, kAny}, kLastContiguous);
//     check.input("weight", args->weight, PL_F32, {args->x.shape[1]}, kLastContiguous);
//     check.output("y", args->y, PL_F32, {args->x.shape[0], args->x.shape[1]}, kLastContiguous);
//     check.disjoint("y", args->y, "weight", args->weight);
//     return check.status();
//   }
//
// After the first failure every further call does nothing and returns false.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>

#include "kernels.h"

namespace polylora::check {

constexpr int64_t kAny = -1;  // in an expected shape: any size, 0 included

enum Strides {
  kStrided,         // any strides that are not negative
  kLastContiguous,  // elements of the last dimension lie side by side
  kContiguous       // C order without gaps
};

// An optional tensor that was given.
inline bool given(const pl_tensor& tensor) { return tensor.dtype != PL_NONE; }

size_t element_size(int32_t dtype);  // 0 if there is no such dtype
const char* dtype_name(int32_t dtype);

class Check {
 public:
  explicit Check(const char* operation);

  bool ok() const { return status_.code == PL_OK; }
  pl_status status() const { return status_; }

  // "<operation>: <message>"
  bool fail(pl_code code, const char* format, ...) __attribute__((format(printf, 3, 4)));

  // The struct is there and its writer knew all fields.
  template <class Args>
  bool arguments(const Args* args) {
    return arguments_of(args, args ? args->header.size : 0, sizeof(Args));
  }

  // Given, of this dtype and shape, data not null unless it is empty, strides not negative, and the
  // last element's offset in bytes below 2^62.
  bool input(const char* field, const pl_tensor& tensor, int32_t dtype,
             std::initializer_list<int64_t> shape, Strides strides = kStrided);
  bool input(const char* field, const pl_tensor& tensor, std::initializer_list<int32_t> dtypes,
             std::initializer_list<int64_t> shape, Strides strides = kStrided);
  // An input that is written: no two elements share memory, as far as sorted strides can tell.
  bool output(const char* field, const pl_tensor& tensor, int32_t dtype,
              std::initializer_list<int64_t> shape, Strides strides = kStrided);
  bool output(const char* field, const pl_tensor& tensor, std::initializer_list<int32_t> dtypes,
              std::initializer_list<int64_t> shape, Strides strides = kStrided);

  // The same for any rank in [1, PL_MAX_RANK] and any shape.
  bool input_of_any_shape(const char* field, const pl_tensor& tensor,
                          std::initializer_list<int32_t> dtypes, Strides strides = kStrided);
  bool output_of_any_shape(const char* field, const pl_tensor& tensor,
                           std::initializer_list<int32_t> dtypes, Strides strides = kStrided);
  bool same_shape(const char* field, const pl_tensor& tensor, const char* other_field,
                  const pl_tensor& other);

  bool weight(const char* field, const pl_weight* weight, int64_t rows,
              int64_t columns);                                               // kAny allowed
  bool in_range(const char* field, double value, double least, double most);  // NaN fails
  bool positive(const char* field, int64_t value);
  bool row_range(const char* field, int64_t begin, int64_t count,
                 int64_t rows);  // within [0, rows)
  bool dropout(const pl_dropout& dropout, int64_t rows,
               int64_t columns);  // probability 0 needs no tensors

  // The two share no memory.
  bool disjoint(const char* field, const pl_tensor& tensor, const char* other_field,
                const pl_tensor& other);
  // The two share no memory, or are the same view.
  bool disjoint_or_same(const char* field, const pl_tensor& tensor, const char* other_field,
                        const pl_tensor& other);

 private:
  bool arguments_of(const void* args, size_t size, size_t expected);
  bool layout(const char* field, const pl_tensor& tensor, std::initializer_list<int32_t> dtypes,
              Strides strides);
  bool shape(const char* field, const pl_tensor& tensor, std::initializer_list<int64_t> expected);
  bool no_overlap_within(const char* field, const pl_tensor& tensor);

  const char* operation_;
  pl_status status_;
};

int64_t element_count(const pl_tensor& tensor);  // of a tensor that was checked
// Exact for views that step through a common buffer with the same first stride (column slices);
// otherwise true as soon as the address ranges meet.
bool share_memory(const pl_tensor& a, const pl_tensor& b);
bool same_view(const pl_tensor& a, const pl_tensor& b);

// For the devices: what a weight may be made of.
pl_status check_weight_options(const pl_weight_options* options);

}  // namespace polylora::check
