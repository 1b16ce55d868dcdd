#include "cpu/product.h"

#include <vector>

#include "philox.h"

namespace polylora::cpu {

namespace {

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

constexpr int64_t kMostJoined = kBlock + 32;  // words of k in a group of blocks
// Columns of y that are masked at a time: draws come in vectors of as many as 128.
constexpr int64_t kMaskColumns = 128;

// How a segment is multiplied: float32; a bf16 panel widened, into scratch or on the way; both
// operands rounded to bf16, as floats where the processor cannot multiply pairs.
enum class Form { floats, widened, rounded, pairs };

Form form_of(const ProductKernels& kernels, const Segment& segment) {
  if (!segment.weight || segment.weight->base.options.storage == PL_F32) return Form::floats;
  if (segment.weight->base.options.compute == PL_F32) return Form::widened;
  return kernels.multiply_pairs ? Form::pairs : Form::rounded;
}

// What is multiplied at a time: `count` elements of k from one segment.
struct Block {
  const Segment* segment;
  Form form;
  int64_t k, count;
  bool mask_after;
  bool x_in_place;  // x is read where it lies
  bool joined;      // see join()
  int64_t words() const { return divide_up(count, form == Form::pairs ? 2 : 1); }
};

// Joins blocks to groups, such as the last of a weight and a low-rank segment, that are hardly
// longer than one block: a group's blocks follow one another for a few rows of y at a time, whose
// sums stay in the first-level cache in between.
void join(std::vector<Block>& blocks) {
  int64_t words = 0;
  for (size_t i = 0; i < blocks.size(); ++i) {
    Block& block = blocks[i];
    block.joined = i > 0 && !blocks[i - 1].mask_after && words + block.words() <= kMostJoined;
    words = (block.joined ? words : 0) + block.words();
  }
}

std::vector<Block> blocks_of(const ProductKernels& kernels, const Product& product) {
  std::vector<Block> blocks;
  for (int64_t s = 0; s < product.segment_count; ++s) {
    const Segment& segment = product.segments[s];
    const Form form = form_of(kernels, segment);
    const int64_t step = form == Form::pairs ? 2 * kBlock : kBlock;
    // Where the rows of x are the columns of y (TN), packing brings them closer together, which
    // pays if enough columns share it.
    const bool in_place = (form == Form::floats || form == Form::widened) && !segment.mask_x &&
                          (product.layout != PL_TN || product.columns <= 4 * kPanel) &&
                          !shares_cache_lines(segment.x_stride);
    for (int64_t k = 0; k < segment.k; k += step)
      blocks.push_back({&segment, form, k, least(step, segment.k - k), false, in_place, false});
    if (segment.mask_after && !blocks.empty()) blocks.back().mask_after = true;
  }
  join(blocks);
  return blocks;
}

// How the rows and columns of y are cut into tasks. In blocks: a block of x and its panels serve
// all of a task, whose c waits in scratch. In panels: all blocks of x are there, and each panel is
// multiplied from front to back, group by group.
struct Plan {
  int64_t rows, columns;
  bool in_panels;
};

constexpr int64_t kPanelsFloats = kMostColumns / kPanel * kPanelStride;
static_assert((kMostRows * kLead + kPanelsFloats + kMostRows * kMostColumns) * 4 <=
                  int64_t(kScratchBytes),
              "a task's blocks must fit a worker's scratch");
// Of a group: blocks may be short, or empty.
constexpr int64_t kMostBlocksJoined = 8;
static_assert((kMostRows * kLead + kMostBlocksJoined * kPanelStride + kMostRows * kMaskColumns) *
                      4 <=
                  int64_t(kScratchBytes),
              "a group's blocks must fit a worker's scratch");
static_assert(kBlock % kPanel == 0, "blocks of k in NN are whole panels");

struct Task {
  const ProductKernels& kernels;
  const Product& product;
  const std::vector<Block>& blocks;
  int64_t row, rows, column, columns;  // of y
  float* scratch;

  struct X {
    const float* data;
    float* packed;  // data, if it must be packed there
    int64_t step;
  };

  // Blocks that are multiplied together, and the panel that comes next.
  struct Group {
    const Block *begin, *end;
  };
  struct Ahead {
    Group group;  // empty: there is none
    int64_t column;
  };

