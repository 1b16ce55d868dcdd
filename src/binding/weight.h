#pragma once

#include <memory>

#include "binding/device.h"

namespace polylora::binding {

class Weight {
 public:
  Weight(std::shared_ptr<Device> device, const pl_weight_options& options);
  ~Weight();
  Weight(const Weight&) = delete;

  const std::shared_ptr<Device>& device() const { return device_; }
  pl_weight* native() const { return native_; }
  const pl_weight_options& options() const { return options_; }

 private:
  std::shared_ptr<Device> device_;
  pl_weight_options options_;
  pl_weight* native_ = nullptr;
  uint64_t bytes_ = 0;
};

struct WeightHandle {
  static constexpr napi_type_tag kTag = {0x17f3d86ba5c24e09u, 0xb4920e7d5a1cf836u};
  static constexpr const char* kName = "weight";

  std::shared_ptr<Weight> weight;  // null once disposed

  // Throws Disposed, for a closed device too.
  void check_alive(const char* field) const;
};

napi_value create_weight(Call& call);
napi_value dispose_weight(Call& call);

}  // namespace polylora::binding
