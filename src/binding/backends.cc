#include "binding/backends.h"

#include <dlfcn.h>

#include <mutex>

#include "binding/values.h"

namespace polylora::binding {

namespace {

// Where this code was loaded from.
std::string own_file() {
  Dl_info info;
  if (dladdr(reinterpret_cast<const void*>(&own_file), &info) != 0 && info.dli_fname)
    return info.dli_fname;
  return "";
}

std::string loader_error() {
  const char* const error = dlerror();
  return error ? error : "the loader gives no reason";
}

// Libraries stay open until the process ends: a device's threads run in them.
Backend open_library(const std::string& kind, const std::string& file) {
  Backend backend{kind, nullptr, file, ""};
  void* const library = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (!library) {
    backend.reason = file + " could not be loaded: " + loader_error();
    return backend;
  }
  const auto table =
      reinterpret_cast<const pl_device_table* (*)()>(dlsym(library, "polylora_device_table"));
  const auto probe = reinterpret_cast<pl_status (*)()>(dlsym(library, "polylora_device_probe"));
  if (!table || !probe) {
    backend.reason = file + " is not a library of polylora's";
    return backend;
  }
  const pl_device_table* const found = table();
  if (found->abi_version != PL_ABI_VERSION || found->size != sizeof(pl_device_table)) {
    backend.reason = file + " belongs to another version of polylora";
    return backend;
  }
  const pl_status status = probe();
  if (status.code != PL_OK) {
    backend.reason = status.message;
    return backend;
  }
  if (backend.kind.empty()) backend.kind = found->kind;
  backend.table = found;
  return backend;
}

Backend find_cuda() {
  // Without the driver the library could not even start, so it is not touched.
  void* const driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
  if (!driver)
    return {"cuda", nullptr, "",
            "no NVIDIA driver was found (libcuda.so.1); driver R580 or later is needed"};
  dlclose(driver);
  const std::string addon = own_file();
  const size_t slash = addon.rfind('/');
  const std::string file =
      addon.substr(0, slash == std::string::npos ? 0 : slash + 1) + "polylora_cuda.so";
  if (file[0] != '/') return {"cuda", nullptr, "", "the addon's own folder is not known"};
  return open_library("cuda", file);
}

std::mutex mutex;

std::vector<Backend>& list() {
  static std::vector<Backend> backends = {{"cpu", pl_cpu_device_table(), own_file(), ""},
                                          find_cuda()};
  return backends;
}

}  // namespace

std::vector<Backend> known_backends() {
  std::lock_guard<std::mutex> lock(mutex);
  return list();
}

napi_value backends(Call& call) {
  napi_value result, null;
  check(call.env, napi_create_array(call.env, &result));
  check(call.env, napi_get_null(call.env, &null));
  uint32_t index = 0;
  for (const Backend& backend : known_backends()) {
    napi_value entry;
    check(call.env, napi_create_object(call.env, &entry));
    set(call.env, entry, "kind", make_string(call.env, backend.kind));
    set(call.env, entry, "file", backend.table ? make_string(call.env, backend.file) : null);
    set(call.env, entry, "reason", backend.table ? null : make_string(call.env, backend.reason));
    check(call.env, napi_set_element(call.env, result, index++, entry));
  }
  return result;
}

napi_value add_backend(Call& call) {
  const std::string file = read_string(call.env, call[0], "file");
  if (file.empty() || file[0] != '/' || file.find('\0') != std::string::npos)
    throw Failure("Argument",
                  "file is " + describe_value(call.env, call[0]) + ", must be an absolute path");
  std::lock_guard<std::mutex> lock(mutex);
  for (const Backend& backend : list())
    if (backend.table && backend.file == file) return make_string(call.env, backend.kind);
  const Backend added = open_library("", file);
  if (!added.table) throw Failure("Device", added.reason);
  for (const Backend& backend : list())
    if (backend.kind == added.kind)
      throw Failure("Argument",
                    file + " holds the device kind " + added.kind + ", which is there already");
  list().push_back(added);
  return make_string(call.env, added.kind);
}

}  // namespace polylora::binding
