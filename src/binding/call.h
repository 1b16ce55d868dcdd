// The entry of a function that JavaScript calls: arguments in, C++ exceptions turned into
// JavaScript's.
#pragma once

#include <node_api.h>

#include <new>

#include "binding/environment.h"

namespace polylora::binding {

constexpr size_t kMostArguments = 4;

struct Call {
  napi_env env;
  Environment& environment;
  size_t count;
  napi_value arguments[kMostArguments];  // undefined beyond count

  napi_value operator[](size_t i) const { return arguments[i]; }
  napi_value undefined() const;
};

// A JavaScript Error with `code` and, if there are any, `details`.
napi_value make_error(napi_env env, const Failure& failure);
void throw_error(napi_env env, const Failure& failure) noexcept;

template <napi_value (*function)(Call&)>
napi_value entry(napi_env env, napi_callback_info info) noexcept {
  try {
    Call call{env, Environment::of(env), kMostArguments, {}};
    check(env, napi_get_cb_info(env, info, &call.count, call.arguments, nullptr, nullptr));
    return function(call);
  } catch (const Pending&) {
  } catch (const Failure& failure) {
    throw_error(env, failure);
  } catch (const std::bad_alloc&) {
    throw_error(env, Failure("OutOfMemory", "the system refused memory"));
  } catch (const std::exception& error) {
    throw_error(env, Failure("Device", error.what()));
  } catch (...) {
    throw_error(env, Failure("Device", "the addon failed for an unknown reason"));
  }
  return nullptr;
}

}  // namespace polylora::binding
