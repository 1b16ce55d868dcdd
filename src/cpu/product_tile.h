// The inner loops of products, for one instruction set: included where PL_TARGET is defined, after
// cpu/vector.h. A Step says what a word of the packed operands is and how it is added to an
// accumulator:
//
//   static constexpr int kWords;                                  words of k in one step
//   static Floats a(const float* a, int word, int64_t k_step);    the broadcast operand
//   static Floats b(const float* b, int word);                    one vector of the panel
//   static Floats add(Floats a, Floats b, Floats sum);
//
// Every element is one chain in the order of k, whatever the tile, so that a row's bits do not
// depend on it.
#ifdef PL_TARGET

namespace polylora::cpu::PL_TARGET {
namespace {

#if defined(PL_TARGET_AVX512)
constexpr int kTileRows = 12;  // 24 accumulators of 32 registers
#else
constexpr int kTileRows = 6;  // 12 of 16
#endif
constexpr int kTileVectors = 2;

struct FloatStep {
  static constexpr int kWords = 1;
  PL_INLINE Floats a(const float* a, int, int64_t) { return broadcast(*a); }
  PL_INLINE Floats b(const float* b, int) { return load(b); }
  PL_INLINE Floats add(Floats a, Floats b, Floats sum) { return fma(a, b, sum); }
};

// The panel holds pairs of bf16, x floats.
struct WideningStep {
  static constexpr int kWords = 2;
  PL_INLINE Floats a(const float* a, int word, int64_t k_step) {
    return broadcast(a[word * k_step]);
  }
  PL_INLINE Floats b(const float* b, int word) {
    const Ints both = load(reinterpret_cast<const int32_t*>(b));
    return as_floats(word == 0 ? both << 16 : both & broadcast(int32_t(0xffff0000)));
  }
  PL_INLINE Floats add(Floats a, Floats b, Floats sum) { return fma(a, b, sum); }
};

// kRows rows of c by kVectors vectors, over `steps` steps. a moves by kRowStep from row to row and
// by kStep from word to word of k.
template <class Step, int kRows, int kVectors, int64_t kRowStep, int64_t kStep>
PL_INLINE void tile(Sum sum, int64_t steps, const float* __restrict a, const float* __restrict b,
                    float* __restrict c) {
  Floats acc[kRows][kVectors];
  if (sum == Sum::continued) {
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) acc[i][v] = load(c + i * kPanel + v * kLanes);
  } else {
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) acc[i][v] = zeros();
  }
  for (; steps > 0; --steps, a += Step::kWords * kStep, b += kPanel) {
#pragma GCC unroll 2
    for (int word = 0; word < Step::kWords; ++word) {
      Floats bv[kVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) bv[v] = Step::b(b + v * kLanes, word);
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i) {
        const Floats av = Step::a(a + i * kRowStep, word, kStep);
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) acc[i][v] = Step::add(av, bv[v], acc[i][v]);
      }
    }
  }
  if (sum == Sum::added) {
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) acc[i][v] = load(c + i * kPanel + v * kLanes) + acc[i][v];
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) store(c + i * kPanel + v * kLanes, acc[i][v]);
}

template <class Step, int kVectors, int64_t kRowStep, int64_t kStep>
static void tile_of(int64_t rows, Sum sum, int64_t steps, const float* a, const float* b,
                    float* c) {
  switch (rows) {
    case 1:
      return tile<Step, 1, kVectors, kRowStep, kStep>(sum, steps, a, b, c);
    case 2:
      return tile<Step, 2, kVectors, kRowStep, kStep>(sum, steps, a, b, c);
    case 3:
      return tile<Step, 3, kVectors, kRowStep, kStep>(sum, steps, a, b, c);
    case 4:
      return tile<Step, 4, kVectors, kRowStep, kStep>(sum, steps, a, b, c);
    case 5:
      return tile<Step, 5, kVectors, kRowStep, kStep>(sum, steps, a, b, c);
    case 6:
      return tile<Step, 6, kVectors, kRowStep, kStep>(sum, steps, a, b, c);
#if defined(PL_TARGET_AVX512)
    case 7:
      return tile<Step, 7, kVectors, kRowStep, kStep>(sum, steps, a, b, c);
    case 8:
      return tile<Step, 8, kVectors, kRowStep, kStep>(sum, steps, a, b, c);
    case 9:
      return tile<Step, 9, kVectors, kRowStep, kStep>(sum, steps, a, b, c);
    case 10:
      return tile<Step, 10, kVectors, kRowStep, kStep>(sum, steps, a, b, c);
    case 11:
      return tile<Step, 11, kVectors, kRowStep, kStep>(sum, steps, a, b, c);
    case 12:
      return tile<Step, 12, kVectors, kRowStep, kStep>(sum, steps, a, b, c);
#endif
  }
}

template <class Step, int64_t kRowStep, int64_t kStep>
static void multiply_panel(Sum sum, int64_t rows, int64_t columns, int64_t steps, const float* a,
                           const float* b, float* c) {
  for (int64_t v = 0; v < columns; v += kTileVectors * kLanes) {
    const bool narrow = columns - v <= kLanes;
    for (int64_t row = 0; row < rows; row += kTileRows) {
      const int64_t count = rows - row < kTileRows ? rows - row : kTileRows;
      const float* from = a + row * kRowStep;
      float* to = c + row * kPanel + v;
      if (narrow)
        tile_of<Step, 1, kRowStep, kStep>(count, sum, steps, from, b + v, to);
      else
        tile_of<Step, kTileVectors, kRowStep, kStep>(count, sum, steps, from, b + v, to);
    }
  }
}

}  // namespace
}  // namespace polylora::cpu::PL_TARGET

#endif  // PL_TARGET
