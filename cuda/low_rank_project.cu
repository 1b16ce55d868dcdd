// s = rank_scale * dropout(x) a^T. Overwrites.
#include "cuda/operations.h"
#include "cuda/product.h"

namespace polylora::cuda {

void run_low_rank_project(Stream& stream, const pl_low_rank_project_args& args) {
  Product product = {};
  product.layout = PL_NT;
  product.m = args.s.shape[0];
  product.n = args.s.shape[1];
  product.dropout = dropout_of(args.dropout);
  product.segment_count = 1;
  product.may_round = args.bf16_operands != 0;
  Segment& segment = product.segments[0];
  segment.x = static_cast<const float*>(args.x.data);
  segment.x_stride = args.x.strides[0];
  segment.w = args.a.data;
  segment.w_stride = args.a.strides[0];
  segment.k = args.x.shape[1];
  segment.mask_x = args.dropout.probability > 0;
  product.scale = static_cast<const float*>(args.rank_scale.data);
  product.y = static_cast<float*>(args.s.data);
  product.y_stride = args.s.strides[0];
  run_product(stream, product, nullptr);  // only x^T w wants scratch
}

}  // namespace polylora::cuda
