// y = column_scale * (sum of segments, in the listed order) + bias + residual, for all layouts. In
// float32, unless a narrow side makes it product_narrow.cu's, sums are chains of fused
// multiply-adds in the order of k, from one segment to the next, so that an element's bits depend
// on its row and column of the operands alone. Overwrites; the residual may be y.
#include "cuda/launch.h"
#include "cuda/numbers.h"
#include "cuda/operations.h"
#include "cuda/product.h"
#include "cuda/weight.h"

namespace polylora::cuda {
namespace {

constexpr int kTile = 64, kStep = 16, kThreads = 256, kEach = 4;
constexpr int kPitch = kTile + 4;  // of a tile's row in shared memory, a multiple of 16 bytes

__device__ inline float weight_at(const Segment& segment, int64_t at) {
  return segment.w_is_bf16 ? widen(static_cast<const bf16*>(segment.w)[at])
                           : static_cast<const float*>(segment.w)[at];
}

// a[k][row] and b[k][column] of one step, zero beyond the edges.
template <pl_layout kLayout>
__device__ inline void load_tiles(const Product& product, const Segment& segment, int64_t row,
                                  int64_t column, int64_t k0, float (&a)[kStep * kPitch],
                                  float (&b)[kStep * kPitch]) {
#pragma unroll
  for (int j = 0; j < kTile * kStep / kThreads; ++j) {
    const int i = threadIdx.x + j * kThreads;
    {
      // Neighbouring threads take neighbours in memory.
      const int k = kLayout == PL_TN ? i / kTile : i % kStep;
      const int r = kLayout == PL_TN ? i % kTile : i / kStep;
      float value = 0;
      if (k0 + k < segment.k && row + r < product.m) {
        value = kLayout == PL_TN ? segment.x[(k0 + k) * segment.x_stride + row + r]
                                 : segment.x[(row + r) * segment.x_stride + k0 + k];
        if (segment.mask_x) {
          const Philox4 words = product.dropout.words(row + r, (k0 + k) / 8);
          value *= product.dropout.factor(words, int((k0 + k) % 8));
        }
        if (segment.rounds) value = widen(narrow<bf16>(value));
      }
      a[k * kPitch + r] = value;
    }
    {
      const int k = kLayout == PL_NT ? i % kStep : i / kTile;
      const int c = kLayout == PL_NT ? i / kStep : i % kTile;
      float value = 0;
      if (k0 + k < segment.k && column + c < product.n) {
        value = weight_at(segment, kLayout == PL_NT ? (column + c) * segment.w_stride + k0 + k
                                                    : (k0 + k) * segment.w_stride + column + c);
        if (segment.mask_w) {
          const Philox4 words = product.dropout.words(k0 + k, (column + c) / 8);
          value *= product.dropout.factor(words, int((column + c) % 8));
        }
      }
      b[k * kPitch + c] = value;
    }
  }
}

template <pl_layout kLayout>
__global__ void __launch_bounds__(kThreads)
    matmul_f32_kernel(const __grid_constant__ Product product, unsigned column_tiles) {
  PL_SHARED(float, a, kStep* kPitch);
  PL_SHARED(float, b, kStep* kPitch);
  const int64_t row = int64_t(blockIdx.x / column_tiles) * kTile;
  const int64_t column = int64_t(blockIdx.x % column_tiles) * kTile;
  const int my_row = int(threadIdx.x) / (kTile / kEach) * kEach;
  const int my_column = int(threadIdx.x) % (kTile / kEach) * kEach;
  float sums[kEach][kEach] = {};
  for (int s = 0; s < product.segment_count; ++s) {
    const Segment& segment = product.segments[s];
    for (int64_t k0 = 0; k0 < segment.k; k0 += kStep) {
      load_tiles<kLayout>(product, segment, row, column, k0, a, b);
      __syncthreads();
#pragma unroll
      for (int k = 0; k < kStep; ++k) {
        const float4 x = load4(&a[k * kPitch + my_row]), w = load4(&b[k * kPitch + my_column]);
        const float xs[kEach] = {x.x, x.y, x.z, x.w}, ws[kEach] = {w.x, w.y, w.z, w.w};
#pragma unroll
        for (int i = 0; i < kEach; ++i)
#pragma unroll
          for (int j = 0; j < kEach; ++j) sums[i][j] = fmaf(xs[i], ws[j], sums[i][j]);
      }
      __syncthreads();
    }
    if (segment.mask_after) {
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        if (row + my_row + i >= product.m || column + my_column >= product.n) continue;
        // My four columns are half a group.
        const Philox4 words = product.dropout.words(row + my_row + i, (column + my_column) / 8);
#pragma unroll
        for (int j = 0; j < kEach; ++j)
          sums[i][j] *= product.dropout.factor(words, my_column % 8 + j);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kEach; ++i)
#pragma unroll
    for (int j = 0; j < kEach; ++j)
      product.store(row + my_row + i, column + my_column + j, sums[i][j]);
}

// Whether the tensor cores take it: weights that are kept and multiplied in bf16, or tensors that
// may be rounded. Every operand is rounded then, those of the rank segments too.
bool is_bf16_product(const pl_matmul_args& args) {
  bool any = args.bf16_operands != 0;
  for (uint32_t i = 0; i < args.segment_count; ++i) {
    const pl_weight* const weight = args.segments[i].weight;
    if (!weight) continue;
    if (!is_bf16(*weight) || !weight->operand) return false;
    any = true;
  }
  return any;
}

const float* floats_of(const pl_tensor& tensor) {
  return tensor.dtype == PL_NONE ? nullptr : static_cast<const float*>(tensor.data);
}

}  // namespace

Dropout dropout_of(const pl_dropout& dropout) {
  Dropout out = {};
  if (dropout.probability == 0) return out;
  out.step = static_cast<const int32_t*>(dropout.step.data);
  out.sample = static_cast<const int32_t*>(dropout.row_sample.data);
  out.position = static_cast<const int32_t*>(dropout.row_position.data);
  out.module = dropout.module;
  out.threshold = dropout_threshold(dropout.probability);
  out.scale = dropout_scale(dropout.probability);
  out.key0 = uint32_t(dropout.seed);
  out.key1 = uint32_t(dropout.seed >> 32);
  return out;
}

uint64_t product_workspace(const Product& product) {
  return is_narrow(product, false) ? narrow_workspace(product) : 0;
}

void run_product(Stream& stream, const Product& product, void* workspace) {
  if (is_narrow(product, false)) return run_narrow(stream, product, workspace);
  const unsigned column_tiles = blocks_for(product.n, kTile);
  const LaunchShape shape = {blocks_for(blocks_for(product.m, kTile) * int64_t(column_tiles), 1),
                             kThreads};
  const auto kernel = product.layout == PL_NT   ? matmul_f32_kernel<PL_NT>
                      : product.layout == PL_NN ? matmul_f32_kernel<PL_NN>
                                                : matmul_f32_kernel<PL_TN>;
  launch(stream, shape, kernel, product, column_tiles);
}

namespace {

// Rows and columns of a segment's operands as they lie in memory.
struct Shape {
  int64_t rows, columns;
  uint64_t rounded_bytes() const {
    return (uint64_t(rows) * uint64_t(bf16_pitch(columns)) * 2 + 255) / 256 * 256;
  }
};
Shape x_shape(const pl_segment& segment) { return {segment.x.shape[0], segment.x.shape[1]}; }
Shape w_shape(const pl_segment& segment) { return {segment.w.shape[0], segment.w.shape[1]}; }

void begin_output(const pl_matmul_args& args, Output* output) {
  output->m = args.y.shape[0];
  output->n = args.y.shape[1];
  output->scale = floats_of(args.column_scale);
  output->bias = floats_of(args.bias);
  output->residual = floats_of(args.residual);
  output->residual_stride = args.residual.strides[0];
  output->y = static_cast<float*>(args.y.data);
  output->y_stride = args.y.strides[0];
}

void run_bf16(Stream& stream, const pl_matmul_args& args) {
  ProductBf16 product = {};
  begin_output(args, &product);
  product.layout = pl_layout(args.layout);
  product.dropout = dropout_of(args.dropout);
  const bool drops = args.dropout.probability > 0;
  auto* scratch = static_cast<char*>(args.header.workspace);
  const auto rounded = [&](const pl_tensor& from, Shape shape, bool mask) {
    auto* const to = reinterpret_cast<bf16*>(scratch);
    scratch += shape.rounded_bytes();
    round_rows(stream, floats_of(from), from.strides[0], shape.rows, shape.columns,
               mask ? &product.dropout : nullptr, to);
    return to;
  };
  for (uint32_t i = 0; i < args.segment_count; ++i) {
    const pl_segment& from = args.segments[i];
    SegmentBf16& segment = product.segments[product.segment_count++];
    const Shape x = x_shape(from);
    segment.k = args.layout == PL_TN ? x.rows : x.columns;
    segment.x = rounded(from.x, x, false);
    segment.x_stride = bf16_pitch(x.columns);
    segment.mask_after = drops && from.mask_after;
    if (from.weight) {
      segment.w = from.weight->operand;
      segment.w_stride = from.weight->pitch;
    } else {
      const Shape w = w_shape(from);
      segment.w = rounded(from.w, w, drops && from.mask_w);
      segment.w_stride = bf16_pitch(w.columns);
    }
  }
  run_product_bf16(stream, product);
}

// Of at most kMostSegments.
Product product_of(const pl_matmul_args& args) {
  Product product = {};
  begin_output(args, &product);
  product.layout = pl_layout(args.layout);
  product.dropout = dropout_of(args.dropout);
  product.may_round = args.bf16_operands != 0;
  const bool drops = args.dropout.probability > 0;
  for (uint32_t i = 0; i < args.segment_count; ++i) {
    const pl_segment& from = args.segments[i];
    Segment& segment = product.segments[product.segment_count++];
    segment.x = floats_of(from.x);
    segment.x_stride = from.x.strides[0];
    segment.k = from.x.shape[product.layout == PL_TN ? 0 : 1];
    segment.mask_after = drops && from.mask_after;
    segment.mask_w = drops && from.mask_w;
    segment.is_weight = from.weight != nullptr;
    if (from.weight) {
      const pl_weight& weight = *from.weight;
      segment.w = weight.storage;
      segment.w_stride = weight.pitch;
      segment.w_is_bf16 = is_bf16(weight);
      segment.rounds = is_bf16(weight) && weight.base.options.compute == PL_BF16;
    } else {
      segment.w = from.w.data;
      segment.w_stride = from.w.strides[0];
    }
  }
  return product;
}

}  // namespace

uint64_t workspace_matmul(const Stream&, const pl_matmul_args& args) {
  if (args.segment_count > uint32_t(kMostSegments)) return 0;
  const Product product = product_of(args);
  if (!is_bf16_product(args) || is_narrow(product, true)) return product_workspace(product);
  uint64_t bytes = 0;
  for (uint32_t i = 0; i < args.segment_count; ++i) {
    const pl_segment& segment = args.segments[i];
    bytes += x_shape(segment).rounded_bytes();
    if (!segment.weight) bytes += w_shape(segment).rounded_bytes();
  }
  return bytes;
}

void run_matmul(Stream& stream, const pl_matmul_args& args) {
  if (args.segment_count > uint32_t(kMostSegments)) {
    stream.note(cudaErrorInvalidValue);
    return;
  }
  const Product product = product_of(args);
  if (is_bf16_product(args) && !is_narrow(product, true)) return run_bf16(stream, args);
  run_product(stream, product, args.header.workspace);
}

}  // namespace polylora::cuda
