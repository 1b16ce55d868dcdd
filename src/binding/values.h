// JavaScript values as native ones. Each function throws Failure naming the field, the value
// received, and what is allowed. Reading can run JavaScript (getters), so a function reads all its
// arguments before it checks any state.
#pragma once

#include <node_api.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "binding/environment.h"

namespace polylora::binding {

// The value in a few words: 3.5, "text", null, an object ...
std::string describe_value(napi_env env, napi_value value);

bool is_nullish(napi_env env, napi_value value);
bool is_object(napi_env env, napi_value value);

double read_number(napi_env env, napi_value value, const std::string& field);
// Integers only.
int64_t read_integer(napi_env env, napi_value value, const std::string& field, int64_t least,
                     int64_t most);
// An integer from 0 to 2^53 - 1.
uint64_t read_size(napi_env env, napi_value value, const std::string& field);
// A size, or a BigInt from 0 to 2^64 - 1.
uint64_t read_uint64(napi_env env, napi_value value, const std::string& field);
bool read_flag(napi_env env, napi_value value, const std::string& field);  // a boolean, 0 or 1
std::string read_string(napi_env env, napi_value value, const std::string& field);
// A string without NUL that is not empty, and that the system could take for a path.
std::string read_path(napi_env env, napi_value value, const std::string& field);
int32_t read_dtype(napi_env env, napi_value value, const std::string& field);  // pl_dtype
const char* dtype_name(int32_t dtype);
uint64_t dtype_bytes(int32_t dtype);

// An array's length; throws if it is none.
uint32_t read_array(napi_env env, napi_value value, const std::string& field);
napi_value element(napi_env env, napi_value array, uint32_t index);
std::vector<uint64_t> read_sizes(napi_env env, napi_value value, const std::string& field);
napi_value property(napi_env env, napi_value object, const char* name);

// The enumerable keys of an object of named fields; null if it has elements. Those of a typed array
// or of a String object are not enumerated: there may be more of them than V8 can hold.
napi_value own_keys(napi_env env, napi_value object);

// Throws if the object has an enumerable key of its own that is not among these.
void check_keys(napi_env env, napi_value object, const std::vector<std::string>& allowed,
                const std::string& what);

// Product of the sizes and of `factor`; false if it reaches 2^53.
bool multiply_sizes(const std::vector<uint64_t>& sizes, uint64_t factor, uint64_t* product);

napi_value make_string(napi_env env, const std::string& text);
napi_value make_number(napi_env env, double number);
void set(napi_env env, napi_value object, const char* name, napi_value value);

}  // namespace polylora::binding
