#pragma once

#include "binding/call.h"

namespace polylora::binding {

// run(device, operation, args): one reader for every operation, driven by its schema.
napi_value run(Call& call);

}  // namespace polylora::binding
