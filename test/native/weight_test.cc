// Weight handles: update, read, row norms and gathering of rows, in all storages.
#include "cpu/weight.h"

#include "native_test.h"

using namespace polylora;
using namespace polylora::cpu;
using namespace polylora::test;

namespace {

// Any finite one: denormals and zeros too.
uint16_t random_half(Random& random) {
  for (;;) {
    const uint16_t bits = uint16_t(random.next());
    if ((bits & 0x7c00) != 0x7c00) return bits;
  }
}

double half_value(uint16_t bits) {
  const int exponent = (bits >> 10) & 31, fraction = bits & 1023;
  const double sign = bits & 0x8000 ? -1 : 1;
  if (exponent == 31) return fraction ? NAN : sign * INFINITY;
  if (exponent == 0) return sign * std::ldexp(fraction, -24);
  return sign * std::ldexp(1024 + fraction, exponent - 25);
}

void test_conversions(Random& random) {
  bool half = true, brain = true;
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const double value = f16_to_float(uint16_t(bits)), expected = half_value(uint16_t(bits));
    half = half && (value == expected || (std::isnan(value) && std::isnan(expected)));
    const float wide = bf16_to_float(uint16_t(bits));
    const uint16_t back = float_to_bf16(wide);
    brain = brain && (back == bits || std::isnan(wide));
    brain = brain && std::isnan(wide) == std::isnan(bf16_to_float(back));
  }
  expect(half, "all f16 values");
  expect(brain, "all bf16 values there and back");
  bool nearest = true;
  for (int i = 0; i < 100000; ++i) {
    const uint32_t bits = uint32_t(random.next());
    float value;
    std::memcpy(&value, &bits, 4);
    if (!std::isfinite(value)) continue;
    const uint16_t got = float_to_bf16(value);
    const double error = std::fabs(double(bf16_to_float(got)) - value);
    if (std::isinf(bf16_to_float(got))) continue;
    const double below = std::fabs(double(bf16_to_float(uint16_t(bits >> 16))) - value);
    const double above = std::fabs(double(bf16_to_float(uint16_t((bits >> 16) + 1))) - value);
    nearest = nearest && error <= below && error <= above && (below != above || got % 2 == 0);
  }
  expect(nearest, "bf16 rounds to nearest, ties to even");
}