  const Block* all_end() const { return blocks.data() + blocks.size(); }
  Group group_from(const Block* begin) const {
    const Block* end = begin;
    while (end < all_end() && (end == begin || (end->joined && end - begin < kMostBlocksJoined)))
      ++end;
    return {begin, end};
  }

  void run_in_blocks() {
    float* x_scratch = scratch;
    float* panels = x_scratch + kMostRows * kLead;
    float* c = panels + kPanelsFloats;
    for (const Block& block : blocks) {
      const bool last = &block == &blocks.back();
      // The rows of a tensor are long: all panels are made from them at once.
      if (!block.segment->weight) pack_panels(block, 0, columns, panels);
      for (int64_t j = 0; j < columns; j += kPanel) {
        float* panel = panels + j / kPanel * kPanelStride;
        if (block.segment->weight)
          pack_panels(block, j, least(kPanel, columns - j), panel = panels);
        Ahead ahead = {{&block, &block + 1}, j + kPanel};
        if (ahead.column >= columns) ahead = {{&block + 1, last ? &block + 1 : &block + 2}, 0};
        multiply({&block, &block + 1}, j, x_scratch, j == 0, panel, ahead, c + j * rows);
      }
      if (block.mask_after) mask(0, columns, c);
      if (block.mask_after && last)
        for (int64_t j = 0; j < columns; j += kPanel) finish(j, 0, rows, c + j * rows);
    }
  }

  void run_in_panels() {
    float* panels = scratch + kMostRows * kLead;
    float* c = panels + kMostBlocksJoined * kPanelStride;
    bool masked = false;
    for (const Block& block : blocks) masked = masked || block.mask_after;
    const int64_t step = masked ? kMaskColumns : kPanel;
    for (int64_t first = 0; first < columns; first += step) {
      const int64_t end = least(first + step, columns);
      float* x_scratch = scratch;
      for (Group group = group_from(blocks.data()), next; group.begin < all_end(); group = next) {
        next = group_from(group.end);
        const bool last = group.end == all_end();
        for (int64_t j = first; j < end; j += kPanel) {
          const int64_t width = least(kPanel, columns - j);
          for (const Block* block = group.begin; block < group.end; ++block)
            pack_panels(*block, j, width, panels + (block - group.begin) * kPanelStride);
          Ahead ahead = {group, j + kPanel};
          if (ahead.column >= end) ahead = {next, first};
          if (last && ahead.column == first) ahead = {group_from(blocks.data()), end};
          if (ahead.column >= columns) ahead.group.end = ahead.group.begin;
          multiply(group, j, x_scratch, j == 0, panels, ahead, c + (j - first) * rows);
        }
        for (const Block* block = group.begin; block < group.end; ++block)
          if (!block->x_in_place) x_scratch += rows * kLead;
        if (!group.end[-1].mask_after) continue;
        mask(first, end - first, c);
        if (last)
          for (int64_t j = first; j < end; j += kPanel) finish(j, 0, rows, c + (j - first) * rows);
      }
    }
  }

  // Where x is read: in place, or from where pack() puts it.
  X x_of(const Block& block, float* packed) const {
    const Segment& segment = *block.segment;
    const bool transposed = product.layout == PL_TN;
    if (!block.x_in_place) return {packed, packed, transposed ? transposed_lead() : kLead};
    return {transposed ? segment.x + block.k * segment.x_stride + row
                       : segment.x + row * segment.x_stride + block.k,
            nullptr, segment.x_stride};
  }

  // Of x packed in TN, whose rows are as long as the task has rows: an odd number of cache lines.
  int64_t transposed_lead() const { return divide_up(rows, 32) * 32 + 16; }

  // Rows [i, i + count) of the task; in TN all of them.
  void pack(const Block& block, int64_t i, int64_t count, float* out) {
    const Segment& segment = *block.segment;
    if (product.layout == PL_TN) {
      kernels.pack(segment.x + block.k * segment.x_stride + row, segment.x_stride, block.count,
                   rows, out, transposed_lead());
      return;
    }
    const float* from = segment.x + (row + i) * segment.x_stride + block.k;
    out += i * kLead;
    if (block.form == Form::pairs)
      kernels.pack_pairs(from, segment.x_stride, count, block.count, out);
    else if (block.form == Form::rounded)
      kernels.pack_rounded(from, segment.x_stride, count, block.count, out);
    else
      kernels.pack(from, segment.x_stride, count, block.count, out, kLead);
    if (segment.mask_x)
      for (int64_t r = 0; r < count; ++r)
        kernels.drop(*product.dropout, row + i + r, block.k, block.count, out + r * kLead, kPanel);
  }

