#include <napi.h>

namespace {

Napi::Object initialize(Napi::Env, Napi::Object exports) { return exports; }

}  // namespace

NODE_API_MODULE(polylora, initialize)
