#include "checks/check.h"

using namespace polylora::check;

pl_status pl_check_weight_read(const pl_weight_read_args* args) {
  Check check("weight_read");
  if (!check.arguments(args)) return check.status();
  if (!check.weight("weight", args->weight, kAny, kAny)) return check.status();
  const pl_weight_options& options = reinterpret_cast<const pl_weight_base*>(args->weight)->options;
  if (!check.output("y", args->y, {PL_F32, PL_BF16}, {kAny, options.columns}, kLastContiguous))
    return check.status();
  check.row_range("row_begin", args->row_begin, args->y.shape[0], options.rows);
  return check.status();
}
