#include "binding/environment.h"

#include <algorithm>

#include "binding/call.h"
#include "binding/device.h"
#include "binding/schema.h"

namespace polylora::binding {

napi_value Promise::value(napi_env env) {
  napi_value undefined;
  check(env, napi_get_undefined(env, &undefined));
  return undefined;
}

void Environment::create(napi_env env) {
  // Handles keep the environment alive: their finalizers may run after that of the instance data.
  auto holder = std::make_unique<std::shared_ptr<Environment>>(new Environment(env));
  (*holder)->initialize();
  check(env, napi_set_instance_data(
                 env, holder.get(),
                 [](napi_env, void* data, void*) {
                   delete static_cast<std::shared_ptr<Environment>*>(data);
                 },
                 nullptr));
  holder.release();
}

Environment& Environment::of(napi_env env) {
  void* data = nullptr;
  check(env, napi_get_instance_data(env, &data));
  if (!data) throw Failure("Device", "the environment is ending");
  return **static_cast<std::shared_ptr<Environment>*>(data);
}

void Environment::initialize() {
  napi_value global, constructor, prototype, object, describe, descriptor, getter, name, list;
  check(env_, napi_get_global(env_, &global));
  check(env_, napi_get_named_property(env_, global, "ArrayBuffer", &constructor));
  check(env_, napi_create_reference(env_, constructor, 1, &array_buffer_));

  // The getter of `resizable` as it is now: reading it later runs no code of the program's.
  check(env_, napi_get_named_property(env_, constructor, "prototype", &prototype));
  check(env_, napi_get_named_property(env_, global, "Object", &object));
  check(env_, napi_get_named_property(env_, object, "getOwnPropertyDescriptor", &describe));
  check(env_, napi_create_string_utf8(env_, "resizable", NAPI_AUTO_LENGTH, &name));
  napi_value arguments[] = {prototype, name};
  check(env_, napi_call_function(env_, object, describe, 2, arguments, &descriptor));
  napi_valuetype type;
  check(env_, napi_typeof(env_, descriptor, &type));
  if (type == napi_object) {
    check(env_, napi_get_named_property(env_, descriptor, "get", &getter));
    check(env_, napi_create_reference(env_, getter, 1, &resizable_));
  }

  schemas_ = std::make_unique<const Schemas>(make_schemas());
  const std::vector<std::string>& keys = schemas_->keys;
  check(env_, napi_create_array_with_length(env_, keys.size(), &list));
  for (size_t i = 0; i < keys.size(); ++i) {
    check(env_, napi_create_string_utf8(env_, keys[i].c_str(), keys[i].size(), &name));
    check(env_, napi_set_element(env_, list, uint32_t(i), name));
  }
  check(env_, napi_create_reference(env_, list, 1, &keys_));

  // The function's own hook, registered first, runs after ours.
  auto context = std::make_unique<std::shared_ptr<Environment>>(shared_from_this());
  check(env_, napi_create_string_utf8(env_, "polylora", NAPI_AUTO_LENGTH, &name));
  check(env_, napi_create_threadsafe_function(
                  env_, nullptr, nullptr, name, 0, 1, nullptr,
                  [](napi_env, void*, void* hint) {
                    delete static_cast<std::shared_ptr<Environment>*>(hint);
                  },
                  context.get(),
                  [](napi_env env, napi_value, void* context, void*) {
                    if (env) (*static_cast<std::shared_ptr<Environment>*>(context))->drain();
                  },
                  &wake_));
  context.release();
  check(env_, napi_unref_threadsafe_function(env_, wake_));
  check(env_,
        napi_add_env_cleanup_hook(
            env_, [](void* environment) { static_cast<Environment*>(environment)->tear_down(); },
            this));
}

Environment::Environment(napi_env env) : env_(env) {}

Environment::~Environment() = default;

void Environment::tear_down() {
  worker_.cancel();
  // Closing a device calls every callback that is queued there, which wakes whoever waits for one.
  while (!devices_.empty()) (*devices_.begin())->close_now();
  worker_.stop();
  for (Closer& closer : closers_) closer.thread.join();
  closers_.clear();
  // Nobody is left to settle anything, and nobody to hear of it.
  while (Promise* promise = first_settled_) {
    first_settled_ = promise->next_;
    delete promise;
  }
  last_settled_ = nullptr;
  for (Promise* promise : abandoned_) delete promise;
  abandoned_.clear();
  locks.clear();
  env_ = nullptr;
}

void Environment::add(Promise* promise, napi_value* result) {
  check(env_, napi_create_promise(env_, &promise->deferred_, result));
  promise->environment_ = this;
  if (outstanding_++ == 0) check(env_, napi_ref_threadsafe_function(env_, wake_));
}

void Environment::settle_promise(Promise* promise) {
  bool wake;
  {
    std::lock_guard<std::mutex> lock(settled_mutex_);
    wake = first_settled_ == nullptr;
    promise->next_ = nullptr;
    (last_settled_ ? last_settled_->next_ : first_settled_) = promise;
    last_settled_ = promise;
  }
  if (wake) napi_call_threadsafe_function(wake_, nullptr, napi_tsfn_nonblocking);
}

void Environment::settle_with_status(void* promise, const pl_status* status) {
  Promise* self = static_cast<Promise*>(promise);
  self->status = *status;
  settle(self);
}

void Environment::drain() {
  report_memory();
  Promise* promise;
  {
    std::lock_guard<std::mutex> lock(settled_mutex_);
    promise = first_settled_;
    first_settled_ = last_settled_ = nullptr;
  }
  while (promise) {
    const std::unique_ptr<Promise> owner(promise);
    promise = promise->next_;
    napi_handle_scope scope;
    if (napi_open_handle_scope(env_, &scope) == napi_ok) {
      try {
        if (!owner->failure && owner->status.code != PL_OK)
          owner->failure =
              std::make_unique<Failure>(failure_code(owner->status.code), owner->status.message);
        napi_value value = nullptr;
        if (!owner->failure) {
          try {
            value = owner->value(env_);
          } catch (const Failure& failure) {
            owner->failure = std::make_unique<Failure>(failure);
          }
        }
        if (owner->failure)
          check(env_,
                napi_reject_deferred(env_, owner->deferred_, make_error(env_, *owner->failure)));
        else
          check(env_, napi_resolve_deferred(env_, owner->deferred_, value));
      } catch (...) {
        // Only an environment that is ending refuses.
      }
      napi_close_handle_scope(env_, scope);
    }
    if (--outstanding_ == 0) napi_unref_threadsafe_function(env_, wake_);
  }
}

void Environment::abandon(Promise* promise) {
  abandoned_.reserve(abandoned_.size() + 1);
  abandoned_.push_back(promise);
  Failure failure("Device", "");
  if (promise->status.code != PL_OK)
    failure = Failure(failure_code(promise->status.code), promise->status.message);
  check(env_, napi_reject_deferred(env_, promise->deferred_, make_error(env_, failure)));
  if (--outstanding_ == 0) napi_unref_threadsafe_function(env_, wake_);
}

void Environment::report_memory_later() {
  constexpr int64_t kWorthReporting = int64_t(1) << 20;
  if (will_report_ || (memory_change_ < kWorthReporting && memory_change_ > -kWorthReporting))
    return;
  will_report_ = napi_call_threadsafe_function(wake_, nullptr, napi_tsfn_nonblocking) == napi_ok;
}

void Environment::report_memory() {
  will_report_ = false;
  int64_t total;
  if (memory_change_ != 0 && napi_adjust_external_memory(env_, memory_change_, &total) == napi_ok)
    memory_change_ = 0;
}

void Environment::close_stream(const pl_device_table* table, pl_stream* stream, Promise* promise) {
  for (auto closer = closers_.begin(); closer != closers_.end();) {
    if (!closer->done.load()) {
      ++closer;
      continue;
    }
    closer->thread.join();
    closer = closers_.erase(closer);
  }
  const auto close = [table, stream, promise] {
    table->close(stream);
    if (promise) settle(promise);
  };
  if (env_) {
    try {
      Closer& closer = closers_.emplace_back();
      try {
        closer.thread = std::thread([close, &closer] {
          close();
          closer.done.store(true);
        });
        return;
      } catch (...) {
        closers_.pop_back();
      }
    } catch (const std::bad_alloc&) {
    }
  }
  // No thread can be had: waiting here is what is left.
  close();
}

napi_value Environment::keys(napi_env env) const {
  napi_value keys;
  check(env, napi_get_reference_value(env, keys_, &keys));
  return keys;
}

napi_value Environment::new_array_buffer(napi_env env, uint64_t bytes, void** data) {
  // The constructor throws where napi_create_arraybuffer would end the process.
  napi_value constructor, length, buffer;
  check(env, napi_get_reference_value(env, array_buffer_, &constructor));
  check(env, napi_create_double(env, double(bytes), &length));
  if (napi_new_instance(env, constructor, 1, &length, &buffer) != napi_ok) {
    napi_value exception;
    if (napi_get_and_clear_last_exception(env, &exception) != napi_ok) throw Pending();
    throw Failure("OutOfMemory",
                  "an ArrayBuffer of " + std::to_string(bytes) + " bytes could not be had");
  }
  size_t size;
  check(env, napi_get_arraybuffer_info(env, buffer, data, &size));
  if (size != bytes) throw Failure("OutOfMemory", "an ArrayBuffer has the wrong size");
  return buffer;
}

bool Environment::is_resizable(napi_env env, napi_value array_buffer) {
  if (!resizable_) return false;
  napi_value getter, value;
  bool resizable;
  check(env, napi_get_reference_value(env, resizable_, &getter));
  check(env, napi_call_function(env, array_buffer, getter, 0, nullptr, &value));
  check(env, napi_get_value_bool(env, value, &resizable));
  return resizable;
}

}  // namespace polylora::binding
