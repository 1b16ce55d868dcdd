#include "checks/check.h"

using namespace polylora::check;

pl_status pl_check_head_cross_entropy(const pl_head_cross_entropy_args* args) {
  Check check("head_cross_entropy");
  if (!check.arguments(args)) return check.status();
  if (!check.weight("weight", args->weight, kAny, kAny)) return check.status();
  const pl_weight_options& options = reinterpret_cast<const pl_weight_base*>(args->weight)->options;
  check.input("x", args->x, PL_F32, {kAny, options.columns}, kLastContiguous);
  check.input("rows", args->rows, PL_I32, {kAny}, kLastContiguous);
  const int64_t t = args->x.shape[0], labelled = args->rows.shape[0];
  check.input("labels", args->labels, PL_I32, {labelled}, kLastContiguous);
  if (given(args->row_weight))
    check.input("row_weight", args->row_weight, PL_F32, {labelled}, kLastContiguous);
  check.input("loss_scale", args->loss_scale, PL_F32, {1});
  check.output("loss", args->loss, PL_F32, {labelled}, kLastContiguous);
  if (given(args->argmax))
    check.output("argmax", args->argmax, PL_I32, {labelled}, kLastContiguous);
  if (given(args->d_x))
    check.output("d_x", args->d_x, PL_F32, {t, options.columns}, kLastContiguous);
  if (given(args->d_weight))
    check.output("d_weight", args->d_weight, PL_F32, {options.rows, options.columns},
                 kLastContiguous);
  struct Named {
    const char* field;
    const pl_tensor& tensor;
  };
  const Named outputs[] = {{"loss", args->loss},
                           {"argmax", args->argmax},
                           {"d_x", args->d_x},
                           {"d_weight", args->d_weight}};
  const Named inputs[] = {{"x", args->x},
                          {"rows", args->rows},
                          {"labels", args->labels},
                          {"row_weight", args->row_weight},
                          {"loss_scale", args->loss_scale}};
  for (const Named& output : outputs) {
    for (const Named& input : inputs)
      check.disjoint(output.field, output.tensor, input.field, input.tensor);
    for (const Named& other : outputs)
      if (&other < &output) check.disjoint(output.field, output.tensor, other.field, other.tensor);
  }
  return check.status();
}
