#include "binding/values.h"

#include <limits.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace polylora::binding {

namespace {

constexpr double kSafe = 9007199254740992.0;  // 2^53

struct Dtype {
  const char* name;
  int32_t dtype;
  uint64_t bytes;
};
constexpr Dtype kDtypes[] = {{"f32", PL_F32, 4},
                             {"bf16", PL_BF16, 2},
                             {"f16", PL_F16, 2},
                             {"i32", PL_I32, 4},
                             {"u8", PL_U8, 1}};

napi_valuetype type_of(napi_env env, napi_value value) {
  napi_valuetype type;
  check(env, napi_typeof(env, value, &type));
  return type;
}

[[noreturn]] void refuse(napi_env env, napi_value value, const std::string& field,
                         const std::string& allowed) {
  throw Failure("Argument", field + " is " + describe_value(env, value) + ", must be " + allowed);
}

bool is_size(napi_env env, napi_value value, uint64_t* size) {
  double number;
  if (napi_get_value_double(env, value, &number) != napi_ok || !(number >= 0 && number < kSafe) ||
      std::floor(number) != number)
    return false;
  *size = uint64_t(number);
  return true;
}

std::string format(double number) {
  char text[32];
  std::snprintf(text, sizeof text, "%.17g", number);
  return text;
}

}  // namespace

std::string describe_value(napi_env env, napi_value value) {
  switch (type_of(env, value)) {
    case napi_undefined:
      return "undefined";
    case napi_null:
      return "null";
    case napi_boolean: {
      bool flag = false;
      napi_get_value_bool(env, value, &flag);
      return flag ? "true" : "false";
    }
    case napi_number: {
      double number = 0;
      napi_get_value_double(env, value, &number);
      return format(number);
    }
    case napi_string: {
      char text[64];
      size_t length = 0;
      napi_get_value_string_utf8(env, value, text, sizeof text, &length);
      return "\"" + std::string(text, length) + (length + 4 > sizeof text ? "...\"" : "\"");
    }
    case napi_symbol:
      return "a symbol";
    case napi_function:
      return "a function";
    case napi_external:
      return "an external value";
    case napi_bigint:
      return "a BigInt";
    case napi_object: {
      bool array = false;
      napi_is_array(env, value, &array);
      return array ? "an array" : "an object";
    }
  }
  return "an unknown value";
}

bool is_nullish(napi_env env, napi_value value) {
  const napi_valuetype type = type_of(env, value);
  return type == napi_undefined || type == napi_null;
}

bool is_object(napi_env env, napi_value value) { return type_of(env, value) == napi_object; }

double read_number(napi_env env, napi_value value, const std::string& field) {
  double number;
  if (napi_get_value_double(env, value, &number) != napi_ok) refuse(env, value, field, "a number");
  return number;
}

int64_t read_integer(napi_env env, napi_value value, const std::string& field, int64_t least,
                     int64_t most) {
  double number;
  if (napi_get_value_double(env, value, &number) != napi_ok || std::floor(number) != number ||
      !(number >= double(least) && number <= double(most)))
    refuse(env, value, field,
           "an integer from " + std::to_string(least) + " to " + std::to_string(most));
  return int64_t(number);
}

uint64_t read_size(napi_env env, napi_value value, const std::string& field) {
  uint64_t size;
  if (!is_size(env, value, &size)) refuse(env, value, field, "an integer from 0 to 2^53 - 1");
  return size;
}

uint64_t read_uint64(napi_env env, napi_value value, const std::string& field) {
  if (type_of(env, value) != napi_bigint) return read_size(env, value, field);
  uint64_t number;
  bool lossless;
  check(env, napi_get_value_bigint_uint64(env, value, &number, &lossless));
  if (!lossless) refuse(env, value, field, "from 0 to 2^64 - 1");
  return number;
}

bool read_flag(napi_env env, napi_value value, const std::string& field) {
  bool flag;
  double number;
  if (napi_get_value_bool(env, value, &flag) == napi_ok) return flag;
  if (napi_get_value_double(env, value, &number) == napi_ok && (number == 0 || number == 1))
    return number == 1;
  refuse(env, value, field, "a boolean");
}

std::string read_string(napi_env env, napi_value value, const std::string& field) {
  size_t length;
  if (napi_get_value_string_utf8(env, value, nullptr, 0, &length) != napi_ok)
    refuse(env, value, field, "a string");
  std::string text(length, '\0');
  check(env, napi_get_value_string_utf8(env, value, text.data(), length + 1, &length));
  text.resize(length);
  return text;
}

