#include "cpu/product.h"

#include "philox.h"

namespace polylora::cpu {

namespace {

constexpr int64_t kMostFloats =
    kMostRows * kLead + kMostColumns * kBlock + kMostRows * kMostColumns;
static_assert(kMostFloats * 4 <= int64_t(kScratchBytes),
              "a task's blocks must fit a worker's scratch");
static_assert(kBlock % kPanel == 0, "blocks of k in NN are whole panels");

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// How a segment is multiplied.
enum class Form { floats, widened, rounded, pairs };

Form form_of(const ProductKernels& kernels, const Segment& segment) {
  if (!segment.weight || segment.weight->base.options.storage == PL_F32) return Form::floats;
  if (segment.weight->base.options.compute == PL_F32) return Form::widened;
  return kernels.multiply_pairs ? Form::pairs : Form::rounded;
}

struct Task {
  const ProductKernels& kernels;
  const Product& product;
  int64_t row, rows, column, columns;  // of y
  float* x;                            // [rows][kLead] or, in TN, [k][kLead]
  float* panels;                       // [columns / kPanel][kBlock][kPanel]
  float* c;                            // [columns / kPanel][rows][kPanel]

  void run() {
    bool first = true;
    for (int64_t s = 0; s < product.segment_count; ++s) {
      const Segment& segment = product.segments[s];
      const Form form = form_of(kernels, segment);
      const int64_t step = form == Form::pairs ? 2 * kBlock : kBlock;
      for (int64_t k = 0; k < segment.k; k += step) {
        block(segment, form, k, least(step, segment.k - k), first);
        first = false;
      }
      if (segment.mask_after && !first)
        for (int64_t i = 0; i < rows; ++i)
          kernels.drop(*product.dropout, row + i, column, columns, c + i * kPanel, rows * kPanel);
    }
    if (first)
      for (int64_t i = 0; i < divide_up(columns, kPanel) * rows * kPanel; ++i) c[i] = 0;
    finish();
  }

  void block(const Segment& segment, Form form, int64_t k, int64_t count, bool first) {
    pack(segment, form, k, count);
    const Sum sum = first ? Sum::first : product.layout == PL_TN ? Sum::added : Sum::continued;
    for (int64_t j = 0; j < columns; j += kPanel) {
      const float* b = panel(segment, form, column + j, least(kPanel, columns - j), k, count,
                             panels + j / kPanel * kBlock * kPanel);
      float* out = c + j * rows;
      const int64_t width = least(kPanel, columns - j);
      if (product.layout == PL_TN)
        kernels.multiply_transposed(sum, rows, width, count, x, b, out);
      else if (form == Form::pairs)
        kernels.multiply_pairs(sum, rows, width, divide_up(count, 2), x, b, out);
      else
        kernels.multiply(sum, rows, width, count, x, b, out);
    }
  }

  void pack(const Segment& segment, Form form, int64_t k, int64_t count) {
    if (product.layout == PL_TN) {
      kernels.pack(segment.x + k * segment.x_stride + row, segment.x_stride, count, rows, x);
      return;
    }
    const float* from = segment.x + row * segment.x_stride + k;
    if (form == Form::pairs)
      kernels.pack_pairs(from, segment.x_stride, rows, count, x);
    else if (form == Form::rounded)
      kernels.pack_rounded(from, segment.x_stride, rows, count, x);
    else
      kernels.pack(from, segment.x_stride, rows, count, x);
    if (segment.mask_x)
      for (int64_t i = 0; i < rows; ++i)
        kernels.drop(*product.dropout, row + i, k, count, x + i * kLead, kPanel);
  }

