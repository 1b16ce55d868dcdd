#include "checks/check.h"

#include <cstdarg>
#include <cstdio>
#include <cstring>

namespace polylora::check {

namespace {

constexpr int64_t kLargestExtent = int64_t(1) << 62;  // bytes

struct Text {
  char characters[96];
};

Text shape_text(int rank, const int64_t* sizes) {
  Text text;
  size_t used = size_t(snprintf(text.characters, sizeof text.characters, "["));
  for (int i = 0; i < rank && used < sizeof text.characters; ++i) {
    if (sizes[i] == kAny)
      used += size_t(
          snprintf(text.characters + used, sizeof text.characters - used, "%sany", i ? ", " : ""));
    else
      used += size_t(snprintf(text.characters + used, sizeof text.characters - used, "%s%lld",
                              i ? ", " : "", static_cast<long long>(sizes[i])));
  }
  if (used < sizeof text.characters)
    snprintf(text.characters + used, sizeof text.characters - used, "]");
  return text;
}

// One past the offset of the last element, in elements; -1 if it does not fit. Dimensions from
// `first` on.
int64_t span(const pl_tensor& tensor, int first) {
  int64_t last = 0;
  for (int i = first; i < tensor.rank; ++i) {
    if (tensor.shape[i] == 0) return 0;
    int64_t offset;
    if (__builtin_mul_overflow(tensor.shape[i] - 1, tensor.strides[i], &offset) ||
        __builtin_add_overflow(last, offset, &last))
      return -1;
  }
  return last < INT64_MAX ? last + 1 : -1;
}

}  // namespace

size_t element_size(int32_t dtype) {
  switch (dtype) {
    case PL_F32:
    case PL_I32:
      return 4;
    case PL_BF16:
    case PL_F16:
      return 2;
    case PL_U8:
      return 1;
    default:
      return 0;
  }
}

const char* dtype_name(int32_t dtype) {
  switch (dtype) {
    case PL_NONE:
      return "none";
    case PL_F32:
      return "f32";
    case PL_BF16:
      return "bf16";
    case PL_F16:
      return "f16";
    case PL_I32:
      return "i32";
    case PL_U8:
      return "u8";
    default:
      return "unknown";
  }
}

int64_t element_count(const pl_tensor& tensor) {
  int64_t count = 1;
  // Beside a size of 0 the others may be large enough to overflow.
  for (int i = 0; i < tensor.rank; ++i)
    if (tensor.shape[i] == 0) return 0;
  for (int i = 0; i < tensor.rank; ++i) count *= tensor.shape[i];
  return count;
}

bool share_memory(const pl_tensor& a, const pl_tensor& b) {
  if (!given(a) || !given(b) || element_count(a) == 0 || element_count(b) == 0) return false;
  const auto begin_a = reinterpret_cast<uintptr_t>(a.data),
             begin_b = reinterpret_cast<uintptr_t>(b.data);
  const uint64_t size_a = element_size(a.dtype), size_b = element_size(b.dtype);
  const uintptr_t end_a = begin_a + uint64_t(span(a, 0)) * size_a,
                  end_b = begin_b + uint64_t(span(b, 0)) * size_b;
  if (end_a <= begin_b || end_b <= begin_a) return false;
  // Slices of the rows of one buffer: compare the windows they take of a row.
  const uint64_t step = uint64_t(a.strides[0]) * size_a;
  if (step == 0 || step != uint64_t(b.strides[0]) * size_b) return true;
  const uint64_t width_a = uint64_t(span(a, 1)) * size_a, width_b = uint64_t(span(b, 1)) * size_b;
  if (width_a > step || width_b > step) return true;
  const uint64_t start =
      begin_a <= begin_b ? (begin_b - begin_a) % step : (step - (begin_a - begin_b) % step) % step;
  return start < width_a || start + width_b > step;
}

bool same_view(const pl_tensor& a, const pl_tensor& b) {
  if (a.data != b.data || a.dtype != b.dtype || a.rank != b.rank) return false;
  for (int i = 0; i < a.rank; ++i)
    if (a.shape[i] != b.shape[i] || (a.shape[i] > 1 && a.strides[i] != b.strides[i])) return false;
  return true;
}

Check::Check(const char* operation) : operation_(operation) {
  status_.code = PL_OK;
  status_.message[0] = 0;
}

bool Check::fail(pl_code code, const char* format, ...) {
  if (!ok()) return false;
  status_.code = code;
  const int prefix = snprintf(status_.message, sizeof status_.message, "%s: ", operation_);
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(status_.message + prefix, sizeof status_.message - size_t(prefix), format, arguments);
  va_end(arguments);
  return false;
}

bool Check::arguments_of(const void* args, size_t size, size_t expected) {
  if (!ok()) return false;
  if (!args) return fail(PL_ARGUMENT, "the arguments are null");
  if (size < expected)
    return fail(PL_ARGUMENT,
                "header.size is %zu, must be at least %zu: the caller is older than this library",
                size, expected);
  return true;
}

bool Check::layout(const char* field, const pl_tensor& tensor,
                   std::initializer_list<int32_t> dtypes, Strides strides) {
  if (!ok()) return false;
  if (tensor.dtype == PL_NONE) return fail(PL_ARGUMENT, "%s is missing", field);
  bool known = false;
  for (int32_t dtype : dtypes) known = known || dtype == tensor.dtype;
  if (!known) {
    char allowed[64] = "";
    for (int32_t dtype : dtypes) {
      const size_t used = strlen(allowed);
      snprintf(allowed + used, sizeof allowed - used, "%s%s", used ? " or " : "",
               dtype_name(dtype));
    }
    return fail(PL_DTYPE, "%s is %s (%d), must be %s", field, dtype_name(tensor.dtype),
                tensor.dtype, allowed);
  }
  if (tensor.rank < 1 || tensor.rank > PL_MAX_RANK)
    return fail(PL_SHAPE, "%s has rank %d, must be 1 to %d", field, tensor.rank, PL_MAX_RANK);
  const Text text = shape_text(tensor.rank, tensor.shape);
  int64_t count = int64_t(element_size(tensor.dtype));
  bool empty = false, fits = true;
  for (int i = 0; i < tensor.rank; ++i) {
    if (tensor.shape[i] < 0)
      return fail(PL_SHAPE, "%s has shape %s, sizes must not be negative", field, text.characters);
    empty = empty || tensor.shape[i] == 0;
    fits = fits && !__builtin_mul_overflow(count, tensor.shape[i], &count);
  }
  if (!empty && (!fits || count > kLargestExtent))
    return fail(PL_SHAPE, "%s has shape %s, which is more than can be addressed", field,
                text.characters);
  for (int i = 0; i < tensor.rank; ++i)
    if (tensor.strides[i] < 0)
      return fail(PL_ARGUMENT, "%s has stride %lld in dimension %d, strides must not be negative",
                  field, static_cast<long long>(tensor.strides[i]), i);
  if (empty) return true;
  const int64_t last = span(tensor, 0);
  if (last < 0 || last > kLargestExtent / int64_t(element_size(tensor.dtype)))
    return fail(PL_SHAPE, "%s has strides %s, which reach further than can be addressed", field,
                shape_text(tensor.rank, tensor.strides).characters);
  if (!tensor.data) return fail(PL_ARGUMENT, "%s has no data", field);
  if (reinterpret_cast<uintptr_t>(tensor.data) % element_size(tensor.dtype) != 0)
    return fail(PL_ARGUMENT, "%s is not aligned to its elements of %zu bytes", field,
                element_size(tensor.dtype));
  int64_t expected = 1;
  for (int i = tensor.rank - 1;
       i >= (strides == kContiguous ? 0 : tensor.rank - 1) && strides != kStrided; --i) {
    if (tensor.shape[i] > 1 && tensor.strides[i] != expected)
      return fail(PL_ARGUMENT, "%s has stride %lld in dimension %d, must be %lld", field,
                  static_cast<long long>(tensor.strides[i]), i, static_cast<long long>(expected));
    expected *= tensor.shape[i];
  }
  return true;
}

bool Check::shape(const char* field, const pl_tensor& tensor,
                  std::initializer_list<int64_t> expected) {
  if (!ok()) return false;
  bool fits = tensor.rank == int32_t(expected.size());
  for (int i = 0; fits && i < tensor.rank; ++i)
    fits = expected.begin()[i] == kAny || expected.begin()[i] == tensor.shape[i];
  if (fits) return true;
  return fail(PL_SHAPE, "%s has shape %s, must be %s", field,
              shape_text(tensor.rank, tensor.shape).characters,
              shape_text(int(expected.size()), expected.begin()).characters);
}

bool Check::no_overlap_within(const char* field, const pl_tensor& tensor) {
  if (!ok()) return false;
  if (element_count(tensor) == 0) return true;  // its strides may be anything
  // By rising stride, each dimension must step over the whole of those before it.
  bool used[PL_MAX_RANK] = {};
  int64_t reach = 1;
  for (int pass = 0; pass < tensor.rank; ++pass) {
    int next = -1;
    for (int i = 0; i < tensor.rank; ++i)
      if (!used[i] && (next < 0 || tensor.strides[i] < tensor.strides[next])) next = i;
    used[next] = true;
    if (tensor.shape[next] == 1) continue;
    if (tensor.strides[next] < reach)
      return fail(PL_ARGUMENT, "%s has strides %s for shape %s: its elements overlap", field,
                  shape_text(tensor.rank, tensor.strides).characters,
                  shape_text(tensor.rank, tensor.shape).characters);
    reach = tensor.strides[next] * (tensor.shape[next] - 1) + reach;
  }
  return true;
}

bool Check::input(const char* field, const pl_tensor& tensor, std::initializer_list<int32_t> dtypes,
                  std::initializer_list<int64_t> expected, Strides strides) {
  return layout(field, tensor, dtypes, strides) && shape(field, tensor, expected);
}

bool Check::input(const char* field, const pl_tensor& tensor, int32_t dtype,
                  std::initializer_list<int64_t> expected, Strides strides) {
  return input(field, tensor, {dtype}, expected, strides);
}

bool Check::output(const char* field, const pl_tensor& tensor,
                   std::initializer_list<int32_t> dtypes, std::initializer_list<int64_t> expected,
                   Strides strides) {
  return input(field, tensor, dtypes, expected, strides) && no_overlap_within(field, tensor);
}

bool Check::output(const char* field, const pl_tensor& tensor, int32_t dtype,
                   std::initializer_list<int64_t> expected, Strides strides) {
  return output(field, tensor, {dtype}, expected, strides);
}

bool Check::input_of_any_shape(const char* field, const pl_tensor& tensor,
                               std::initializer_list<int32_t> dtypes, Strides strides) {
  return layout(field, tensor, dtypes, strides);
}

bool Check::output_of_any_shape(const char* field, const pl_tensor& tensor,
                                std::initializer_list<int32_t> dtypes, Strides strides) {
  return layout(field, tensor, dtypes, strides) && no_overlap_within(field, tensor);
}

bool Check::same_shape(const char* field, const pl_tensor& tensor, const char* other_field,
                       const pl_tensor& other) {
  if (!ok()) return false;
  bool same = tensor.rank == other.rank;
  for (int i = 0; same && i < tensor.rank; ++i) same = tensor.shape[i] == other.shape[i];
  if (same) return true;
  return fail(PL_SHAPE, "%s has shape %s, must be that of %s, %s", field,
              shape_text(tensor.rank, tensor.shape).characters, other_field,
              shape_text(other.rank, other.shape).characters);
}

bool Check::weight(const char* field, const pl_weight* weight, int64_t rows, int64_t columns) {
  if (!ok()) return false;
  if (!weight) return fail(PL_ARGUMENT, "%s is missing", field);
  const pl_weight_options& options = reinterpret_cast<const pl_weight_base*>(weight)->options;
  if ((rows == kAny || rows == options.rows) && (columns == kAny || columns == options.columns))
    return true;
  const int64_t received[] = {options.rows, options.columns}, expected[] = {rows, columns};
  return fail(PL_SHAPE, "%s has shape %s, must be %s", field, shape_text(2, received).characters,
              shape_text(2, expected).characters);
}

bool Check::in_range(const char* field, double value, double least, double most) {
  if (!ok()) return false;
  if (value >= least && value <= most) return true;
  return fail(PL_ARGUMENT, "%s is %g, must be from %g to %g", field, value, least, most);
}

bool Check::positive(const char* field, int64_t value) {
  if (!ok()) return false;
  if (value > 0) return true;
  return fail(PL_ARGUMENT, "%s is %lld, must be positive", field, static_cast<long long>(value));
}

bool Check::row_range(const char* field, int64_t begin, int64_t count, int64_t rows) {
  if (!ok()) return false;
  if (begin >= 0 && begin <= rows && count <= rows - begin) return true;
  return fail(PL_ARGUMENT, "%s is %lld for %lld rows, they must lie within the weight's %lld",
              field, static_cast<long long>(begin), static_cast<long long>(count),
              static_cast<long long>(rows));
}

bool Check::dropout(const pl_dropout& dropout, int64_t rows, int64_t columns) {
  if (!ok()) return false;
  // The threshold is a multiple of 2^-16, and 1 / (1 - p) must stay finite.
  constexpr float kMost = 65535.0f / 65536.0f;
  if (!(dropout.probability >= 0 && dropout.probability <= kMost))
    return fail(PL_ARGUMENT, "dropout.probability is %g, must be at least 0 and below 1",
                static_cast<double>(dropout.probability));
  if (dropout.probability == 0) return true;
  if (dropout.module >= 1u << 16)
    return fail(PL_ARGUMENT, "dropout.module is %u, must be below 65536", dropout.module);
  if (columns > int64_t(8) << 16)
    return fail(PL_SHAPE, "dropout covers %lld columns, must be at most %d",
                static_cast<long long>(columns), 8 << 16);
  return input("dropout.step", dropout.step, PL_I32, {1}) &&
         input("dropout.row_sample", dropout.row_sample, PL_I32, {rows}, kLastContiguous) &&
         input("dropout.row_position", dropout.row_position, PL_I32, {rows}, kLastContiguous);
}

bool Check::disjoint(const char* field, const pl_tensor& tensor, const char* other_field,
                     const pl_tensor& other) {
  if (!ok()) return false;
  if (!share_memory(tensor, other)) return true;
  return fail(PL_ARGUMENT, "%s shares memory with %s, must not", field, other_field);
}

bool Check::disjoint_or_same(const char* field, const pl_tensor& tensor, const char* other_field,
                             const pl_tensor& other) {
  if (!ok()) return false;
  if (same_view(tensor, other) || !share_memory(tensor, other)) return true;
  return fail(PL_ARGUMENT, "%s overlaps %s in part, must be the same or apart", field, other_field);
}

pl_status check_weight_options(const pl_weight_options* options) {
  Check check("weight");
  if (!options) {
    check.fail(PL_ARGUMENT, "the options are null");
    return check.status();
  }
  if (options->size < sizeof *options) {
    check.fail(PL_ARGUMENT,
               "size is %u, must be at least %zu: the caller is older than this library",
               options->size, sizeof *options);
    return check.status();
  }
  // Rows and columns are rounded up to panels; the bounds keep every product of sizes far from
  // overflow.
  constexpr int64_t kMost = int64_t(1) << 31;
  constexpr int64_t kMostElements = int64_t(1) << 50;
  for (int64_t size : {options->rows, options->columns})
    if (size < 1 || size > kMost)
      check.fail(PL_SHAPE, "the shape is [%lld, %lld], sizes must be from 1 to %lld",
                 static_cast<long long>(options->rows), static_cast<long long>(options->columns),
                 static_cast<long long>(kMost));
  if (check.ok() && options->rows > kMostElements / options->columns)
    check.fail(PL_SHAPE, "the shape is [%lld, %lld], must have at most %lld elements",
               static_cast<long long>(options->rows), static_cast<long long>(options->columns),
               static_cast<long long>(kMostElements));
  if (options->storage != PL_F32 && options->storage != PL_BF16)
    check.fail(PL_DTYPE, "storage is %s (%d), must be f32 or bf16", dtype_name(options->storage),
               options->storage);
  if (options->compute != PL_F32 && options->compute != PL_BF16)
    check.fail(PL_DTYPE, "compute is %s (%d), must be f32 or bf16", dtype_name(options->compute),
               options->compute);
  if (options->compute == PL_BF16 && options->storage != PL_BF16)
    check.fail(PL_DTYPE, "compute bf16 needs storage bf16, received storage %s",
               dtype_name(options->storage));
  return check.status();
}

}  // namespace polylora::check