std::string read_path(napi_env env, napi_value value, const std::string& field) {
  std::string path = read_string(env, value, field);
  if (path.empty() || path.size() >= PATH_MAX || path.find('\0') != std::string::npos)
    refuse(env, value, field,
           "a path of 1 to " + std::to_string(PATH_MAX - 1) + " bytes that holds no NUL");
  return path;
}

int32_t read_dtype(napi_env env, napi_value value, const std::string& field) {
  char text[8] = "";
  size_t length = 0;
  if (napi_get_value_string_utf8(env, value, text, sizeof text, &length) == napi_ok)
    for (const Dtype& known : kDtypes)
      if (std::string(known.name) == text) return known.dtype;
  refuse(env, value, field, "f32, bf16, f16, i32 or u8");
}

const char* dtype_name(int32_t dtype) {
  for (const Dtype& known : kDtypes)
    if (known.dtype == dtype) return known.name;
  return "none";
}

uint64_t dtype_bytes(int32_t dtype) {
  for (const Dtype& known : kDtypes)
    if (known.dtype == dtype) return known.bytes;
  return 0;
}

uint32_t read_array(napi_env env, napi_value value, const std::string& field) {
  bool array = false;
  check(env, napi_is_array(env, value, &array));
  if (!array) refuse(env, value, field, "an array");
  uint32_t length;
  check(env, napi_get_array_length(env, value, &length));
  return length;
}

napi_value element(napi_env env, napi_value array, uint32_t index) {
  napi_value value;
  check(env, napi_get_element(env, array, index, &value));
  return value;
}

std::vector<uint64_t> read_sizes(napi_env env, napi_value value, const std::string& field) {
  const uint32_t count = read_array(env, value, field);
  if (count > 64)
    throw Failure("Shape",
                  field + " has " + std::to_string(count) + " elements; at most 64 are allowed");
  std::vector<uint64_t> sizes(count);
  for (uint32_t i = 0; i < count; ++i) {
    const napi_value item = element(env, value, i);
    // The name is put together only for a message.
    if (!is_size(env, item, &sizes[i])) read_size(env, item, field + "[" + std::to_string(i) + "]");
  }
  return sizes;
}

napi_value property(napi_env env, napi_value object, const char* name) {
  napi_value value;
  check(env, napi_get_named_property(env, object, name, &value));
  return value;
}

napi_value own_keys(napi_env env, napi_value object) {
  bool indexed = false;
  check(env, napi_has_element(env, object, 0, &indexed));
  if (indexed) return nullptr;
  napi_value keys;
  check(env,
        napi_get_all_property_names(env, object, napi_key_own_only,
                                    napi_key_filter(napi_key_enumerable | napi_key_skip_symbols),
                                    napi_key_numbers_to_strings, &keys));
  return keys;
}

void check_keys(napi_env env, napi_value object, const std::vector<std::string>& allowed,
                const std::string& what) {
  const auto refuse_key = [&](const std::string& key) {
    std::string list;
    for (const std::string& name : allowed) list += (list.empty() ? "" : ", ") + name;
    throw Failure("Argument",
                  what + " has no field \"" + key.substr(0, 64) + "\"; allowed are " + list);
  };
  const napi_value keys = own_keys(env, object);
  if (!keys) refuse_key("0");
  const uint32_t count = read_array(env, keys, what);
  for (uint32_t i = 0; i < count; ++i) {
    const std::string key = read_string(env, element(env, keys, i), what);
    if (std::find(allowed.begin(), allowed.end(), key) == allowed.end()) refuse_key(key);
  }
}

bool multiply_sizes(const std::vector<uint64_t>& sizes, uint64_t factor, uint64_t* product) {
  if (std::find(sizes.begin(), sizes.end(), 0u) != sizes.end()) {
    *product = 0;
    return true;
  }
  uint64_t total = factor;
  for (const uint64_t size : sizes)
    if (__builtin_mul_overflow(total, size, &total) || total >= uint64_t(kSafe)) return false;
  *product = total;
  return true;
}

napi_value make_string(napi_env env, const std::string& text) {
  napi_value value;
  check(env, napi_create_string_utf8(env, text.c_str(), text.size(), &value));
  return value;
}

napi_value make_number(napi_env env, double number) {
  napi_value value;
  check(env, napi_create_double(env, number, &value));
  return value;
}

void set(napi_env env, napi_value object, const char* name, napi_value value) {
  check(env, napi_set_named_property(env, object, name, value));
}

}  // namespace polylora::binding
