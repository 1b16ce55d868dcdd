#include "checks/check.h"

using namespace polylora::check;

pl_status pl_check_weight_row_norms(const pl_weight_row_norms_args* args) {
  Check check("weight_row_norms");
  if (!check.arguments(args)) return check.status();
  if (!check.weight("weight", args->weight, kAny, kAny)) return check.status();
  check.output("y", args->y, PL_F32,
               {reinterpret_cast<const pl_weight_base*>(args->weight)->options.rows});
  return check.status();
}
