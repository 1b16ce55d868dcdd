#include "checks/check.h"

using namespace polylora::check;

namespace {

// [T, D] or [T, H, D] with D at least 1; the rows' other dimensions are contiguous in rstd.
bool rows(Check& check, const pl_tensor& x) {
  if (!check.input_of_any_shape("x", x, {PL_F32}, kLastContiguous)) return false;
  if (x.rank != 2 && x.rank != 3)
    return check.fail(PL_SHAPE, "x has rank %d, must be [T, D] or [T, H, D]", x.rank);
  return check.positive("the last dimension of x", x.shape[x.rank - 1]);
}

bool like_x(Check& check, const char* field, const pl_tensor& tensor, const pl_tensor& x) {
  return check.input_of_any_shape(field, tensor, {PL_F32}, kLastContiguous) &&
         check.same_shape(field, tensor, "x", x);
}

bool output_like_x(Check& check, const char* field, const pl_tensor& tensor, const pl_tensor& x) {
  return check.output_of_any_shape(field, tensor, {PL_F32}, kLastContiguous) &&
         check.same_shape(field, tensor, "x", x);
}

bool scales(Check& check, const pl_tensor& rstd, const pl_tensor& x) {
  return x.rank == 2 ? check.output("rstd", rstd, PL_F32, {x.shape[0]}, kContiguous)
                     : check.output("rstd", rstd, PL_F32, {x.shape[0], x.shape[1]}, kContiguous);
}

}  // namespace

pl_status pl_check_rms_norm(const pl_rms_norm_args* args) {
  Check check("rms_norm");
  if (!check.arguments(args) || !rows(check, args->x)) return check.status();
  check.input("weight", args->weight, PL_F32, {args->x.shape[args->x.rank - 1]}, kLastContiguous);
  check.in_range("epsilon", double(args->epsilon), 0, 1e30);
  output_like_x(check, "y", args->y, args->x);
  check.disjoint_or_same("y", args->y, "x", args->x);
  check.disjoint("y", args->y, "weight", args->weight);
  if (check.ok() && given(args->rstd)) {
    scales(check, args->rstd, args->x);
    check.disjoint("rstd", args->rstd, "x", args->x);
    check.disjoint("rstd", args->rstd, "y", args->y);
    check.disjoint("rstd", args->rstd, "weight", args->weight);
  }
  return check.status();
}

pl_status pl_check_rms_norm_backward(const pl_rms_norm_backward_args* args) {
  Check check("rms_norm_backward");
  if (!check.arguments(args) || !rows(check, args->x)) return check.status();
  like_x(check, "dy", args->dy, args->x);
  check.input("weight", args->weight, PL_F32, {args->x.shape[args->x.rank - 1]}, kLastContiguous);
  scales(check, args->rstd, args->x);
  if (given(args->residual)) like_x(check, "residual", args->residual, args->x);
  output_like_x(check, "dx", args->dx, args->x);
  check.disjoint_or_same("dx", args->dx, "dy", args->dy);
  if (given(args->residual)) check.disjoint_or_same("dx", args->dx, "residual", args->residual);
  check.disjoint("dx", args->dx, "x", args->x);
  check.disjoint("dx", args->dx, "weight", args->weight);
  check.disjoint("dx", args->dx, "rstd", args->rstd);
  if (check.ok() && given(args->d_weight)) {
    const pl_tensor& d_weight = args->d_weight;
    check.output("d_weight", d_weight, PL_F32, {args->weight.shape[0]}, kLastContiguous);
    check.disjoint("d_weight", d_weight, "dx", args->dx);
    check.disjoint("d_weight", d_weight, "dy", args->dy);
    check.disjoint("d_weight", d_weight, "x", args->x);
    check.disjoint("d_weight", d_weight, "weight", args->weight);
    check.disjoint("d_weight", d_weight, "rstd", args->rstd);
    if (given(args->residual)) check.disjoint("d_weight", d_weight, "residual", args->residual);
  }
  return check.status();
}
