#include "cpu/product.h"

#include "philox.h"

namespace polylora::cpu {

namespace {

// The scratch of a task. Regular: one block of x, its panels, all of c. Streaming: all blocks of x,
// one panel at a time with its c.
constexpr int64_t kMostFloats =
    kMostRows * kLead + kMostColumns * kBlock + kMostRows * kMostColumns;
static_assert(kMostFloats * 4 <= int64_t(kScratchBytes),
              "a task's blocks must fit a worker's scratch");
static_assert(kBlock % kPanel == 0, "blocks of k in NN are whole panels");

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

// How a segment is multiplied: float32; a bf16 panel widened, into scratch or on the way; both
// operands rounded to bf16, as floats where the processor cannot multiply pairs.
enum class Form { floats, widened, rounded, pairs };

Form form_of(const ProductKernels& kernels, const Segment& segment) {
  if (!segment.weight || segment.weight->base.options.storage == PL_F32) return Form::floats;
  if (segment.weight->base.options.compute == PL_F32) return Form::widened;
  return kernels.multiply_pairs ? Form::pairs : Form::rounded;
}

// Elements of k in a block.
int64_t block_step(Form form) { return form == Form::pairs ? 2 * kBlock : kBlock; }

// How the rows and columns of y are cut into tasks.
struct Plan {
  int64_t rows, columns;
  bool streaming;
};

struct Task {
  const ProductKernels& kernels;
  const Product& product;
  int64_t row, rows, column, columns;  // of y
  float* scratch;

  // Blocks outside, panels inside: a packed block of x and packed panels serve all of the task.
  void run_blocks() {
    float* x = scratch;
    float* panels = x + kMostRows * kLead;
    float* c = panels + kMostColumns * kBlock;
    bool first = true;
    for (int64_t s = 0; s < product.segment_count; ++s) {
      const Segment& segment = product.segments[s];
      const Form form = form_of(kernels, segment);
      const int64_t step = block_step(form);
      for (int64_t k = 0; k < segment.k; k += step) {
        const int64_t count = least(step, segment.k - k);
        pack(segment, form, k, count, x);
        for (int64_t j = 0; j < columns; j += kPanel)
          multiply(segment, form, j, k, count, x, panels + j * kBlock, c + j * rows, first);
        first = false;
      }
      if (segment.mask_after && !first)
        for (int64_t i = 0; i < rows; ++i)
          kernels.drop(*product.dropout, row + i, column, columns, c + i * kPanel, rows * kPanel);
    }
    for (int64_t j = 0; j < columns; j += kPanel) {
      if (first) zero(c + j * rows);
      finish(j, c + j * rows);
    }
  }

  // Panels outside, blocks inside: every panel is read once from front to back and c stays small.
  // For few rows, or a short k.
  void run_panels() {
    float* all = scratch;
    float* at = all;
    for (int64_t s = 0; s < product.segment_count; ++s) {
      const Segment& segment = product.segments[s];
      const Form form = form_of(kernels, segment);
      const int64_t step = block_step(form);
      for (int64_t k = 0; k < segment.k; k += step, at += rows * kLead)
        pack(segment, form, k, least(step, segment.k - k), at);
    }
    float* panel = all + kMostRows * kLead;
    float* c = panel + kPanel * kBlock;
    for (int64_t j = 0; j < columns; j += kPanel) {
      bool first = true;
      const float* x = all;
      for (int64_t s = 0; s < product.segment_count; ++s) {
        const Segment& segment = product.segments[s];
        const Form form = form_of(kernels, segment);
        const int64_t step = block_step(form);
        for (int64_t k = 0; k < segment.k; k += step, x += rows * kLead) {
          multiply(segment, form, j, k, least(step, segment.k - k), x, panel, c, first);
          first = false;
        }
        if (segment.mask_after && !first)
          for (int64_t i = 0; i < rows; ++i)
            kernels.drop(*product.dropout, row + i, column + j, least(kPanel, columns - j),
                         c + i * kPanel, 0);
      }
      if (first) zero(c);
      finish(j, c);
    }
  }

  void pack(const Segment& segment, Form form, int64_t k, int64_t count, float* x) {
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
    if (form == Form::widened && count % 2 == 1)
      for (int64_t i = 0; i < rows; ++i)
        x[i * kLead + count] = 0;  // beside the zero that pads the panel
  }

  // c (+)= x times the panel of columns [j, j + kPanel), words of k from k on.
  void multiply(const Segment& segment, Form form, int64_t j, int64_t k, int64_t count,
                const float* x, float* panel_scratch, float* c, bool first) {
    const int64_t width = least(kPanel, columns - j);
    const Sum sum = first ? Sum::first : product.layout == PL_TN ? Sum::added : Sum::continued;
    if (form == Form::widened && product.layout == PL_NT && rows <= 2 * kernels.tile_rows) {
      const uint32_t* pairs = panel_pairs(*segment.weight, (column + j) / kPanel) + k / 2 * kPanel;
      kernels.multiply_widened(sum, rows, width, count, x, reinterpret_cast<const float*>(pairs),
                               c);
      return;
    }
    const float* b = panel(segment, form, column + j, width, k, count, panel_scratch);
    if (product.layout == PL_TN)
      kernels.multiply_transposed(sum, rows, width, count, x, b, c);
    else if (form == Form::pairs)
      kernels.multiply_pairs(sum, rows, width, divide_up(count, 2), x, b, c);
    else
      kernels.multiply(sum, rows, width, form == Form::widened ? count + count % 2 : count, x, b,
                       c);
  }