  // The weight's own panels serve as they are.
  bool panel_in_place(const Block& block) const {
    return block.segment->weight && product.layout == PL_NT &&
           (block.form == Form::floats || block.form == Form::pairs || few_rows_widened(block));
  }
  bool few_rows_widened(const Block& block) const {
    return (block.form == Form::widened || block.form == Form::rounded) &&
           product.layout == PL_NT && block.count % 2 == 0 && rows <= 2 * kernels.tile_rows;
  }
  // The rows of w serve as a panel: few rows of y would not repay a copy.
  bool rows_in_place(const Block& block, int64_t width) const {
    return !block.segment->weight && product.layout != PL_NT && !block.segment->mask_w &&
           rows <= 2 * kernels.tile_rows && width % kernels.lanes == 0;
  }

  // The panels of columns [j, j + width) into `out`, kPanelStride apart, unless they serve in
  // place.
  void pack_panels(const Block& block, int64_t j, int64_t width, float* out) {
    if (panel_in_place(block)) return;
    const Segment& segment = *block.segment;
    const int64_t first = column + j;
    if (!segment.weight) {
      if (product.layout == PL_NT) {
        for (int64_t i = 0; i < width; i += kPanel)
          kernels.panel_from_columns(segment.w + (first + i) * segment.w_stride + block.k,
                                     segment.w_stride, block.count, least(kPanel, width - i),
                                     out + i / kPanel * kPanelStride);
      } else if (!rows_in_place(block, width)) {
        kernels.panels_from_rows(segment.w + block.k * segment.w_stride + first, segment.w_stride,
                                 block.count, width, out);
        if (segment.mask_w)
          for (int64_t i = 0; i < block.count; ++i)
            kernels.drop(*product.dropout, block.k + i, first, width, out + i * kPanel,
                         kPanelStride);
      }
      return;
    }
    const pl_weight& weight = *segment.weight;
    if (product.layout == PL_NT) {
      for (int64_t i = 0; i < width; i += kPanel)
        kernels.widen(panel_pairs(weight, (first + i) / kPanel) + block.k / 2 * kPanel, block.count,
                      out + i / kPanel * kPanelStride);
      return;
    }
    // NN: a panel of the weight holds its rows, here k, side by side.
    alignas(64) float wide[kPanel * kPanel];
    for (int64_t k = 0; k < block.count; k += kPanel)
      for (int64_t i = 0; i < width; i += kPanel) {
        const int64_t from = (block.k + k) / kPanel, columns_here = least(kPanel, width - i);
        float* to = out + i / kPanel * kPanelStride;
        if (block.form == Form::pairs) {
          kernels.transpose_pairs(panel_pairs(weight, from) + (first + i) / 2 * kPanel,
                                  columns_here, to + k / 2 * kPanel);
          continue;
        }
        const float* in = wide;
        if (block.form == Form::floats)
          in = panel_floats(weight, from) + (first + i) * kPanel;
        else
          kernels.widen(panel_pairs(weight, from) + (first + i) / 2 * kPanel, columns_here, wide);
        kernels.panel_from_columns(in, kPanel, least(kPanel, block.count - k), columns_here,
                                   to + k * kPanel);
      }
  }

  // One of `parts` parts of the weights' words that the next panels are made of, or are.
  void prefetch(Ahead ahead, int64_t part, int64_t parts) const {
    for (const Block* block = ahead.group.begin; block < ahead.group.end; ++block)
      if (block->segment->weight) prefetch(*block, ahead.column, part, parts);
  }
  void prefetch(const Block& block, int64_t j, int64_t part, int64_t parts) const {
    const pl_weight& weight = *block.segment->weight;
    const int64_t first = column + j;
    const int64_t per_word = weight.base.options.storage == PL_BF16 ? 2 : 1;
    if (product.layout == PL_NT) {
      const uint32_t* words = panel_pairs(weight, first / kPanel) + block.k / per_word * kPanel;
      const int64_t count = divide_up(block.count, per_word) * kPanel;
      prefetch_words(words + part * count / parts, words + (part + 1) * count / parts);
    } else {
      const int64_t count = divide_up(block.count, kPanel);
      const int64_t width = divide_up(least(kPanel, columns - j), per_word) * kPanel;
      for (int64_t i = part * count / parts; i < (part + 1) * count / parts; ++i) {
        const uint32_t* words =
            panel_pairs(weight, block.k / kPanel + i) + first / per_word * kPanel;
        prefetch_words(words, words + width);
      }
    }
  }

