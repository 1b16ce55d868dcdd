#include "cpu/operations.h"
#include "cpu/rows.h"

#define PL_TARGET_FILE "cpu/swiglu.cc"
#include "cpu/for_each_target.h"

#ifdef PL_TARGET
#include "cpu/vector_math.h"

namespace polylora::cpu::PL_TARGET {
namespace {

PL_INLINE Floats sigmoid(Floats x) {
  const Floats one = broadcast(1.0f);
  return one / (one + exp(-x));
}

// One row of a group of rows; the views' last stride is 1.
void swiglu(const float* gate, const float* up, float* y, int64_t n) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const Floats g = load(gate + i);
    store(y + i, g * sigmoid(g) * load(up + i));
  }
  if (i < n) {
    const int rest = int(n - i);
    const Floats g = load_partial(gate + i, rest);
    store_partial(y + i, g * sigmoid(g) * load_partial(up + i, rest), rest);
  }
}

void swiglu_backward(const float* dy, const float* gate, const float* up, float* d_gate,
                     float* d_up, int64_t n) {
  const Floats one = broadcast(1.0f);
  for (int64_t i = 0; i < n; i += kLanes) {
    const int rest = n - i < kLanes ? int(n - i) : kLanes;
    const bool whole = rest == kLanes;
    const Floats g = whole ? load(gate + i) : load_partial(gate + i, rest);
    const Floats u = whole ? load(up + i) : load_partial(up + i, rest);
    const Floats d = whole ? load(dy + i) : load_partial(dy + i, rest);
    const Floats s = sigmoid(g);
    // (g s(g))' = s (1 + g (1 - s))
    const Floats gate_gradient = d * u * (s * (one + g * (one - s)));
    const Floats up_gradient = d * (g * s);
    if (whole) {
      store(d_gate + i, gate_gradient);
      store(d_up + i, up_gradient);
    } else {
      store_partial(d_gate + i, gate_gradient, rest);
      store_partial(d_up + i, up_gradient, rest);
    }
  }
}

}  // namespace
}  // namespace polylora::cpu::PL_TARGET

#else

namespace polylora::cpu {

namespace {
constexpr int64_t kColumns = 8192;  // of a row, in one piece of work
}

void run_swiglu(Pool& pool, const pl_swiglu_args& args) {
  const Rows gate = rows_of(args.gate), up = rows_of(args.up), y = rows_of(args.y);
  const int64_t n = gate.length, chunks = (n + kColumns - 1) / kColumns;
  const auto swiglu = PL_SELECT(pool, swiglu);
  const int64_t rows = chunks > 1 ? 1 : rows_per_piece(n);
  pool.parallel_ranges(gate.count * chunks, rows, [&](int64_t begin, int64_t end, Worker&) {
    for (int64_t piece = begin; piece < end; ++piece) {
      const int64_t t = piece / chunks, i = piece % chunks * kColumns;
      swiglu(gate.at(t) + i, up.at(t) + i, y.at(t) + i, n - i < kColumns ? n - i : kColumns);
    }
  });
}

void run_swiglu_backward(Pool& pool, const pl_swiglu_backward_args& args) {
  const Rows dy = rows_of(args.dy), gate = rows_of(args.gate), up = rows_of(args.up);
  const Rows d_gate = rows_of(args.d_gate), d_up = rows_of(args.d_up);
  const int64_t n = gate.length, chunks = (n + kColumns - 1) / kColumns;
  const auto backward = PL_SELECT(pool, swiglu_backward);
  const int64_t rows = chunks > 1 ? 1 : rows_per_piece(n);
  pool.parallel_ranges(gate.count * chunks, rows, [&](int64_t begin, int64_t end, Worker&) {
    for (int64_t piece = begin; piece < end; ++piece) {
      const int64_t t = piece / chunks, i = piece % chunks * kColumns;
      backward(dy.at(t) + i, gate.at(t) + i, up.at(t) + i, d_gate.at(t) + i, d_up.at(t) + i,
               n - i < kColumns ? n - i : kColumns);
    }
  });
}

}  // namespace polylora::cpu

#endif