  // The words of the panel of `width` columns from `first` on, in place or packed into `out`.
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
    // NN: a panel of the weight holds its rows, here k, side by side.
    alignas(64) float wide[kPanel * kPanel];
    for (int64_t i = 0; i < count; i += kPanel) {
      const int64_t at = (k + i) / kPanel;
      if (form == Form::pairs) {
        kernels.transpose_pairs(panel_pairs(weight, at) + first / 2 * kPanel, width,
                                out + i / 2 * kPanel);
        continue;
      }
      const float* in = wide;
      if (form == Form::floats)
        in = panel_floats(weight, at) + first * kPanel;
      else
        kernels.widen(panel_pairs(weight, at) + first / 2 * kPanel, width, wide);
      // The rows beyond the last are zeros.
      kernels.panel_from_columns(in, kPanel, least(kPanel, count - i + (count - i) % 2), width,
                                 out + i * kPanel);
    }
    return out;
  }

  void zero(float* c) {
    for (int64_t i = 0; i < rows * kPanel; ++i) c[i] = 0;
  }

  void finish(int64_t j, const float* c) {
    const int64_t at = column + j;
    kernels.finish(
        c, rows, least(kPanel, columns - j), product.scale ? product.scale + at : nullptr,
        product.bias ? product.bias + at : nullptr,
        product.residual ? product.residual + row * product.residual_stride + at : nullptr,
        product.residual_stride, product.y + row * product.y_stride + at, product.y_stride);
  }
};

// Cuts so that the estimated time is least. The unit of time is one multiplication of a word by 16
// columns; what packing and finishing take beside was measured.
Plan plan_of(const ProductKernels& kernels, const Product& product, int threads) {
  int64_t blocks = 0;
  double words = 0, panel_cost = 0;
  for (int64_t s = 0; s < product.segment_count; ++s) {
    const Segment& segment = product.segments[s];
    const Form form = form_of(kernels, segment);
    blocks += divide_up(segment.k, block_step(form));
    const double here = double(segment.k) / (form == Form::pairs ? 2 : 1);
    words += here;
    const bool in_place = segment.weight && product.layout == PL_NT;
    panel_cost +=
        here * (in_place ? (form == Form::widened || form == Form::rounded ? 0.45 : 0.1) : 0.6);
  }
  Plan best = {};
  double best_cost = 0;
  for (const bool streaming : {false, true}) {
    int64_t row_limit = kMostRows;
    if (product.layout == PL_TN)
      row_limit = kLead - 16;  // rows are what the packed x has side by side
    if (streaming)
      row_limit = product.layout == PL_TN ? 0 : least(row_limit, kMostRows / most(blocks, 1));
    if (row_limit < least(product.rows, streaming ? 1 : kernels.tile_rows)) continue;
    const int64_t column_limit =
        streaming ? divide_up(product.columns, kPanel) * kPanel : kMostColumns;
    const int64_t fewest_rows = divide_up(product.rows, row_limit);
    const int64_t fewest_columns = divide_up(product.columns, column_limit);
    int64_t last_rows = 0;
    for (int64_t row_cut = fewest_rows; row_cut < fewest_rows + 8; ++row_cut) {
      int64_t rows = divide_up(product.rows, row_cut);
      if (row_cut > 1)
        rows = least(divide_up(rows, kernels.tile_rows) * kernels.tile_rows, row_limit);
      if (rows == last_rows) continue;
      last_rows = rows;
      int64_t last_columns = 0;
      for (int64_t column_cut = fewest_columns; column_cut < fewest_columns + 64;
           column_cut += 1 + column_cut / 8) {
        const int64_t columns = divide_up(divide_up(product.columns, column_cut), kPanel) * kPanel;
        if (columns == last_columns) continue;
        last_columns = columns;
        const int64_t tasks = divide_up(product.rows, rows) * divide_up(product.columns, columns);
        const double r = double(rows), c = double(least(columns, product.columns));
        const double cost = r * c * words / 16 + r * words * 0.35 + c * panel_cost +
                            r * c * (streaming ? 0.2 : 0.2 + 0.1 * double(blocks)) + 1000;
        // The last round is rarely full.
        const double total = cost * (double(divide_up(tasks, threads)) + (threads > 1 ? 0.2 : 0));
        if (best_cost == 0 || total < best_cost) {
          best_cost = total;
          best = {rows, columns, streaming};
        }
        if (columns <= kPanel) break;
      }
    }
  }
  return best;
}

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
  const Plan plan = plan_of(kernels, product, pool.threads());
  const int64_t row_tasks = divide_up(product.rows, plan.rows);
  const int64_t column_tasks = divide_up(product.columns, plan.columns);
  // Tasks of the same columns follow one another: their part of the weight stays in a shared cache.
  pool.parallel(row_tasks * column_tasks, [&](int64_t index, Worker& worker) {
    const int64_t row = index % row_tasks * plan.rows, column = index / row_tasks * plan.columns;
    Task task{kernels,
              product,
              row,
              least(plan.rows, product.rows - row),
              column,
              least(plan.columns, product.columns - column),
              worker.scratch_floats()};
    if (plan.streaming)
      task.run_panels();
    else
      task.run_blocks();
  });
}

}  // namespace polylora::cpu