  static void prefetch_words(const uint32_t* begin, const uint32_t* end) {
    for (; begin < end; begin += 16) __builtin_prefetch(begin, 0, 2);
  }

  // c (+)= x times the panels of columns [j, j + kPanel), a few rows at a time: x is packed, the
  // next panels fetched, and after the last block y made, in between.
  void multiply(Group group, int64_t j, float* x_scratch, bool pack_first, const float* panels,
                Ahead ahead, float* c) {
    const int64_t width = least(kPanel, columns - j);
    const bool last = group.end == all_end() && !group.end[-1].mask_after;
    const bool transposed = product.layout == PL_TN;
    if (transposed && pack_first && !group.begin->x_in_place)
      pack(*group.begin, 0, rows, x_scratch);
    const int64_t step = 2 * kernels.tile_rows, parts = divide_up(rows, step);
    for (int64_t i = 0; i < rows; i += step) {
      const int64_t count = least(step, rows - i);
      float* sums = c + i * kPanel;
      if (parts > 3) prefetch(ahead, i / step, parts);
      if (last) prefetch_y(j, i, count);
      float* packed = x_scratch;
      for (const Block* block = group.begin; block < group.end; ++block) {
        const X x = x_of(*block, packed);
        if (x.packed && pack_first && !transposed) pack(*block, i, count, x.packed);
        multiply_rows(*block, j, width, i, count, x, panels + (block - group.begin) * kPanelStride,
                      sums);
        if (x.packed) packed += rows * kLead;
      }
      if (last) finish(j, i, count, sums);
    }
  }

  void multiply_rows(const Block& block, int64_t j, int64_t width, int64_t i, int64_t count, X x,
                     const float* packed, float* c) {
    const Segment& segment = *block.segment;
    const bool transposed = product.layout == PL_TN;
    const Sum sum = &block == &blocks.front() ? Sum::first
                    : transposed              ? Sum::added
                                              : Sum::continued;
    const float* a = x.data + (transposed ? i : i * x.step);
    const float* b = packed;
    int64_t b_step = kPanel;
    if (panel_in_place(block)) {
      const int64_t at = (column + j) / kPanel;
      b = block.form == Form::floats ? panel_floats(*segment.weight, at) + block.k * kPanel
                                     : reinterpret_cast<const float*>(
                                           panel_pairs(*segment.weight, at) + block.k / 2 * kPanel);
    } else if (rows_in_place(block, width)) {
      b = segment.w + block.k * segment.w_stride + column + j;
      b_step = segment.w_stride;
    }
    if (block.form == Form::pairs)
      kernels.multiply_pairs(sum, count, width, block.words(), a, b, c);
    else if (few_rows_widened(block))
      kernels.multiply_widened(sum, count, width, block.count, a, x.step, b, c);
    else if (transposed)
      kernels.multiply_transposed(sum, count, width, block.count, a, x.step, b, b_step, c);
    else
      kernels.multiply(sum, count, width, block.count, a, x.step, b, b_step, c);
  }

  void prefetch_y(int64_t j, int64_t i, int64_t count) const {
    for (int64_t r = row + i; r < row + i + count; ++r)
      for (int64_t at = column + j; at < column + j + kPanel && at < product.columns; at += 16) {
        __builtin_prefetch(product.y + r * product.y_stride + at, 1, 3);
        if (product.residual)
          __builtin_prefetch(product.residual + r * product.residual_stride + at, 0, 3);
      }
  }

  void mask(int64_t j, int64_t width, float* c) {
    for (int64_t i = 0; i < rows; ++i)
      kernels.drop(*product.dropout, row + i, column + j, width, c + i * kPanel, rows * kPanel);
  }

