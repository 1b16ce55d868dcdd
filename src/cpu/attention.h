// How attention is cut into pieces: sequences into tiles counted from each sequence's first row.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "cpu/indices.h"
#include "cpu/pool.h"
#include "kernels.h"

namespace polylora::cpu {

// Keys are transposed in panels of a multiple of the vector's length, at most this.
constexpr int64_t kLargestKeyPanel = 32;
constexpr int64_t kLargestAttentionTile = 64;
constexpr int64_t kLargestHeadSize = 256;

struct AttentionTile {
  int64_t begin;   // the sequence's first row
  int64_t length;  // of the sequence
  int64_t panel;   // the sequence's first panel of transposed keys
  int64_t tile;    // index of the tile in the sequence
};

struct AttentionTiles {
  std::vector<AttentionTile> list;
  int64_t panels;
};

// All tiles of `rows` rows, those furthest into their sequence first: they take longest. Panels of
// `panel` rows are counted over all sequences.
inline AttentionTiles attention_tiles(const char* operation, const pl_tensor& cu_seqlens,
                                      int64_t total, int64_t rows, int64_t panel) {
  const int32_t* const bounds = ints_of(cu_seqlens);
  const int64_t sequences = cu_seqlens.shape[0] - 1;
  const auto fail = [&](int64_t at, const std::string& allowed) {
    throw KernelError(std::string(operation) + ": cu_seqlens[" + std::to_string(at) + "] is " +
                      std::to_string(bounds[at]) + ", must be " + allowed);
  };
  if (bounds[0] != 0) fail(0, "0");
  for (int64_t s = 1; s <= sequences; ++s)
    if (bounds[s] < bounds[s - 1] || bounds[s] > total)
      fail(s, "from " + std::to_string(bounds[s - 1]) + " to " + std::to_string(total));
  if (bounds[sequences] != total) fail(sequences, std::to_string(total) + ", the number of rows");
  AttentionTiles tiles = {};
  for (int64_t s = 0; s < sequences; ++s) {
    const int64_t length = bounds[s + 1] - bounds[s];
    for (int64_t tile = (length + rows - 1) / rows; tile-- > 0;)
      tiles.list.push_back({bounds[s], length, tiles.panels, tile});
    tiles.panels += (length + panel - 1) / panel;
  }
  std::stable_sort(tiles.list.begin(), tiles.list.end(),
                   [](const AttentionTile& a, const AttentionTile& b) { return a.tile > b.tile; });
  return tiles;
}

// Floats that hold the transposed heads of a packed batch: [heads, panels, D, panel].
inline uint64_t transposed_heads_size(const pl_tensor& x, const pl_tensor& cu_seqlens) {
  const uint64_t rows =
      uint64_t(x.shape[0]) + uint64_t(cu_seqlens.shape[0] - 1) * uint64_t(kLargestKeyPanel - 1);
  return (rows + uint64_t(kLargestKeyPanel - 1)) * uint64_t(x.shape[1]) * uint64_t(x.shape[2]);
}

}  // namespace polylora::cpu
