// The inner loops of products, for one instruction set: included where PL_TARGET is defined, after
// cpu/vector.h. A Step says what a word of the packed operands is and how it is added to an
// accumulator:
//
//   static constexpr int kWords;                  words of k in one step
//   static Floats a(const float* a);              the broadcast operand
//   static Floats b(const float* b, int word);    one vector of the panel
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
// Few rows wait for memory: all columns of a panel are read in one pass.
constexpr int kFewRows = 3;
constexpr int kFewRowsVectors = 4;

struct FloatStep {
  static constexpr int kWords = 1;
  PL_INLINE Floats a(const float* a) { return broadcast(*a); }
  PL_INLINE Floats b(const float* b, int) { return load(b); }
  PL_INLINE Floats add(Floats a, Floats b, Floats sum) { return fma(a, b, sum); }
};

// The panel holds pairs of bf16, x floats.
struct WideningStep {
  static constexpr int kWords = 2;
  PL_INLINE Floats a(const float* a) { return broadcast(*a); }
  PL_INLINE Floats b(const float* b, int word) {
    const Ints both = load(reinterpret_cast<const int32_t*>(b));
    return as_floats(word == 0 ? both << 16 : both & broadcast(int32_t(0xffff0000)));
  }
  PL_INLINE Floats add(Floats a, Floats b, Floats sum) { return fma(a, b, sum); }
};

// The words that the next block of a weight, which lies behind this one, has in this place: a line
// at a time, so that fetching and multiplying overlap. (A burst of prefetches waits like loads do;
// few rows are as fast as the memory without.) Beyond a weight's end, prefetching does nothing.
template <int kWords>
PL_INLINE void prefetch_ahead(const float* b) {
#pragma GCC unroll 4
  for (int i = 0; i < kWords; i += 16) __builtin_prefetch(b + kBlock * kPanel + i, 0, 2);
}

// How a is walked: rows lie a_step words apart and k runs along them, or the other way round.
enum class Walk { rows, columns };

// kRows rows of c by kVectors vectors, over `steps` steps.
template <class Step, Walk kWalk, int kRows, int kVectors>
PL_INLINE void tile(Sum sum, int64_t steps, const float* a, int64_t a_step, const float* b,
                    int64_t b_step, float* c) {
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
  // One pointer for three rows, the others being reached by the step times 1 and 2.
  constexpr int kPointers = kWalk == Walk::rows ? (kRows + 2) / 3 : 1;
  const float* from[kPointers];
#pragma GCC unroll 8
  for (int i = 0; i < kPointers; ++i) from[i] = a + 3 * i * a_step;
  for (; steps > 0; --steps, b += b_step) {
#pragma GCC unroll 2
    for (int word = 0; word < Step::kWords; ++word) {
      Floats bv[kVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) bv[v] = Step::b(b + v * kLanes, word);
      if (kWalk == Walk::rows && kVectors == kTileVectors && word == 0)
        prefetch_ahead<kVectors * kLanes>(b);
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i) {
        const Floats av = Step::a(kWalk == Walk::rows ? from[i / 3] + i % 3 * a_step + word
                                                      : from[0] + word * a_step + i);
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) acc[i][v] = Step::add(av, bv[v], acc[i][v]);
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < kPointers; ++i) {
      from[i] += kWalk == Walk::rows ? Step::kWords : Step::kWords * a_step;
      asm("" : "+r"(from[i]));  // else it becomes a pointer for every row
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

template <class Step, Walk kWalk, int kVectors>
static void tile_of(int64_t rows, Sum sum, int64_t steps, const float* a, int64_t a_step,
                    const float* b, int64_t b_step, float* c) {
  constexpr int most = kVectors == kFewRowsVectors ? kFewRows : kTileRows;
#define PL_CASE(n)           \
  case n:                    \
    if constexpr (n <= most) \
      return tile<Step, kWalk, n, kVectors>(sum, steps, a, a_step, b, b_step, c);
  switch (rows) {
    PL_CASE(1)
    PL_CASE(2)
    PL_CASE(3)
    PL_CASE(4)
    PL_CASE(5)
    PL_CASE(6)
    PL_CASE(7)
    PL_CASE(8)
    PL_CASE(9)
    PL_CASE(10)
    PL_CASE(11)
    PL_CASE(12)
  }
#undef PL_CASE
}

template <class Step, Walk kWalk>
static void multiply_panel(Sum sum, int64_t rows, int64_t columns, int64_t steps, const float* a,
                           int64_t a_step, const float* b, int64_t b_step, float* c) {
  int64_t v = 0;
  constexpr int64_t wide = kFewRowsVectors * kLanes;
  for (; rows <= kFewRows && columns - v >= wide; v += wide)
    tile_of<Step, kWalk, kFewRowsVectors>(rows, sum, steps, a, a_step, b + v, b_step, c + v);
  for (; v < columns; v += kTileVectors * kLanes) {
    const bool narrow = columns - v <= kLanes;
    for (int64_t row = 0; row < rows; row += kTileRows) {
      const int64_t count = rows - row < kTileRows ? rows - row : kTileRows;
      const float* from = a + (kWalk == Walk::rows ? row * a_step : row);
      float* to = c + row * kPanel + v;
      if (narrow)
        tile_of<Step, kWalk, 1>(count, sum, steps, from, a_step, b + v, b_step, to);
      else
        tile_of<Step, kWalk, kTileVectors>(count, sum, steps, from, a_step, b + v, b_step, to);
    }
  }
}

}  // namespace
}  // namespace polylora::cpu::PL_TARGET

#endif  // PL_TARGET
