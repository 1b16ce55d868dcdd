#include "checks/check.h"

using namespace polylora::check;

pl_status pl_check_adamw(const pl_adamw_args* args) {
  Check check("adamw");
  if (!check.arguments(args)) return check.status();
  check.input("learning_rate", args->learning_rate, PL_F32, {1});
  check.input("step", args->step, PL_I32, {1});
  check.input("gradient_scale", args->gradient_scale, PL_F32, {1});
  check.input("finite", args->finite, PL_F32, {1});
  constexpr double kBelowOne = 1 - 0x1p-24;
  check.in_range("beta1", double(args->beta1), 0, kBelowOne);
  check.in_range("beta2", double(args->beta2), 0, kBelowOne);
  check.in_range("epsilon", double(args->epsilon), 0, 1e30);
  if (check.ok() && args->parameter_count > 0 && !args->parameters)
    check.fail(PL_ARGUMENT, "parameters is missing, parameter_count is %u", args->parameter_count);
  for (uint32_t i = 0; check.ok() && i < args->parameter_count; ++i) {
    const pl_adamw_parameter& parameter = args->parameters[i];
    const struct {
      const char* field;
      const pl_tensor& tensor;
    } all[] = {{"parameter", parameter.parameter},
               {"gradient", parameter.gradient},
               {"moment", parameter.moment},
               {"variance", parameter.variance}};
    for (const auto& one : all) {
      check.output_of_any_shape(one.field, one.tensor, {PL_F32}, kContiguous);
      check.same_shape(one.field, one.tensor, "parameter", parameter.parameter);
      for (const auto& other : all)
        if (&other < &one) check.disjoint(one.field, one.tensor, other.field, other.tensor);
    }
    check.in_range("learning_rate_scale", double(parameter.learning_rate_scale), -1e30, 1e30);
    check.in_range("weight_decay", double(parameter.weight_decay), -1e30, 1e30);
  }
  return check.status();
}