  // The words [k, k + count) of the panel of `width` columns from `first` on: in place, or packed
  // into `out`.
  const float* panel(const Segment& segment, Form form, int64_t first, int64_t width, int64_t k,
                     int64_t count, float* out) {
    if (!segment.weight) {
      if (product.layout == PL_NT) {
        kernels.panel_from_columns(segment.w + first * segment.w_stride + k, segment.w_stride,
                                   count, width, out);
      } else {
        kernels.panel_from_rows(segment.w + k * segment.w_stride + first, segment.w_stride, count,
                                width, out);
        if (segment.mask_w)
          for (int64_t i = 0; i < count; ++i)
            kernels.drop(*product.dropout, k + i, first, width, out + i * kPanel, kPanel);
      }
      return out;
    }
    const pl_weight& weight = *segment.weight;
    if (product.layout == PL_NT) {
      const int64_t at = first / kPanel;
      if (form == Form::floats) return panel_floats(weight, at) + k * kPanel;
      const uint32_t* pairs = panel_pairs(weight, at) + k / 2 * kPanel;
      if (form == Form::pairs) return reinterpret_cast<const float*>(pairs);
      kernels.widen(pairs, count, out);
      return out;
    }
    // NN: a panel holds the rows, here k, side by side.
    alignas(64) float wide[kPanel * kPanel];
    for (int64_t i = 0; i < count; i += kPanel) {
      const int64_t at = (k + i) / kPanel, rows_here = least(kPanel, count - i);
      if (form == Form::pairs) {
        kernels.transpose_pairs(panel_pairs(weight, at) + first / 2 * kPanel, width,
                                out + i / 2 * kPanel);
      } else {
        const float* in = panel_floats(weight, at) + first * kPanel;
        if (form != Form::floats) {
          kernels.widen(panel_pairs(weight, at) + first / 2 * kPanel, width, wide);
          in = wide;
        }
        kernels.panel_from_columns(in, kPanel, rows_here, width, out + i * kPanel);
      }
    }
    return out;
  }

  void finish() {
    for (int64_t j = 0; j < columns; j += kPanel) {
      const int64_t at = column + j;
      kernels.finish(
          c + j * rows, rows, least(kPanel, columns - j),
          product.scale ? product.scale + at : nullptr, product.bias ? product.bias + at : nullptr,
          product.residual ? product.residual + row * product.residual_stride + at : nullptr,
          product.residual_stride, product.y + row * product.y_stride + at, product.y_stride);
    }
  }
};

}  // namespace

Dropout read_dropout(const pl_dropout& dropout) {
  Dropout out = {};
  if (dropout.probability == 0) return out;
  out.sample = static_cast<const int32_t*>(dropout.row_sample.data);
  out.position = static_cast<const int32_t*>(dropout.row_position.data);
  out.step = uint32_t(*static_cast<const int32_t*>(dropout.step.data));
  out.module = dropout.module;
  out.key0 = uint32_t(dropout.seed);
  out.key1 = uint32_t(dropout.seed >> 32);
  out.threshold = dropout_threshold(dropout.probability);
  out.scale = dropout_scale(dropout.probability);
  return out;
}

void run_product(Pool& pool, const Product& product) {
  if (product.rows == 0 || product.columns == 0) return;
  const ProductKernels& kernels = product_kernels(pool.instruction_set());
  const int64_t most_rows = product.layout == PL_TN ? least(kMostRows, kLead - 16) : kMostRows;
  int64_t rows = divide_up(product.rows, divide_up(product.rows, most_rows));
  rows = least(divide_up(rows, kernels.tile_rows) * kernels.tile_rows, most_rows);
  int64_t columns = divide_up(product.columns, divide_up(product.columns, kMostColumns));
  columns = divide_up(columns, kPanel) * kPanel;
  const int64_t row_tasks = divide_up(product.rows, rows),
                column_tasks = divide_up(product.columns, columns);
  pool.parallel(row_tasks * column_tasks, [&](int64_t index, Worker& worker) {
    const int64_t row = index % row_tasks * rows, column = index / row_tasks * columns;
    float* x = worker.scratch_floats();
    float* panels = x + kMostRows * kLead;
    Task{kernels,
         product,
         row,
         least(rows, product.rows - row),
         column,
         least(columns, product.columns - column),
         x,
         panels,
         panels + kMostColumns * kBlock}
        .run();
  });
}

}  // namespace polylora::cpu
