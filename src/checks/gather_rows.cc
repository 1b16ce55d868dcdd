#include "checks/check.h"

using namespace polylora::check;

pl_status pl_check_gather_rows(const pl_gather_rows_args* args) {
  Check check("gather_rows");
  if (!check.arguments(args)) return check.status();
  check.input("indices", args->indices, PL_I32, {kAny}, kLastContiguous);
  int64_t width = kAny;
  if (args->weight && given(args->source)) {
    check.fail(PL_ARGUMENT, "source and weight are both given, must be one");
  } else if (args->weight) {
    width = reinterpret_cast<const pl_weight_base*>(args->weight)->options.columns;
  } else {
    check.input("source", args->source, PL_F32, {kAny, kAny}, kLastContiguous);
    width = args->source.shape[1];
  }
  check.output("y", args->y, PL_F32, {args->indices.shape[0], width}, kLastContiguous);
  check.disjoint("y", args->y, "indices", args->indices);
  if (!args->weight) check.disjoint("y", args->y, "source", args->source);
  return check.status();
}
