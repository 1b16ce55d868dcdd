// y = gate * sigmoid(gate) * up, and back; both overwrite.
#include "cuda/launch.h"
#include "cuda/layout.h"
#include "cuda/operations.h"
#include "cuda/rows.h"

namespace polylora::cuda {
namespace {

// Neither end overflows: with e = exp(-|x|) it is 1 / (1 + e) or e / (1 + e).
__device__ inline float sigmoid(float x) {
  const float e = expf(-fabsf(x));
  return (x < 0 ? e : 1.0f) / (1.0f + e);
}

__device__ inline float swiglu(float gate, float up) { return gate * sigmoid(gate) * up; }

struct Gradients {
  float gate, up;
};
// (g s(g))' = s (1 + g (1 - s))
__device__ inline Gradients swiglu_gradients(float dy, float gate, float up) {
  const float s = sigmoid(gate);
  return {dy * up * (s * (1.0f + gate * (1.0f - s))), dy * (gate * s)};
}

// Four columns of a row for each i.
template <bool kAligned>
struct Swiglu {
  Rows gate, up, y;
  int64_t fours;  // of a row
  __device__ void operator()(int64_t i) const {
    const int64_t row = i / fours, column = i % fours * 4, n = gate.length;
    const float4 g = load_four<kAligned>(gate.at(row), column, n);
    const float4 u = load_four<kAligned>(up.at(row), column, n);
    store_four<kAligned>(y.at(row), column, n,
                         {swiglu(g.x, u.x), swiglu(g.y, u.y), swiglu(g.z, u.z), swiglu(g.w, u.w)});
  }
};

template <bool kAligned>
struct SwigluBackward {
  Rows dy, gate, up, d_gate, d_up;
  int64_t fours;
  __device__ void operator()(int64_t i) const {
    const int64_t row = i / fours, column = i % fours * 4, n = gate.length;
    const float4 d = load_four<kAligned>(dy.at(row), column, n);
    const float4 g = load_four<kAligned>(gate.at(row), column, n);
    const float4 u = load_four<kAligned>(up.at(row), column, n);
    const Gradients x = swiglu_gradients(d.x, g.x, u.x), y = swiglu_gradients(d.y, g.y, u.y);
    const Gradients z = swiglu_gradients(d.z, g.z, u.z), w = swiglu_gradients(d.w, g.w, u.w);
    store_four<kAligned>(d_gate.at(row), column, n, {x.gate, y.gate, z.gate, w.gate});
    store_four<kAligned>(d_up.at(row), column, n, {x.up, y.up, z.up, w.up});
  }
};

}  // namespace

void run_swiglu(Stream& stream, const pl_swiglu_args& args) {
  const Rows gate = rows_of(args.gate), up = rows_of(args.up), y = rows_of(args.y);
  const int64_t fours = (gate.length + 3) / 4;
  if (are_aligned(gate) && are_aligned(up) && are_aligned(y))
    for_each_element(stream, gate.count * fours, Swiglu<true>{gate, up, y, fours});
  else
    for_each_element(stream, gate.count * fours, Swiglu<false>{gate, up, y, fours});
}

void run_swiglu_backward(Stream& stream, const pl_swiglu_backward_args& args) {
  const Rows dy = rows_of(args.dy), gate = rows_of(args.gate), up = rows_of(args.up);
  const Rows d_gate = rows_of(args.d_gate), d_up = rows_of(args.d_up);
  const int64_t fours = (gate.length + 3) / 4;
  if (are_aligned(dy) && are_aligned(gate) && are_aligned(up) && are_aligned(d_gate) &&
      are_aligned(d_up))
    for_each_element(stream, gate.count * fours,
                     SwigluBackward<true>{dy, gate, up, d_gate, d_up, fours});
  else
    for_each_element(stream, gate.count * fours,
                     SwigluBackward<false>{dy, gate, up, d_gate, d_up, fours});
}

}  // namespace polylora::cuda
