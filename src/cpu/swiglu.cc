#include "cpu/operations.h"
#include "cpu/rows.h"

#define PL_TARGET_FILE "cpu/swiglu.cc"
#include "cpu/for_each_target.h"

#ifdef PL_TARGET
#include "cpu/vector_math.h"

namespace polylora::cpu::PL_TARGET {
namespace {

// Neither end overflows: with e = exp(-|x|) it is 1 / (1 + e) or e / (1 + e).
PL_INLINE Floats sigmoid(Floats x) {
  const Floats e = exp_below_zero(-absolute(x)), one = broadcast(1.0f);
  return select(x < zeros(), e, one) / (one + e);
}

PL_INLINE Floats swiglu_of(Floats gate, Floats up) { return gate * sigmoid(gate) * up; }

// Columns of one row; the views' last stride is 1.
void swiglu(const float* gate, const float* up, float* y, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const Floats g = load_some(gate + i, n - i);
    store_some(y + i, g * sigmoid(g) * load_some(up + i, n - i), n - i);
  }
}

void swiglu_backward(const float* dy, const float* gate, const float* up, float* d_gate,
                     float* d_up, int64_t n) {
  const Floats one = broadcast(1.0f);
  for (int64_t i = 0; i < n; i += kLanes) {
    const Floats d = load_some(dy + i, n - i), g = load_some(gate + i, n - i),
                 u = load_some(up + i, n - i);
    const Floats s = sigmoid(g);
    // (g s(g))' = s (1 + g (1 - s))
    store_some(d_gate + i, d * u * (s * (one + g * (one - s))), n - i);
    store_some(d_up + i, d * (g * s), n - i);
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
