#include <vector>

#include "cpu/operations.h"
#include "cpu/product.h"

namespace polylora::cpu {

namespace {

const float* optional_floats(const pl_tensor& tensor) {
  return tensor.dtype == PL_NONE ? nullptr : static_cast<const float*>(tensor.data);
}

}  // namespace

void run_matmul(Pool& pool, const pl_matmul_args& args) {
  const pl_layout layout = pl_layout(args.layout);
  const Dropout dropout = read_dropout(args.dropout);
  const bool drops = args.dropout.probability > 0;
  std::vector<Segment> segments;
  for (uint32_t i = 0; i < args.segment_count; ++i) {
    const pl_segment& from = args.segments[i];
    Segment segment = {};
    segment.x = static_cast<const float*>(from.x.data);
    segment.x_stride = from.x.strides[0];
    segment.k = from.x.shape[layout == PL_TN ? 0 : 1];
    segment.weight = from.weight;
    if (!from.weight) {
      segment.w = static_cast<const float*>(from.w.data);
      segment.w_stride = from.w.strides[0];
    }
    segment.mask_after = drops && from.mask_after;
    segment.mask_w = drops && from.mask_w;
    segments.push_back(segment);
  }
  Product product = {};
  product.layout = layout;
  product.rows = args.y.shape[0];
  product.columns = args.y.shape[1];
  product.segments = segments.data();
  product.segment_count = int64_t(segments.size());
  product.dropout = &dropout;
  product.scale = optional_floats(args.column_scale);
  product.bias = optional_floats(args.bias);
  product.residual = optional_floats(args.residual);
  product.residual_stride = args.residual.strides[0];
  product.y = static_cast<float*>(args.y.data);
  product.y_stride = args.y.strides[0];
  run_product(pool, product);
}

}  // namespace polylora::cpu