  // Rows [i, i + count) of y, columns [j, j + kPanel), from c[count][kPanel].
  void finish(int64_t j, int64_t i, int64_t count, const float* c) {
    const int64_t at = column + j;
    const float* residual = product.residual;
    if (residual) residual += (row + i) * product.residual_stride + at;
    kernels.finish(c, count, least(kPanel, columns - j),
                   product.scale ? product.scale + at : nullptr,
                   product.bias ? product.bias + at : nullptr, residual, product.residual_stride,
                   product.y + (row + i) * product.y_stride + at, product.y_stride);
  }
};

// Cuts so that the estimated time is least. The unit of time is one multiplication of a word by 16
// columns; what packing and finishing take beside was measured.
Plan plan_of(const ProductKernels& kernels, const Product& product,
             const std::vector<Block>& blocks, int threads) {
  int64_t packed_blocks = 0;
  double words = 0, packed_words = 0, panel_cost = 0;
  for (const Block& block : blocks) {
    const double here = double(block.words());
    words += here;
    if (!block.x_in_place) {
      packed_blocks += 1;
      packed_words += here;
    }
    const bool in_place = block.segment->weight && product.layout == PL_NT;
    panel_cost +=
        here * (in_place ? (block.form == Form::widened || block.form == Form::rounded ? 0.45 : 0.1)
                         : 0.6);
  }
  Plan best = {};
  double best_cost = 0;
  for (const bool in_panels : {false, true}) {
    int64_t row_limit = kMostRows;
    if (in_panels)
      row_limit =
          product.layout == PL_TN ? 0 : least(row_limit, kMostRows / most(packed_blocks, 1));
    if (row_limit < least(product.rows, in_panels ? 1 : kernels.tile_rows)) continue;
    const int64_t column_limit =
        in_panels ? divide_up(product.columns, kPanel) * kPanel : kMostColumns;
    const int64_t fewest_rows = divide_up(product.rows, row_limit);
    const int64_t fewest_columns = divide_up(product.columns, column_limit);
    int64_t last_rows = 0;
    for (int64_t row_cut = fewest_rows; row_cut < fewest_rows + 16; ++row_cut) {
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
        const double cost = r * c * words / 16 + r * packed_words * 0.35 + c * panel_cost +
                            r * c * (in_panels ? 0.15 : 0.15 + 0.1 * double(blocks.size())) + 500;
        // The last round is rarely full.
        const double total = cost * (double(divide_up(tasks, threads)) + (threads > 1 ? 0.2 : 0));
        if (best_cost == 0 || total < best_cost) {
          best_cost = total;
          best = {rows, columns, in_panels};
        }
        if (columns <= kPanel) break;
      }
      if (rows <= kernels.tile_rows) break;
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
  for (uint32_t round = 0; round < 10; ++round) {
    out.keys[round][0] = uint32_t(dropout.seed) + round * kPhiloxWeyl0;
    out.keys[round][1] = uint32_t(dropout.seed >> 32) + round * kPhiloxWeyl1;
  }
  out.threshold = dropout_threshold(dropout.probability);
  out.scale = dropout_scale(dropout.probability);
  return out;
}

void run_product(Pool& pool, const Product& product) {
  if (product.rows == 0 || product.columns == 0) return;
  const ProductKernels& kernels = product_kernels(pool.instruction_set());
  std::vector<Block> blocks = blocks_of(kernels, product);
  // The sum of nothing is a block without elements.
  Segment nothing = {};
  nothing.x = nothing.w = product.y;
  if (blocks.empty()) blocks.push_back({&nothing, Form::floats, 0, 0, false, true, false});
  const Plan plan = plan_of(kernels, product, blocks, pool.threads());
  const int64_t row_tasks = divide_up(product.rows, plan.rows);
  const int64_t column_tasks = divide_up(product.columns, plan.columns);
  // Tasks of the same columns follow one another: their part of the weight stays in a shared cache.
  pool.parallel(row_tasks * column_tasks, [&](int64_t index, Worker& worker) {
    const int64_t row = index % row_tasks * plan.rows, column = index / row_tasks * plan.columns;
    Task task{kernels,
              product,
              blocks,
              row,
              least(plan.rows, product.rows - row),
              column,
              least(plan.columns, product.columns - column),
              worker.scratch_floats()};
    if (plan.in_panels)
      task.run_in_panels();
    else
      task.run_in_blocks();
  });
}

}  // namespace polylora::cpu
