// t = rank_scale * dy b overwrites; d_b += dy^T p accumulates.
#include "cuda/operations.h"
#include "cuda/product.h"

namespace polylora::cuda {
namespace {

Product data_product(const pl_low_rank_backward_args& args) {
  Product product = {};
  product.layout = PL_NN;
  product.m = args.t.shape[0];
  product.n = args.t.shape[1];
  product.segment_count = 1;
  product.may_round = args.bf16_operands != 0;
  Segment& segment = product.segments[0];
  segment.x = static_cast<const float*>(args.dy.data);
  segment.x_stride = args.dy.strides[0];
  segment.w = args.b.data;
  segment.w_stride = args.b.strides[0];
  segment.k = args.dy.shape[1];
  product.scale = static_cast<const float*>(args.rank_scale.data);
  product.y = static_cast<float*>(args.t.data);
  product.y_stride = args.t.strides[0];
  return product;
}

// Only where there is d_b.
Product gradient_product(const pl_low_rank_backward_args& args) {
  Product product = {};
  product.layout = PL_TN;
  product.m = args.d_b.shape[0];
  product.n = args.d_b.shape[1];
  product.segment_count = 1;
  product.may_round = args.bf16_operands != 0;
  Segment& segment = product.segments[0];
  segment.x = static_cast<const float*>(args.dy.data);
  segment.x_stride = args.dy.strides[0];
  segment.w = args.p.data;
  segment.w_stride = args.p.strides[0];
  segment.k = args.dy.shape[0];
  product.y = static_cast<float*>(args.d_b.data);
  product.y_stride = args.d_b.strides[0];
  product.residual = product.y;
  product.residual_stride = product.y_stride;
  return product;
}

}  // namespace

uint64_t workspace_low_rank_backward(const Stream&, const pl_low_rank_backward_args& args) {
  return args.d_b.dtype == PL_NONE ? 0 : product_workspace(gradient_product(args));
}

void run_low_rank_backward(Stream& stream, const pl_low_rank_backward_args& args) {
  run_product(stream, data_product(args), nullptr);
  if (args.d_b.dtype != PL_NONE) run_product(stream, gradient_product(args), args.header.workspace);
}

}  // namespace polylora::cuda
