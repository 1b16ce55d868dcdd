// fill, copy, add, rms_norm, rope, swiglu, column_sum and scatter_add_rows against float64 or exact
// references.
#include "operation_test.h"

using namespace polylora;
using namespace polylora::test;

namespace {

constexpr Layout kLayouts[] = {Layout::contiguous, Layout::rows, Layout::strided};

std::vector<int64_t> random_shape(Random& random, int64_t most) {
  std::vector<int64_t> shape(size_t(1 + random.below(4)));
  for (int64_t& size : shape)
    size = random.below(6) == 0 ? random.below(2) : 1 + random.below(most);
  return shape;
}

template <class T>
void test_fill_of(Random& random, int32_t dtype, double value, T expected) {
  on_every_pool([&](cpu::Pool& pool, const std::string& name) {
    Array<T> y(random, random_shape(random, 20), random.pick(kLayouts));
    auto args = arguments<pl_fill_args>();
    args.y = y.tensor(dtype);
    args.value = value;
    RUN(fill, pool, args);
    bool right = y.written();
    for (int64_t i = 0; i < y.count(); ++i)
      right = right && std::memcmp(&y[i], &expected, sizeof expected) == 0;
    expect(right, "fill with " + std::to_string(value) + ", " + name);
  });
}

void test_fill(Random& random) {
  test_fill_of<float>(random, PL_F32, 0.1, 0.1f);
  test_fill_of<float>(random, PL_F32, -INFINITY, -INFINITY);
  test_fill_of<int32_t>(random, PL_I32, -2147483648.0, int32_t(-2147483647 - 1));
  test_fill_of<uint8_t>(random, PL_U8, 255, 255);
  test_fill_of<uint16_t>(random, PL_BF16, 1.0, 0x3f80);
  test_fill_of<uint16_t>(random, PL_BF16, 1 + 0x1p-8, 0x3f80);  // a tie, to even
  test_fill_of<uint16_t>(random, PL_BF16, 1 + 0x1p-8 + 0x1p-40,
                         0x3f81);  // float would make it a tie
  test_fill_of<uint16_t>(random, PL_BF16, 1e39, 0x7f80);
  test_fill_of<uint16_t>(random, PL_F16, -65504, 0xfbff);
  test_fill_of<uint16_t>(random, PL_F16, 65520, 0x7c00);
  test_fill_of<uint16_t>(random, PL_F16, 0x1p-24, 0x0001);
  test_fill_of<uint16_t>(random, PL_F16, 0x1p-25, 0x0000);
  test_fill_of<uint16_t>(random, PL_F16, 1.5, 0x3e00);

  Array<uint8_t> bytes(random, {3});
  auto args = arguments<pl_fill_args>();
  args.y = bytes.tensor();
  for (const double value : {256.0, -1.0, 0.5, double(NAN), double(INFINITY)}) {
    args.value = value;
    EXPECT_REFUSED(fill, args, PL_ARGUMENT, "value is");
  }
  args.value = 1;
  args.y.strides[0] = 0;
  EXPECT_REFUSED(fill, args, PL_ARGUMENT, "overlap");
}

double half_value(uint16_t bits) {
  const int exponent = (bits >> 10) & 31, fraction = bits & 1023;
  const double sign = bits & 0x8000 ? -1 : 1;
  if (exponent == 31) return fraction ? NAN : sign * INFINITY;
  return sign * (exponent ? std::ldexp(1024 + fraction, exponent - 25) : std::ldexp(fraction, -24));
}

double bf16_value(uint16_t bits) {
  const uint32_t wide = uint32_t(bits) << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return double(value);
}

// All 2^16 halves and bfloats widen exactly and come back unchanged; floats round to the nearest,
// ties to even.
void test_conversions(Random& random) {
  struct Kind {
    int32_t dtype;
    double (*value)(uint16_t);
    uint16_t infinity;
  };
  for (const Kind& kind : {Kind{PL_F16, half_value, 0x7c00}, Kind{PL_BF16, bf16_value, 0x7f80}}) {
    Array<uint16_t> narrow(random, {1 << 16}, Layout::contiguous),
        back(random, {1 << 16}, Layout::contiguous);
    for (int i = 0; i < 1 << 16; ++i) narrow[i] = uint16_t(i);
    Floats wide(random, {1 << 16}, Layout::contiguous);
    const int64_t n = 40000;
    Floats x(random, {n}, Layout::contiguous);
    for (int64_t i = 0; i < n; ++i) {
      const uint32_t bits = i % 4 ? uint32_t(random.next()) : uint32_t(random.next()) & 0xffff0000;
      std::memcpy(&x[i], &bits, 4);
      if (i % 8 == 0) x[i] = float(std::ldexp(1 + random.unit(), int(random.below(48)) - 27));
      if (i % 8 == 1) {  // in the middle of two neighbours
        const int64_t bits = random.below(kind.infinity - 1);
        x[i] = float(0.5 * (kind.value(uint16_t(bits)) + kind.value(uint16_t(bits + 1))));
      }
    }
    on_every_pool([&](cpu::Pool& pool, const std::string& name) {
      auto args = arguments<pl_copy_args>();
      args.x = narrow.tensor(kind.dtype);
      args.y = wide.tensor();
      RUN(copy, pool, args);
      args.x = wide.tensor();
      args.y = back.tensor(kind.dtype);
      RUN(copy, pool, args);
      bool exact = true;
      for (int i = 0; i < 1 << 16; ++i) {
        const double value = kind.value(uint16_t(i));
        if (std::isnan(value)) {
          exact = exact && std::isnan(wide[i]) && std::isnan(kind.value(back[i]));
        } else {
          exact = exact && double(wide[i]) == value &&
                  std::signbit(wide[i]) == std::signbit(value) && back[i] == i;
        }
      }
      expect(exact, "narrow floats widen and come back, " + name);

      Array<uint16_t> y(random, {n});
      args.x = x.tensor();
      args.y = y.tensor(kind.dtype);
      RUN(copy, pool, args);
      int wrong = 0;
      for (int64_t i = 0; i < n; ++i) {
        const uint16_t got = y[i];
        if (std::isnan(x[i])) {
          wrong += !std::isnan(kind.value(got));
          continue;
        }
        // Neither neighbour may be nearer; at a tie the last bit is 0. The neighbour of the largest
        // is what infinity would be if the exponents went on.
        const auto magnitude = [&](int bits) {
          return bits >= kind.infinity
                     ? std::fabs(kind.value(kind.infinity - 1)) * 2 - kind.value(kind.infinity - 2)
                     : kind.value(uint16_t(bits));
        };
        const double exact_value = std::fabs(double(x[i]));
        const int bits = got & 0x7fff;
        const double error =
            std::fabs(std::min(exact_value, magnitude(kind.infinity)) - magnitude(bits));
        bool nearest = std::signbit(x[i]) == bool(got & 0x8000) && bits <= kind.infinity;
        for (const int other : {bits - 1, bits + 1}) {
          if (other < 0 || other > kind.infinity) continue;
          const double distance =
              std::fabs(std::min(exact_value, magnitude(kind.infinity)) - magnitude(other));
          nearest = nearest && (error < distance || (error == distance && bits % 2 == 0));
        }
        wrong += !nearest;
      }
      expect(wrong == 0,
             "floats round to the nearest, " + name + ": " + std::to_string(wrong) + " wrong");
    });
  }
}

void test_copy(Random& random) {
  for (int trial = 0; trial < 60; ++trial) {
    const auto shape = trial == 0   ? std::vector<int64_t>{131, 257}
                       : trial == 1 ? std::vector<int64_t>{70000}
                                    : random_shape(random, trial % 3 ? 12 : 40);
    Floats x(random, shape, random.pick(kLayouts));
    x.uniform(random);
    on_every_pool([&](cpu::Pool& pool, const std::string& name) {
      Floats y(random, shape, random.pick(kLayouts));
      auto args = arguments<pl_copy_args>();
      args.x = x.tensor();
      args.y = y.tensor();
      RUN(copy, pool, args);
      expect(y.written() && y.same(x), "copy, " + name);
      args.x = y.tensor();
      RUN(copy, pool, args);
      expect(y.same(x), "copy onto itself, " + name);
    });
  }
  // A broadcast source, and an empty one.
  Floats row(random, {5});
  row.uniform(random);
  cpu::Pool pool(2, cpu::detect_instruction_set());
  Floats y(random, {300, 5});
  auto args = arguments<pl_copy_args>();
  args.x = y.tensor();
  args.x.data = row.tensor().data;
  args.x.strides[0] = 0;
  args.y = y.tensor();
  RUN(copy, pool, args);
  bool right = y.written();
  for (int64_t i = 0; i < 300; ++i)
    for (int64_t j = 0; j < 5; ++j) right = right && y.at(i, j) == row[j];
  expect(right, "copy of a broadcast row");

  // Integers.
  const float values[] = {-0.9f, 0.9f, 255.4f, 256, -1, 3e9f, -3e9f, NAN, INFINITY, 127.5f};
  const int32_t as_i32[] = {0, 0, 255, 256, -1, 2147483647, -2147483647 - 1, 0, 2147483647, 127};
  const uint8_t as_u8[] = {0, 0, 255, 255, 0, 255, 0, 0, 255, 127};
  Floats floats(random, {10});
  for (int i = 0; i < 10; ++i) floats[i] = values[i];
  Ints i32(random, {10});
  Array<uint8_t> u8(random, {10}), u8_of_i32(random, {10});
  args.x = floats.tensor();
  args.y = i32.tensor();
  RUN(copy, pool, args);
  args.y = u8.tensor();
  RUN(copy, pool, args);
  args.x = i32.tensor();
  args.y = u8_of_i32.tensor();
  RUN(copy, pool, args);
  right = true;
  for (int i = 0; i < 10; ++i)
    right = right && i32[i] == as_i32[i] && u8[i] == as_u8[i] &&
            u8_of_i32[i] == std::min(255, std::max(0, as_i32[i]));
  expect(right, "copy to integers");
  Floats back(random, {10});
  args.y = back.tensor();
  RUN(copy, pool, args);
  right = true;
  for (int i = 0; i < 10; ++i) right = right && back[i] == float(as_i32[i]);
  expect(right, "copy from integers");
  Array<uint16_t> half(random, {10});
  args.y = half.tensor(PL_F16);
  EXPECT_REFUSED(copy, args, PL_DTYPE, "i32 cannot become f16");
  Floats wide(random, {12});
  args.x = wide.tensor();
  args.y = wide.tensor();
  args.x.shape[0] = args.y.shape[0] = 10;
  args.y.data = static_cast<float*>(args.y.data) + 1;
  EXPECT_REFUSED(copy, args, PL_ARGUMENT, "overlaps");
}

void test_add(Random& random) {
  for (int trial = 0; trial < 40; ++trial) {
    const auto shape = random_shape(random, trial % 3 ? 9 : 40);
    Floats a(random, shape, random.pick(kLayouts)), b(random, shape, random.pick(kLayouts));
    a.uniform(random);
    b.uniform(random);
    const float alpha = trial % 2 ? 1.0f : random.real(), beta = random.real();
    on_every_pool([&](cpu::Pool& pool, const std::string& name) {
      Floats y(random, shape, random.pick(kLayouts));
      auto args = arguments<pl_add_args>();
      args.a = a.tensor();
      args.b = b.tensor();
      args.alpha = alpha;
      args.beta = beta;
      args.y = y.tensor();
      RUN(add, pool, args);
      bool right = y.written();
      for (int64_t i = 0; i < y.count(); ++i) {
        const float left = alpha * a[i], right_term = beta * b[i];
        right = right && same_bits(y[i], left + right_term);
      }
      expect(right, "add, " + name);
      Floats in_place = a;
      args.a = args.y = in_place.tensor();
      RUN(add, pool, args);
      expect(in_place.same(y), "add in place, " + name);
    });
  }
}

void test_rope(Random& random) {
  for (const int64_t half : {1, 3, 16, 20, 32, 64}) {
    const int64_t t = 1 + random.below(50), heads = 1 + random.below(5), positions = 77;
    Floats x(random, {t, heads, 2 * half}), cosines(random, {positions, half}),
        sines(random, {positions, half});
    x.uniform(random);
    std::vector<int32_t> at;
    for (int64_t i = 0; i < t; ++i) at.push_back(int32_t(random.below(positions)));
    for (int64_t p = 0; p < positions; ++p)
      for (int64_t i = 0; i < half; ++i) {
        const double angle = double(p) * std::pow(10000.0, -double(i) / double(half));
        cosines.at(p, i) = float(std::cos(angle));
        sines.at(p, i) = float(std::sin(angle));
      }
    Ints places = ints(at);
    on_every_pool([&](cpu::Pool& pool, const std::string& name) {
      Floats y(random, {t, heads, 2 * half});
      auto args = arguments<pl_rope_args>();
      args.x = x.tensor();
      args.positions = places.tensor();
      args.cosines = cosines.tensor();
      args.sines = sines.tensor();
      args.y = y.tensor();
      RUN(rope, pool, args);
      std::vector<double> reference, original;
      for (int64_t i = 0; i < t; ++i)
        for (int64_t h = 0; h < heads; ++h)
          for (int64_t j = 0; j < 2 * half; ++j) {
            const double c = double(cosines.at(at[size_t(i)], j % half)),
                         s = double(sines.at(at[size_t(i)], j % half));
            const double a = double(x.at(i, h, j % half)), b = double(x.at(i, h, j % half + half));
            reference.push_back(j < half ? a * c - b * s : b * c + a * s);
            original.push_back(double(x.at(i, h, j)));
          }
      expect(y.written(), "rope writes y, " + name);
      close(y, reference, 3e-7, "rope, " + name);
      args.x = args.y;  // in place
      args.inverse = 1;
      RUN(rope, pool, args);
      close(y, original, 5e-7, "rope there and back, " + name);
      for (const int32_t bad : {-1, 77, 2147483647}) {
        Ints wrong = places;
        wrong[t - 1] = bad;
        args.positions = wrong.tensor();
        EXPECT_KERNEL_ERROR(rope, pool, args, "allowed are 0 to 76");
      }
    });
    auto args = arguments<pl_rope_args>();
    args.x = x.tensor();
    args.x.shape[2] -= 1;
    EXPECT_REFUSED(rope, args, PL_SHAPE, "must be even");
  }
}

void test_column_sum(Random& random) {
  for (const int64_t n : {1, 7, 128, 129, 300}) {
    const int64_t t = n == 7 ? 0 : 1 + random.below(300);
    Floats x(random, {t, n}), start(random, {n});
    x.uniform(random);
    start.uniform(random);
    std::vector<double> reference;
    for (int64_t j = 0; j < n; ++j) {
      double sum = double(start[j]);
      for (int64_t i = 0; i < t; ++i) sum += double(x.at(i, j));
      reference.push_back(sum);
    }
    for (const cpu::InstructionSet set : instruction_sets()) {
      Floats first;
      for (const int threads : kThreadCounts) {
        cpu::Pool pool(threads, set);
        Floats y = start;
        auto args = arguments<pl_column_sum_args>();
        args.x = x.tensor();
        args.y = y.tensor();
        RUN(column_sum, pool, args);
        close(y, reference, 2e-6, "column_sum", std::sqrt(double(t)));  // its terms may cancel
        if (threads == 1) first = y;
        expect(y.same(first), "column_sum with threads");
      }
    }
  }
}

void test_scatter_add_rows(Random& random) {
  for (const int64_t d : {1, 5, 128, 130, 400}) {
    const int64_t t = 200, v = 7;
    Floats x(random, {t, d}), start(random, {v, d});
    x.uniform(random);
    start.uniform(random);
    std::vector<int32_t> to;
    Floats reference = start;
    for (int64_t i = 0; i < t; ++i) {
      to.push_back(int32_t(random.below(v)));
      for (int64_t j = 0; j < d; ++j)
        reference.at(to.back(), j) += x.at(i, j);  // in order: bit for bit
    }
    Ints indices = ints(to);
    on_every_pool([&](cpu::Pool& pool, const std::string& name) {
      Floats y = start;
      auto args = arguments<pl_scatter_add_rows_args>();
      args.x = x.tensor();
      args.indices = indices.tensor();
      args.y = y.tensor();
      RUN(scatter_add_rows, pool, args);
      expect(y.same(reference) && y.written(), "scatter_add_rows, " + name);
      for (const int32_t bad : {-1, 7, int32_t(-2147483647 - 1)}) {
        Ints wrong = indices;
        wrong[199] = bad;
        args.indices = wrong.tensor();
        Floats untouched = y;
        EXPECT_KERNEL_ERROR(scatter_add_rows, pool, args, "indices[199] is " + std::to_string(bad));
        expect(y.same(untouched), "scatter_add_rows writes nothing if an index is bad");
      }
    });
  }
}

// Shapes without elements whose other sizes are beyond any memory: nothing to do, at once.
void test_empty_giants(Random& random) {
  cpu::Pool pool(2, cpu::detect_instruction_set());
  Floats one(random, {1});
  const auto giant = [&](int64_t a, int64_t b, int64_t c) {
    pl_tensor t = one.tensor();
    t.rank = 3;
    t.shape[0] = a;
    t.shape[1] = b;
    t.shape[2] = c;
    t.strides[0] = t.strides[1] = 0;
    t.strides[2] = 1;
    return t;
  };
  const auto flat = [&](int64_t a, int64_t b) {
    pl_tensor t = giant(a, b, 0);
    t.rank = 2;
    t.strides[1] = 1;
    return t;
  };
  constexpr int64_t kHuge = int64_t(1) << 60;
  for (const pl_tensor& t :
       {giant(kHuge, kHuge, 0), giant(0, kHuge, kHuge), flat(kHuge, 0), flat(0, kHuge)}) {
    auto fill = arguments<pl_fill_args>();
    fill.y = t;
    RUN(fill, pool, fill);
    auto copy = arguments<pl_copy_args>();
    copy.x = copy.y = t;
    RUN(copy, pool, copy);
    auto add = arguments<pl_add_args>();
    add.a = add.b = add.y = t;
    RUN(add, pool, add);
    if (t.rank == 3) continue;
    auto softmax = arguments<pl_softmax_args>();
    softmax.x = softmax.y = t;
    RUN(softmax, pool, softmax);
    auto backward = arguments<pl_softmax_backward_args>();
    backward.dy = backward.y = backward.dx = t;
    RUN(softmax_backward, pool, backward);
    auto swiglu = arguments<pl_swiglu_args>();
    swiglu.gate = swiglu.up = swiglu.y = t;
    RUN(swiglu, pool, swiglu);
  }
  auto append = arguments<pl_cache_append_args>();
  Ints none(random, {0});
  append.x = giant(0, kHuge, 1);
  append.row_sequence = append.row_position = none.tensor();
  append.cache = giant(0, 0, kHuge);
  append.cache.rank = 4;
  append.cache.shape[3] = 1;
  append.cache.strides[3] = 1;
  RUN(cache_append, pool, append);
  expect(true, "empty giants");
}

}  // namespace

int main(int count, char** arguments_of_run) {
  Random random{seed_of(count, arguments_of_run)};
  test_fill(random);
  test_conversions(random);
  test_copy(random);
  test_add(random);
  test_rope(random);
  test_column_sum(random);
  test_scatter_add_rows(random);
  test_empty_giants(random);
  return report();
}
