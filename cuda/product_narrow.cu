// Products with a narrow side, as the factors of an adapter make them: rows of x times
// few columns (x a^T and dy b), and sums over all rows between few columns and many (the gradients
// of a and b). A rank of 16 does 8 operations for each byte of the wide operand, so reading that
// once, at the memory's rate, is all that there is to do well: every block takes the whole narrow
// side, and copies run ahead of what is multiplied.
//
// Where operands may be rounded to bf16 the tensor cores take them as tf32, which rounds less; else
// it is float32 throughout, whose rate binds from a rank of 32 on.
//
// Bits: an element of x w is a chain for each slice of k, two to eight, and their sum in order,
// whatever the rows beside it; one of x^T w is a chain for each chunk of the rows, and their sum in
// order.
#include "cuda/product_narrow.h"

namespace polylora::cuda {
namespace {

constexpr int kMostNarrow = 256;      // of the narrow side
constexpr int kMostAgainstBf16 = 64;  // where the tensor cores could take it: wider is theirs

NarrowOperand operand_of(const void* data, int64_t stride, int64_t rows, int64_t columns) {
  return {static_cast<const float*>(data), stride, rows, columns,
          reinterpret_cast<uintptr_t>(data) % 16 == 0 && stride % 4 == 0};
}

NarrowProduct narrow_of(const Product& product) {
  const Segment& segment = product.segments[0];
  const bool is_tn = product.layout == PL_TN, is_nt = product.layout == PL_NT;
  NarrowProduct narrow = {};
  static_cast<Output&>(narrow) = product;
  narrow.x = operand_of(segment.x, segment.x_stride, is_tn ? segment.k : product.m,
                        is_tn ? product.m : segment.k);
  narrow.w = operand_of(segment.w, segment.w_stride, is_nt ? product.n : segment.k,
                        is_nt ? segment.k : product.n);
  narrow.masks = segment.mask_x || segment.mask_w;
  narrow.dropout = product.dropout;
  narrow.w_is_wide = product.n >= product.m;
  narrow.chunks = 1;
  narrow.chunk_rows = segment.k;
  if (is_tn) cut_rows(&narrow, segment.k);
  return narrow;
}

}  // namespace

bool is_narrow(const Product& product, bool is_bf16) {
  const Segment& segment = product.segments[0];
  if (product.segment_count != 1 || segment.is_weight || segment.mask_after) return false;
  if (product.layout != PL_TN) return !is_bf16 && !segment.mask_w && product.n <= kMostNarrow;
  const int64_t narrow = product.m < product.n ? product.m : product.n;
  return narrow <= (is_bf16 ? kMostAgainstBf16 : kMostNarrow);
}

uint64_t narrow_workspace(const Product& product) {
  const NarrowProduct narrow = narrow_of(product);
  if (narrow.chunks == 1) return 0;
  return uint64_t(narrow.chunks) * uint64_t(product.m) * uint64_t(product.n) * sizeof(float);
}

void run_narrow(Stream& stream, const Product& product, void* workspace) {
  NarrowProduct narrow = narrow_of(product);
  if (narrow.chunks > 1) narrow.partial = static_cast<float*>(workspace);
  if (product.layout == PL_TN) return run_gradient(stream, product.may_round, narrow);
  run_shrink(stream, product.layout, product.may_round, narrow);
}

}  // namespace polylora::cuda
