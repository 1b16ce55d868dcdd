#include "cpu/weight.h"

#include <cmath>
#include <new>

#include "cpu/operations.h"

namespace polylora::cpu {

namespace {

constexpr int64_t kTile = 64;  // columns of a source row that are converted at a time

// Columns [begin, begin + count) of a source row, widened.
void widen_source(const pl_tensor& source, int64_t row, int64_t begin, int64_t count, float* out) {
  const int64_t at = row * source.strides[0] + begin;
  if (source.dtype == PL_F32) {
    const float* values = static_cast<const float*>(source.data) + at;
    for (int64_t i = 0; i < count; ++i) out[i] = values[i];
  } else if (source.dtype == PL_BF16) {
    const uint16_t* values = static_cast<const uint16_t*>(source.data) + at;
    for (int64_t i = 0; i < count; ++i) out[i] = bf16_to_float(values[i]);
  } else {
    const uint16_t* values = static_cast<const uint16_t*>(source.data) + at;
    for (int64_t i = 0; i < count; ++i) out[i] = f16_to_float(values[i]);
  }
}

// Rows [first, first + count) of a panel, columns [begin, begin + columns), from a tile
// [count][kTile].
void store_tile(const pl_weight& weight, int64_t panel, int64_t first, int64_t count, int64_t begin,
                int64_t columns, const float* tile) {
  if (weight.base.options.storage == PL_F32) {
    float* out = const_cast<float*>(panel_floats(weight, panel)) + begin * kPanel + first;
    for (int64_t c = 0; c < columns; ++c)
      for (int64_t r = 0; r < count; ++r) out[c * kPanel + r] = tile[r * kTile + c];
  } else {
    uint16_t* out = reinterpret_cast<uint16_t*>(const_cast<uint32_t*>(panel_pairs(weight, panel))) +
                    begin * kPanel + first * 2;
    for (int64_t c = 0; c < columns; ++c)
      for (int64_t r = 0; r < count; ++r)
        out[c / 2 * 2 * kPanel + r * 2 + c % 2] = float_to_bf16(tile[r * kTile + c]);
  }
}

}  // namespace

uint64_t weight_bytes(const pl_weight_options& options) {
  return uint64_t(panel_count(options)) * uint64_t(panel_words(options)) * 4;
}

pl_weight* create_weight(const pl_weight_options& options, void* memory) {
  return new pl_weight{{pl_cpu_device_table(), options}, memory};
}

void destroy_weight(pl_weight* weight) { delete weight; }

void read_weight_row(const pl_weight& weight, int64_t row, float* out) {
  const pl_weight_options& options = weight.base.options;
  if (options.storage == PL_F32) {
    const float* in = panel_floats(weight, row / kPanel) + row % kPanel;
    for (int64_t c = 0; c < options.columns; ++c) out[c] = in[c * kPanel];
  } else {
    const uint32_t* in = panel_pairs(weight, row / kPanel) + row % kPanel;
    for (int64_t c = 0; c < options.columns; ++c)
      out[c] = bf16_to_float(uint16_t(in[c / 2 * kPanel] >> (c % 2 ? 16 : 0)));
  }
}

void run_weight_update(Pool& pool, const pl_weight_update_args& args) {
  const int64_t rows = args.source.shape[0], columns = args.source.shape[1];
  if (rows == 0 || columns == 0) return;
  const int64_t end = args.row_begin + rows, first_panel = args.row_begin / kPanel;
  pool.parallel((end - 1) / kPanel + 1 - first_panel, [&](int64_t index, Worker& worker) {
    const int64_t panel = first_panel + index;
    const int64_t from = panel * kPanel > args.row_begin ? panel * kPanel : args.row_begin;
    const int64_t to = (panel + 1) * kPanel < end ? (panel + 1) * kPanel : end;
    float* tile = worker.scratch_floats();
    for (int64_t begin = 0; begin < columns; begin += kTile) {
      const int64_t count = columns - begin < kTile ? columns - begin : kTile;
      for (int64_t row = from; row < to; ++row)
        widen_source(args.source, row - args.row_begin, begin, count, tile + (row - from) * kTile);
      store_tile(*args.weight, panel, from - panel * kPanel, to - from, begin, count, tile);
    }
  });
}

void run_weight_read(Pool& pool, const pl_weight_read_args& args) {
  const int64_t rows = args.y.shape[0], columns = args.y.shape[1];
  // A piece is what lies in one panel, and in columns that leave room for a row in the scratch.
  const pl_weight_options& options = args.weight->base.options;
  const int64_t end = args.row_begin + rows, first_panel = args.row_begin / kPanel;
  if (rows == 0 || columns == 0) return;
  pool.parallel((end - 1) / kPanel + 1 - first_panel, [&](int64_t index, Worker&) {
    const int64_t panel = first_panel + index;
    const int64_t from = panel * kPanel > args.row_begin ? panel * kPanel : args.row_begin;
    const int64_t to = (panel + 1) * kPanel < end ? (panel + 1) * kPanel : end;
    for (int64_t begin = 0; begin < columns; begin += kTile) {
      const int64_t stop = columns < begin + kTile ? columns : begin + kTile;
      for (int64_t row = from; row < to; ++row) {
        const int64_t lane = row - panel * kPanel;
        const int64_t at = (row - args.row_begin) * args.y.strides[0];
        float* floats = static_cast<float*>(args.y.data) + at;
        uint16_t* halves = static_cast<uint16_t*>(args.y.data) + at;
        if (options.storage == PL_F32) {
          const float* in = panel_floats(*args.weight, panel) + lane;
          for (int64_t c = begin; c < stop; ++c) {
            if (args.y.dtype == PL_F32)
              floats[c] = in[c * kPanel];
            else
              halves[c] = float_to_bf16(in[c * kPanel]);
          }
        } else {
          const uint32_t* in = panel_pairs(*args.weight, panel) + lane;
          for (int64_t c = begin; c < stop; ++c) {
            const uint16_t bits = uint16_t(in[c / 2 * kPanel] >> (c % 2 ? 16 : 0));
            if (args.y.dtype == PL_F32)
              floats[c] = bf16_to_float(bits);
            else
              halves[c] = bits;
          }
        }
      }
    }
  });
}

void run_weight_row_norms(Pool& pool, const pl_weight_row_norms_args& args) {
  const pl_weight& weight = *args.weight;
  const pl_weight_options& options = weight.base.options;
  pool.parallel(panel_count(options), [&](int64_t panel, Worker&) {
    double sums[kPanel] = {};
    for (int64_t c = 0; c < options.columns; ++c)
      for (int64_t r = 0; r < kPanel; ++r) {
        const double value =
            options.storage == PL_F32
                ? panel_floats(weight, panel)[c * kPanel + r]
                : bf16_to_float(
                      uint16_t(panel_pairs(weight, panel)[c / 2 * kPanel + r] >> (c % 2 ? 16 : 0)));
        sums[r] += value * value;
      }
    const int64_t first = panel * kPanel;
    for (int64_t r = 0; r < kPanel && first + r < options.rows; ++r)
      static_cast<float*>(args.y.data)[(first + r) * args.y.strides[0]] = float(std::sqrt(sums[r]));
  });
}

}  // namespace polylora::cpu
