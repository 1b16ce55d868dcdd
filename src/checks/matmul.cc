#include <cstdio>

#include "checks/check.h"

using namespace polylora::check;

namespace {

constexpr uint32_t kMostSegments = 1024;

struct Field {
  char text[32];
  Field(uint32_t index, const char* name) {
    snprintf(text, sizeof text, "segments[%u].%s", index, name);
  }
};

}  // namespace

pl_status pl_check_matmul(const pl_matmul_args* args) {
  Check check("matmul");
  if (!check.arguments(args)) return check.status();
  if (args->layout != PL_NT && args->layout != PL_NN && args->layout != PL_TN) {
    check.fail(PL_ARGUMENT, "layout is %d, must be 0 (NT), 1 (NN) or 2 (TN)", args->layout);
    return check.status();
  }
  if (args->segment_count < 1 || args->segment_count > kMostSegments || !args->segments) {
    check.fail(PL_ARGUMENT, "segment_count is %u, must be 1 to %u%s", args->segment_count,
               kMostSegments, args->segments ? "" : ", with segments");
    return check.status();
  }
  if (!check.output("y", args->y, PL_F32, {kAny, kAny}, kLastContiguous)) return check.status();
  const int64_t m = args->y.shape[0], n = args->y.shape[1];
  bool masks = false;
  int64_t masked_rows = m;
  for (uint32_t i = 0; i < args->segment_count && check.ok(); ++i) {
    const pl_segment& segment = args->segments[i];
    const Field x(i, "x"), w(i, "w"), weight(i, "weight");
    const bool transposed = args->layout == PL_TN;
    if (!check.input(x.text, segment.x, PL_F32, {transposed ? kAny : m, transposed ? m : kAny},
                     kLastContiguous))
      break;
    const int64_t k = segment.x.shape[transposed ? 0 : 1];
    if (segment.weight && given(segment.w)) {
      check.fail(PL_ARGUMENT, "%s and %s are both given, must be one", w.text, weight.text);
    } else if (segment.weight) {
      if (transposed)
        check.fail(PL_ARGUMENT, "%s is given, layout 2 (TN) takes a tensor w", weight.text);
      check.weight(weight.text, segment.weight, args->layout == PL_NT ? n : k,
                   args->layout == PL_NT ? k : n);
    } else {
      check.input(w.text, segment.w, PL_F32,
                  {args->layout == PL_NT ? n : k, args->layout == PL_NT ? k : n}, kLastContiguous);
      check.disjoint("y", args->y, w.text, segment.w);
    }
    check.disjoint("y", args->y, x.text, segment.x);
    if (segment.mask_after && args->layout != PL_NN)
      check.fail(PL_ARGUMENT, "%s is set, only layout 1 (NN) masks", Field(i, "mask_after").text);
    if (segment.mask_w && !transposed)
      check.fail(PL_ARGUMENT, "%s is set, only layout 2 (TN) masks w", Field(i, "mask_w").text);
    if (segment.mask_w && masks && k != masked_rows)
      check.fail(PL_SHAPE, "%s has %lld rows, an earlier masked segment has %lld", x.text,
                 static_cast<long long>(k), static_cast<long long>(masked_rows));
    if (segment.mask_w) masked_rows = k;
    masks = masks || segment.mask_after || segment.mask_w;
  }
  if (masks) check.dropout(args->dropout, masked_rows, n);
  if (given(args->column_scale))
    check.input("column_scale", args->column_scale, PL_F32, {n}, kLastContiguous) &&
        check.disjoint("y", args->y, "column_scale", args->column_scale);
  if (given(args->bias))
    check.input("bias", args->bias, PL_F32, {n}, kLastContiguous) &&
        check.disjoint("y", args->y, "bias", args->bias);
  if (given(args->residual))
    check.input("residual", args->residual, PL_F32, {m, n}, kLastContiguous) &&
        check.disjoint_or_same("y", args->y, "residual", args->residual);
  return check.status();
}
