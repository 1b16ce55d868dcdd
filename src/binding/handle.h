// The objects that JavaScript holds: tagged, so that none can stand in for another, and checked
// before each unwrap.
#pragma once

#include <node_api.h>

#include <memory>
#include <string>

#include "binding/environment.h"

namespace polylora::binding {

// A handle type has `static constexpr napi_type_tag kTag` and `static constexpr const char* kName`.
// Its destructor runs in a finalizer: it may drop references, and must not call N-API or wait.
template <class Handle>
napi_value wrap(napi_env env, std::unique_ptr<Handle> handle) {
  napi_value object;
  check(env, napi_create_object(env, &object));
  check(env, napi_type_tag_object(env, object, &Handle::kTag));
  check(env, napi_wrap(
                 env, object, handle.get(),
                 [](napi_env, void* data, void*) { delete static_cast<Handle*>(data); }, nullptr,
                 nullptr));
  handle.release();
  return object;
}

// Null if `value` is not such an object.
template <class Handle>
Handle* try_unwrap(napi_env env, napi_value value) {
  napi_valuetype type;
  bool tagged = false;
  void* data = nullptr;
  // The tag of null or undefined is a TypeError, and primitives would be boxed.
  if (napi_typeof(env, value, &type) != napi_ok || type != napi_object ||
      napi_check_object_type_tag(env, value, &Handle::kTag, &tagged) != napi_ok || !tagged ||
      napi_unwrap(env, value, &data) != napi_ok)
    return nullptr;
  return static_cast<Handle*>(data);
}

std::string describe_value(napi_env env, napi_value value);

template <class Handle>
Handle& unwrap(napi_env env, napi_value value, const char* field) {
  if (Handle* handle = try_unwrap<Handle>(env, value)) return *handle;
  throw Failure("Argument", std::string(field) + " is " + describe_value(env, value) +
                                ", must be a " + Handle::kName);
}

}  // namespace polylora::binding
