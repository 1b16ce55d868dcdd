#include "binding/call.h"

namespace polylora::binding {

void check(napi_env env, napi_status status) {
  if (status == napi_ok) return;
  const napi_extended_error_info* info = nullptr;
  const bool known = napi_get_last_error_info(env, &info) == napi_ok && info && info->error_message;
  bool pending = false;
  if (status == napi_pending_exception ||
      (napi_is_exception_pending(env, &pending) == napi_ok && pending))
    throw Pending();
  throw Failure("Argument", known ? info->error_message : "a call into JavaScript failed");
}

napi_value Call::undefined() const {
  napi_value value = nullptr;
  check(env, napi_get_undefined(env, &value));
  return value;
}

napi_value make_error(napi_env env, const Failure& failure) {
  napi_value code, message, error, details, value;
  check(env, napi_create_string_utf8(env, failure.code, NAPI_AUTO_LENGTH, &code));
  check(env,
        napi_create_string_utf8(env, failure.message.c_str(), failure.message.size(), &message));
  check(env, napi_create_error(env, code, message, &error));
  if (failure.details.empty() && failure.numbers.empty()) return error;
  check(env, napi_create_object(env, &details));
  for (const auto& [name, text] : failure.details) {
    check(env, napi_create_string_utf8(env, text.c_str(), text.size(), &value));
    check(env, napi_set_named_property(env, details, name, value));
  }
  for (const auto& [name, number] : failure.numbers) {
    check(env, napi_create_double(env, number, &value));
    check(env, napi_set_named_property(env, details, name, value));
  }
  check(env, napi_set_named_property(env, error, "details", details));
  return error;
}

void throw_error(napi_env env, const Failure& failure) noexcept {
  try {
    check(env, napi_throw(env, make_error(env, failure)));
  } catch (...) {
    // An exception is pending already, or the environment is ending.
  }
}

}  // namespace polylora::binding
