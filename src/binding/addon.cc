// The addon's exports: one function each, named as in lib/native.ts.
#include "binding/backends.h"
#include "binding/call.h"
#include "binding/device.h"
#include "binding/files.h"
#include "binding/recording.h"
#include "binding/run.h"
#include "binding/tensor.h"
#include "binding/weight.h"

namespace polylora::binding {
namespace {

struct Export {
  const char* name;
  napi_callback function;
};

constexpr Export kExports[] = {
    {"backends", entry<backends>},
    {"addBackend", entry<add_backend>},
    {"openDevice", entry<open_device>},
    {"closeDevice", entry<close_device>},
    {"describeDevice", entry<describe_device>},
    {"synchronize", entry<synchronize>},
    {"profile", entry<profile>},
    {"trim", entry<trim>},
    {"allocate", entry<allocate>},
    {"view", entry<view>},
    {"disposeTensor", entry<dispose_tensor>},
    {"writeTensor", entry<write_tensor>},
    {"readTensor", entry<read_tensor>},
    {"createWeight", entry<create_weight>},
    {"disposeWeight", entry<dispose_weight>},
    {"run", entry<run>},
    {"beginRecording", entry<begin_recording>},
    {"endRecording", entry<end_recording>},
    {"replayRecording", entry<replay_recording>},
    {"disposeRecording", entry<dispose_recording>},
    {"openSafetensors", entry<open_safetensors>},
    {"safetensorsEntries", entry<safetensors_entries>},
    {"readSafetensors", entry<read_safetensors>},
    {"readSafetensorsWeight", entry<read_safetensors_weight>},
    {"closeSafetensors", entry<close_safetensors>},
    {"writeSafetensors", entry<write_safetensors>},
    {"exchangePaths", entry<exchange_paths>},
    {"lockFile", entry<lock_file>},
    {"unlockFile", entry<unlock_file>},
    {"injectFileFault", entry<inject_file_fault>},
    {"injectAllocationFault", entry<inject_allocation_fault>},
    {"heldBytes", entry<held_bytes>},
};

napi_value initialize(napi_env env, napi_value exports) {
  try {
    Environment::create(env);
    for (const Export& one : kExports) {
      napi_value function;
      check(env, napi_create_function(env, one.name, NAPI_AUTO_LENGTH, one.function, nullptr,
                                      &function));
      check(env, napi_set_named_property(env, exports, one.name, function));
    }
    return exports;
  } catch (const Pending&) {
  } catch (const Failure& failure) {
    throw_error(env, failure);
  } catch (const std::exception& error) {
    throw_error(env, Failure("Device", error.what()));
  }
  return nullptr;
}

}  // namespace
}  // namespace polylora::binding

NAPI_MODULE_INIT() { return polylora::binding::initialize(env, exports); }