void test_weights(Random& random, pl_dtype storage, pl_dtype compute) {
  const int64_t rows_of[] = {1, 5, 31, 32, 33, 64, 100, 257},
                columns_of[] = {1, 2, 7, 32, 63, 64, 65, 130, 301};
  for (int trial = 0; trial < 20; ++trial) {
    const int64_t rows = random.pick(rows_of), columns = random.pick(columns_of);
    const std::string what =
        "weight " + std::to_string(rows) + "x" + std::to_string(columns) + ": ";
    Weight weight(rows, columns, storage, compute);
    Pool pool(1 + int(random.below(3)), detect_instruction_set());
    std::vector<float> expected(size_t(rows * columns), 0.0f);
    // Several updates of overlapping ranges of rows, from every source dtype.
    for (int update = 0; update < 4; ++update) {
      const int64_t begin = random.below(rows), count = 1 + random.below(rows - begin);
      const int64_t stride = columns + random.below(5);
      std::vector<float> floats(size_t(count * stride));
      std::vector<uint16_t> halves(size_t(count * stride));
      auto args = arguments<pl_weight_update_args>();
      args.weight = weight.handle;
      args.row_begin = begin;
      args.source.rank = 2;
      args.source.shape[0] = count;
      args.source.shape[1] = columns;
      args.source.strides[0] = stride;
      args.source.strides[1] = 1;
      args.source.dtype = update % 3 == 0 ? PL_F32 : update % 3 == 1 ? PL_BF16 : PL_F16;
      args.source.data = update % 3 == 0 ? static_cast<void*>(floats.data()) : halves.data();
      for (size_t i = 0; i < floats.size(); ++i) {
        floats[i] = random.real();
        if (update % 3 == 1) halves[i] = float_to_bf16(floats[i]);
        if (update % 3 == 2) halves[i] = random_half(random);
      }
      expect(accepted(pl_check_weight_update(&args)), what + "update is accepted");
      run_weight_update(pool, args);
      for (int64_t i = 0; i < count; ++i)
        for (int64_t j = 0; j < columns; ++j) {
          const size_t at = size_t(i * stride + j);
          float value = update % 3 == 0   ? floats[at]
                        : update % 3 == 1 ? bf16_to_float(halves[at])
                                          : f16_to_float(halves[at]);
          if (storage == PL_BF16) value = bf16_to_float(float_to_bf16(value));
          expected[size_t((begin + i) * columns + j)] = value;
        }
    }
    const int64_t begin = random.below(rows), count = 1 + random.below(rows - begin);
    Matrix y(random, count, columns, false);
    auto read = arguments<pl_weight_read_args>();
    read.weight = weight.handle;
    read.row_begin = begin;
    read.y = y.tensor();
    expect(accepted(pl_check_weight_read(&read)), what + "read is accepted");
    run_weight_read(pool, read);
    bool same = y.written();
    for (int64_t i = 0; i < count; ++i)
      for (int64_t j = 0; j < columns; ++j)
        same = same && same_bits(y.at(i, j), expected[size_t((begin + i) * columns + j)]);
    expect(same, what + "reads what was written");
    std::vector<uint16_t> halves(size_t(count * columns));
    read.y.data = halves.data();
    read.y.dtype = PL_BF16;
    read.y.strides[0] = columns;
    expect(accepted(pl_check_weight_read(&read)), what + "read as bf16 is accepted");
    run_weight_read(pool, read);
    same = true;
    for (int64_t i = 0; i < count * columns; ++i)
      same = same && halves[size_t(i)] == float_to_bf16(expected[size_t(begin * columns + i)]);
    expect(same, what + "reads what was written as bf16");

    Matrix norms(random, 1, rows, false);
    auto row_norms = arguments<pl_weight_row_norms_args>();
    row_norms.weight = weight.handle;
    row_norms.y = norms.vector();
    expect(accepted(pl_check_weight_row_norms(&row_norms)), what + "norms are accepted");
    run_weight_row_norms(pool, row_norms);
    bool close = norms.written();
    for (int64_t i = 0; i < rows; ++i) {
      double square = 0;
      for (int64_t j = 0; j < columns; ++j)
        square += double(expected[size_t(i * columns + j)]) * expected[size_t(i * columns + j)];
      close = close && std::fabs(norms.at(0, i) - std::sqrt(square)) <= 1e-7 * std::sqrt(square);
    }
    expect(close, what + "row norms");

    const int64_t tokens = random.below(90);
    IntVector indices;
    for (int64_t i = 0; i < tokens; ++i) indices.data.push_back(int32_t(random.below(rows)));
    Matrix gathered(random, tokens, columns, false), source(random, rows, columns, true);
    auto gather = arguments<pl_gather_rows_args>();
    gather.indices = indices.tensor();
    if (tokens == 0) gather.indices.data = nullptr;
    gather.y = gathered.tensor();
    for (int from_weight = 0; from_weight < 2; ++from_weight) {
      gather.weight = from_weight ? weight.handle : nullptr;
      gather.source = from_weight ? pl_tensor{} : source.tensor();
      expect(accepted(pl_check_gather_rows(&gather)), what + "gather is accepted");
      run_gather_rows(pool, gather);
      same = gathered.written();
      for (int64_t i = 0; i < tokens; ++i)
        for (int64_t j = 0; j < columns; ++j) {
          const int64_t row = indices.data[size_t(i)];
          same =
              same && same_bits(gathered.at(i, j), from_weight ? expected[size_t(row * columns + j)]
                                                               : source.at(row, j));
        }
      expect(same, what + "gathers rows");
      if (tokens > 0) {
        const int32_t kept = indices.data.back();
        for (int32_t bad : {-1, int32_t(rows), INT32_MAX, INT32_MIN}) {
          indices.data.back() = bad;
          bool thrown = false;
          try {
            run_gather_rows(pool, gather);
          } catch (const KernelError& error) {
            thrown = std::strstr(error.what(), "gather_rows: indices[") != nullptr;
          }
          expect(thrown, what + "index " + std::to_string(bad) + " is refused");
        }
        indices.data.back() = kept;
      }
    }
  }
}

void test_checks(Random& random) {
  Weight weight(10, 6, PL_F32, PL_F32);
  Matrix source(random, 4, 6, true);
  auto args = arguments<pl_weight_update_args>();
  args.weight = weight.handle;
  args.source = source.tensor();
  for (int64_t begin : {int64_t(-1), int64_t(7), INT64_MAX, INT64_MIN}) {
    args.row_begin = begin;
    const pl_status status = pl_check_weight_update(&args);
    expect(status.code == PL_ARGUMENT && std::strstr(status.message, "row_begin"),
           "row_begin is checked");
  }
  args.row_begin = 6;
  expect(accepted(pl_check_weight_update(&args)), "the last rows are accepted");
  args.source.shape[1] = 5;
  expect(pl_check_weight_update(&args).code == PL_SHAPE, "columns are checked");
  args.source = source.tensor();
  args.source.dtype = PL_U8;
  expect(pl_check_weight_update(&args).code == PL_DTYPE, "the source's dtype is checked");
  args.weight = nullptr;
  expect(pl_check_weight_update(&args).code == PL_ARGUMENT, "a missing weight is refused");
}

}  // namespace

int main(int count, char** list) {
  Random random{seed_of(count, list)};
  test_conversions(random);
  test_weights(random, PL_F32, PL_F32);
  test_weights(random, PL_BF16, PL_F32);
  test_weights(random, PL_BF16, PL_BF16);
  test_checks(random);
  return report();
}
