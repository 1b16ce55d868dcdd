// The skinny products of the low-rank path: run_low_rank_project, run_low_rank_backward.
#include "cpu/operations.h"
#include "cpu/product.h"

namespace polylora::cpu {

void run_low_rank_project(Pool& pool, const pl_low_rank_project_args& args) {
  const Dropout dropout = read_dropout(args.dropout);
  Segment segment = {};
  segment.x = static_cast<const float*>(args.x.data);
  segment.x_stride = args.x.strides[0];
  segment.w = static_cast<const float*>(args.a.data);
  segment.w_stride = args.a.strides[0];
  segment.k = args.x.shape[1];
  segment.mask_x = args.dropout.probability > 0;
  Product product = {};
  product.layout = PL_NT;
  product.rows = args.s.shape[0];
  product.columns = args.s.shape[1];
  product.segments = &segment;
  product.segment_count = 1;
  product.dropout = &dropout;
  product.scale = static_cast<const float*>(args.rank_scale.data);
  product.y = static_cast<float*>(args.s.data);
  product.y_stride = args.s.strides[0];
  run_product(pool, product);
}

void run_low_rank_backward(Pool& pool, const pl_low_rank_backward_args& args) {
  Segment segment = {};
  segment.x = static_cast<const float*>(args.dy.data);
  segment.x_stride = args.dy.strides[0];
  segment.w = static_cast<const float*>(args.b.data);
  segment.w_stride = args.b.strides[0];
  segment.k = args.dy.shape[1];
  Product product = {};
  product.layout = PL_NN;
  product.rows = args.t.shape[0];
  product.columns = args.t.shape[1];
  product.segments = &segment;
  product.segment_count = 1;
  product.scale = static_cast<const float*>(args.rank_scale.data);
  product.y = static_cast<float*>(args.t.data);
  product.y_stride = args.t.strides[0];
  run_product(pool, product);
  if (args.d_b.dtype == PL_NONE) return;
  segment.w = static_cast<const float*>(args.p.data);
  segment.w_stride = args.p.strides[0];
  segment.k = args.dy.shape[0];
  product.layout = PL_TN;
  product.rows = args.d_b.shape[0];
  product.columns = args.d_b.shape[1];
  product.scale = nullptr;
  product.y = static_cast<float*>(args.d_b.data);
  product.y_stride = args.d_b.strides[0];
  product.residual = product.y;
  product.residual_stride = product.y_stride;
  run_product(pool, product);
}

}  // namespace polylora::cpu
