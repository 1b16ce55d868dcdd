#pragma once

#include "binding/call.h"

namespace polylora::binding {

napi_value open_safetensors(Call& call);
napi_value safetensors_entries(Call& call);
napi_value read_safetensors(Call& call);
napi_value read_safetensors_weight(Call& call);
napi_value close_safetensors(Call& call);
napi_value write_safetensors(Call& call);
napi_value exchange_paths(Call& call);
napi_value inject_file_fault(Call& call);

napi_value lock_file(Call& call);
napi_value unlock_file(Call& call);

}  // namespace polylora::binding
