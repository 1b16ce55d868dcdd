#include "checks/check.h"

using namespace polylora::check;

pl_status pl_check_weight_update(const pl_weight_update_args* args) {
  Check check("weight_update");
  if (!check.arguments(args)) return check.status();
  if (!check.weight("weight", args->weight, kAny, kAny)) return check.status();
  const pl_weight_options& options = reinterpret_cast<const pl_weight_base*>(args->weight)->options;
  if (!check.input("source", args->source, {PL_F32, PL_BF16, PL_F16}, {kAny, options.columns},
                   kLastContiguous))
    return check.status();
  check.row_range("row_begin", args->row_begin, args->source.shape[0], options.rows);
  return check.status();
}
