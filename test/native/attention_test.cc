// attention, its backward and attention_cached against float64; tiles, packing, threads.
#include "operation_test.h"

using namespace polylora;
using namespace polylora::test;

namespace {

struct Problem {
  int64_t heads, key_heads, d, total;
  float scale;
  std::vector<int32_t> bounds;
  Floats q, k, v, d_o;

  Problem(Random& random, std::vector<int64_t> lengths, int64_t groups, int64_t key_heads_,
          int64_t d_)
      : heads(groups * key_heads_), key_heads(key_heads_), d(d_), total(0) {
    bounds.push_back(0);
    for (int64_t length : lengths) bounds.push_back(int32_t(total += length));
    // Scores with a spread of a few units, so that the softmax is neither flat nor a step.
    scale = float(3 / std::sqrt(double(d) / 3));
    q = Floats(random, {total, heads, d}).uniform(random);
    k = Floats(random, {total, key_heads, d}).uniform(random);
    v = Floats(random, {total, key_heads, d}).uniform(random);
    d_o = Floats(random, {total, heads, d}).uniform(random);
  }
};

struct Reference {
  std::vector<double> o, lse, dq, dk, dv;
};

Reference reference_of(const Problem& p) {
  Reference r;
  const int64_t group = p.heads / p.key_heads, d = p.d;
  r.o.assign(size_t(p.total * p.heads * d), 0);
  r.dq = r.o;
  r.lse.assign(size_t(p.total * p.heads), 0);
  r.dk.assign(size_t(p.total * p.key_heads * d), 0);
  r.dv = r.dk;
  for (size_t s = 0; s + 1 < p.bounds.size(); ++s)
    for (int64_t h = 0; h < p.heads; ++h)
      for (int64_t t = p.bounds[s]; t < p.bounds[s + 1]; ++t) {
        const int64_t first = p.bounds[s], n = t - first + 1, kh = h / group;
        std::vector<double> score(static_cast<size_t>(n)), probability(static_cast<size_t>(n));
        double most = -1e300, sum = 0;
        for (int64_t j = 0; j < n; ++j) {
          double x = 0;
          for (int64_t i = 0; i < d; ++i)
            x += double(p.q.at(t, h, i)) * double(p.k.at(first + j, kh, i));
          score[size_t(j)] = x * double(p.scale);
          most = std::max(most, score[size_t(j)]);
        }
        for (int64_t j = 0; j < n; ++j)
          sum += probability[size_t(j)] = std::exp(score[size_t(j)] - most);
        r.lse[size_t(h * p.total + t)] = most + std::log(sum);
        double mean = 0;
        std::vector<double> gradient(static_cast<size_t>(n));
        double* const o = &r.o[size_t((t * p.heads + h) * d)];
        for (int64_t j = 0; j < n; ++j) {
          const double x = probability[size_t(j)] /= sum;
          for (int64_t i = 0; i < d; ++i) {
            o[i] += x * double(p.v.at(first + j, kh, i));
            gradient[size_t(j)] += double(p.d_o.at(t, h, i)) * double(p.v.at(first + j, kh, i));
            r.dv[size_t(((first + j) * p.key_heads + kh) * d + i)] += x * double(p.d_o.at(t, h, i));
          }
          mean += x * gradient[size_t(j)];
        }
        for (int64_t j = 0; j < n; ++j) {
          const double g = probability[size_t(j)] * (gradient[size_t(j)] - mean) * double(p.scale);
          for (int64_t i = 0; i < d; ++i) {
            r.dq[size_t((t * p.heads + h) * d + i)] += g * double(p.k.at(first + j, kh, i));
            r.dk[size_t(((first + j) * p.key_heads + kh) * d + i)] += g * double(p.q.at(t, h, i));
          }
        }
      }
  return r;
}

struct Outputs {
  Floats o, lse, dq, dk, dv;
  bool same(const Outputs& other) const {
    return o.same(other.o) && lse.same(other.lse) && dq.same(other.dq) && dk.same(other.dk) &&
           dv.same(other.dv);
  }
};

Outputs run(cpu::Pool& pool, Problem& p, Random random) {
  Outputs y;
  y.o = Floats(random, {p.total, p.heads, p.d});
  y.lse = Floats(random, {p.heads, p.total});
  Ints bounds = ints(p.bounds);
  auto args = arguments<pl_attention_args>();
  args.q = p.q.tensor();
  args.k = p.k.tensor();
  args.v = p.v.tensor();
  args.cu_seqlens = bounds.tensor();
  args.scale = p.scale;
  args.o = y.o.tensor();
  args.lse = y.lse.tensor();
  RUN(attention, pool, args);
  // Without lse the rest is the same.
  Floats o(random, {p.total, p.heads, p.d});
  args.o = o.tensor();
  args.lse = {};
  RUN(attention, pool, args);
  expect(o.same(y.o), "attention without lse gives the same");

  y.dq = Floats(random, {p.total, p.heads, p.d});
  y.dk = Floats(random, {p.total, p.key_heads, p.d});
  y.dv = Floats(random, {p.total, p.key_heads, p.d});
  auto backward = arguments<pl_attention_backward_args>();
  backward.q = p.q.tensor();
  backward.k = p.k.tensor();
  backward.v = p.v.tensor();
  backward.o = y.o.tensor();
  backward.lse = y.lse.tensor();
  backward.d_o = p.d_o.tensor();
  backward.cu_seqlens = bounds.tensor();
  backward.scale = p.scale;
  backward.dq = y.dq.tensor();
  backward.dk = y.dk.tensor();
  backward.dv = y.dv.tensor();
  RUN(attention_backward, pool, backward);
  expect(y.o.written() && y.lse.written() && y.dq.written() && y.dk.written() && y.dv.written(),
         "attention writes its outputs and nothing else");
  return y;
}

void test_problem(Problem& p, Random& random, const std::string& what) {
  const Reference reference = reference_of(p);
  for (const cpu::InstructionSet set : instruction_sets()) {
    const std::string name = what + ", " + cpu::instruction_set_name(set);
    Outputs first;
    for (const int threads : kThreadCounts) {
      cpu::Pool pool(threads, set);
      Outputs y = run(pool, p, random);
      if (threads == 1) {
        // Rounding of scores of up to about 20: 1e-6 each, relative to the probabilities; sums of a
        // few hundred.
        close(y.o, reference.o, 1e-5, name + ": o");
        close(y.lse, reference.lse, 1e-6, name + ": lse");
        close(y.dq, reference.dq, 2e-5, name + ": dq", 1);  // 0 where one key is seen
        close(y.dk, reference.dk, 2e-5, name + ": dk", 1);
        close(y.dv, reference.dv, 2e-5, name + ": dv");
        first = std::move(y);
      } else {
        expect(first.same(y), name + ": the same bits with threads " + std::to_string(threads));
      }
    }
  }
}

Floats slice(Floats& from, int64_t begin, int64_t end, Random& random) {
  Floats part(random, {end - begin, from.shape[1], from.shape[2]});
  for (int64_t t = begin; t < end; ++t)
    for (int64_t h = 0; h < from.shape[1]; ++h)
      for (int64_t i = 0; i < from.shape[2]; ++i) part.at(t - begin, h, i) = from.at(t, h, i);
  return part;
}

bool equals_slice(Floats& whole, int64_t begin, Floats& part) {
  for (int64_t t = 0; t < part.shape[0]; ++t)
    for (int64_t h = 0; h < part.shape[1]; ++h)
      for (int64_t i = 0; i < part.shape[2]; ++i)
        if (!same_bits(whole.at(begin + t, h, i), part.at(t, h, i))) return false;
  return true;
}

// A sequence of a batch gives the bits it gives alone, forward and backward.
void test_packing(Random& random) {
  Problem p(random, {70, 0, 1, 33, 130, 64, 5}, 3, 2, 24);
  for (const cpu::InstructionSet set : instruction_sets()) {
    cpu::Pool pool(2, set);
    Outputs packed = run(pool, p, random);
    bool same = true;
    for (size_t s = 0; s + 1 < p.bounds.size(); ++s) {
      const int64_t begin = p.bounds[s], end = p.bounds[s + 1];
      Problem one(random, {end - begin}, 3, 2, 24);
      one.q = slice(p.q, begin, end, random);
      one.k = slice(p.k, begin, end, random);
      one.v = slice(p.v, begin, end, random);
      one.d_o = slice(p.d_o, begin, end, random);
      Outputs alone = run(pool, one, random);
      same = same && equals_slice(packed.o, begin, alone.o) &&
             equals_slice(packed.dq, begin, alone.dq) && equals_slice(packed.dk, begin, alone.dk) &&
             equals_slice(packed.dv, begin, alone.dv);
      for (int64_t h = 0; h < p.heads; ++h)
        for (int64_t t = begin; t < end; ++t)
          same = same && same_bits(packed.lse.at(h, t), alone.lse.at(h, t - begin));
    }
    expect(same, std::string("packed equals alone, ") + cpu::instruction_set_name(set));

    // A row depends on no later row: a shorter sequence gives the same rows.
    Problem shorter(random, {70, 0, 1, 33, 111, 64, 5}, 3, 2, 24);
    const int64_t begin = p.bounds[4];
    Problem cut(random, {111}, 3, 2, 24);
    cut.q = slice(p.q, begin, begin + 111, random);
    cut.k = slice(p.k, begin, begin + 111, random);
    cut.v = slice(p.v, begin, begin + 111, random);
    Outputs y = run(pool, cut, random);
    expect(equals_slice(packed.o, begin, y.o),
           std::string("later rows do not matter, ") + cpu::instruction_set_name(set));
  }
}

void test_large_scores(Random& random) {
  // Scores up to about 1e4 overflow exp unless the largest is taken away first.
  Problem p(random, {100}, 1, 1, 16);
  p.scale = 1000;
  for (const cpu::InstructionSet set : instruction_sets()) {
    cpu::Pool pool(1, set);
    Outputs y = run(pool, p, random);
    bool finite = true;
    for (Floats* tensor : {&y.o, &y.lse, &y.dq, &y.dk, &y.dv})
      for (int64_t i = 0; i < tensor->count(); ++i) finite = finite && std::isfinite((*tensor)[i]);
    expect(finite, "large scores stay finite");
  }
}

// A NaN in one sequence stays there.
void test_nan(Random& random) {
  Problem p(random, {40, 50}, 1, 1, 8);
  p.k.at(45, 0, 3) = NAN;
  p.v.at(44, 0, 3) = NAN;
  cpu::Pool pool(1, cpu::detect_instruction_set());
  auto args = arguments<pl_attention_args>();
  Ints bounds = ints(p.bounds);
  Floats o(random, {p.total, 1, 8});
  args.q = p.q.tensor();
  args.k = p.k.tensor();
  args.v = p.v.tensor();
  args.cu_seqlens = bounds.tensor();
  args.scale = p.scale;
  args.o = o.tensor();
  RUN(attention, pool, args);
  bool clean = true;
  for (int64_t i = 0; i < 40 * 8; ++i) clean = clean && std::isfinite(o[i]);
  expect(clean, "NaN stays in its sequence");
  expect(std::isnan(o.at(60, 0, 0)), "NaN is not hidden");
}

void test_hostile(Random& random) {
  Problem p(random, {10}, 2, 1, 8);
  cpu::Pool pool(2, cpu::detect_instruction_set());
  Floats o(random, {10, 2, 8}), lse(random, {2, 10});
  auto args = arguments<pl_attention_args>();
  args.q = p.q.tensor();
  args.k = p.k.tensor();
  args.v = p.v.tensor();
  args.scale = p.scale;
  args.o = o.tensor();
  args.lse = lse.tensor();
  Ints starts_late = ints({1, 10}), ends_early = ints({0, 9}), falls = ints({0, 6, 5, 10});
  Ints too_far = ints({0, 11, 10}), negative = ints({0, -3, 10}), huge = ints({0, 2147483647}),
       none = ints({0});
  args.cu_seqlens = starts_late.tensor();
  EXPECT_KERNEL_ERROR(attention, pool, args, "cu_seqlens[0] is 1, must be 0");
  args.cu_seqlens = ends_early.tensor();
  EXPECT_KERNEL_ERROR(attention, pool, args, "cu_seqlens[1] is 9, must be 10");
  args.cu_seqlens = falls.tensor();
  EXPECT_KERNEL_ERROR(attention, pool, args, "cu_seqlens[2] is 5, must be from 6 to 10");
  args.cu_seqlens = too_far.tensor();
  EXPECT_KERNEL_ERROR(attention, pool, args, "cu_seqlens[1] is 11, must be from 0 to 10");
  args.cu_seqlens = negative.tensor();
  EXPECT_KERNEL_ERROR(attention, pool, args, "cu_seqlens[1] is -3");
  args.cu_seqlens = huge.tensor();
  EXPECT_KERNEL_ERROR(attention, pool, args, "cu_seqlens[1] is 2147483647");
  args.cu_seqlens = none.tensor();
  EXPECT_KERNEL_ERROR(attention, pool, args, "cu_seqlens[0] is 0, must be 10");

  Ints fine = ints({0, 10});
  args.cu_seqlens = fine.tensor();
  args.k.shape[1] = 0;
  args.v.shape[1] = 0;
  EXPECT_REFUSED(attention, args, PL_SHAPE, "must be a multiple of the 0 key-value heads");
  args.k = p.k.tensor();
  args.v = p.v.tensor();
  args.v.shape[2] = 7;
  EXPECT_REFUSED(attention, args, PL_SHAPE, "v has shape");
  args.v = p.v.tensor();
  args.o = p.q.tensor();
  EXPECT_REFUSED(attention, args, PL_ARGUMENT, "o shares memory with q");
  args.o = o.tensor();
  args.scale = NAN;
  EXPECT_REFUSED(attention, args, PL_ARGUMENT, "scale");
  args.scale = 1;
  args.q.dtype = PL_BF16;
  EXPECT_REFUSED(attention, args, PL_DTYPE, "q is bf16");
}

void test_cached(Random& random) {
  const int64_t sequences = 4, most = 150;
  for (const int64_t d : {5, 16, 64, 72}) {
    const int64_t key_heads = 2, group = d == 16 ? 11 : 3, heads = key_heads * group;
    const float scale = float(2 / std::sqrt(double(d)));
    Floats k_cache(random, {sequences, most, key_heads, d}),
        v_cache(random, {sequences, most, key_heads, d});
    std::vector<int32_t> row_sequence, row_position;
    for (int64_t b = 0; b < sequences; ++b)
      for (int64_t position = 0; position < most; ++position) {
        row_sequence.push_back(int32_t(b));
        row_position.push_back(int32_t(position));
      }
    const int64_t rows = int64_t(row_sequence.size());
    Floats k(random, {rows, key_heads, d}), v(random, {rows, key_heads, d}),
        q(random, {rows, heads, d});
    k.uniform(random);
    v.uniform(random);
    q.uniform(random);
    Ints sequence = ints(row_sequence), position = ints(row_position);
    on_every_pool([&](cpu::Pool& pool, const std::string& name) {
      for (Floats* cache : {&k_cache, &v_cache}) {
        auto append = arguments<pl_cache_append_args>();
        append.x = cache == &k_cache ? k.tensor() : v.tensor();
        append.row_sequence = sequence.tensor();
        append.row_position = position.tensor();
        append.cache = cache->poisoned().tensor();
        RUN(cache_append, pool, append);
        expect(cache->written(), "cache_append writes the cache and nothing else, " + name);
      }
      // As attention over the same rows.
      Floats o(random, {rows, heads, d}), expected(random, {rows, heads, d});
      auto cached = arguments<pl_attention_cached_args>();
      cached.q = q.tensor();
      cached.k_cache = k_cache.tensor();
      cached.v_cache = v_cache.tensor();
      cached.row_sequence = sequence.tensor();
      cached.row_position = position.tensor();
      cached.scale = scale;
      cached.o = o.tensor();
      RUN(attention_cached, pool, cached);
      Ints bounds = ints({0, 150, 300, 450, 600});
      auto args = arguments<pl_attention_args>();
      args.q = q.tensor();
      args.k = k.tensor();
      args.v = v.tensor();
      args.cu_seqlens = bounds.tensor();
      args.scale = scale;
      args.o = expected.tensor();
      RUN(attention, pool, args);
      std::vector<double> reference;
      for (int64_t i = 0; i < expected.count(); ++i) reference.push_back(double(expected[i]));
      expect(o.written(), "attention_cached writes its output, " + name);
      close(o, reference, 1e-5, "attention_cached is as attention, " + name);

      // A few rows in any order give the bits they gave among all.
      std::vector<int32_t> some_sequence, some_position;
      Floats some_q(random, {7, heads, d}), some_o(random, {7, heads, d});
      std::vector<int64_t> chosen;
      for (int64_t i = 0; i < 7; ++i) {
        const int64_t row = random.below(rows);
        chosen.push_back(row);
        some_sequence.push_back(row_sequence[size_t(row)]);
        some_position.push_back(row_position[size_t(row)]);
        for (int64_t h = 0; h < heads; ++h)
          for (int64_t j = 0; j < d; ++j) some_q.at(i, h, j) = q.at(row, h, j);
      }
      Ints few_sequence = ints(some_sequence), few_position = ints(some_position);
      cached.q = some_q.tensor();
      cached.row_sequence = few_sequence.tensor();
      cached.row_position = few_position.tensor();
      cached.o = some_o.tensor();
      RUN(attention_cached, pool, cached);
      bool same = true;
      for (int64_t i = 0; i < 7; ++i)
        for (int64_t h = 0; h < heads; ++h)
          for (int64_t j = 0; j < d; ++j)
            same = same && same_bits(some_o.at(i, h, j), o.at(chosen[size_t(i)], h, j));
      expect(same, "attention_cached does not depend on the batch, " + name);

      // Two rows of one sequence are taken together; the later one sees a NaN, the earlier one must
      // not.
      Floats pair_q(random, {2, heads, d}), pair_o(random, {2, heads, d});
      for (int64_t h = 0; h < heads; ++h)
        for (int64_t j = 0; j < d; ++j) {
          pair_q.at(0, h, j) = q.at(most + 20, h, j);
          pair_q.at(1, h, j) = q.at(most + 100, h, j);
        }
      Ints pair_sequence = ints({1, 1}), pair_position = ints({20, 100});
      cached.q = pair_q.tensor();
      cached.row_sequence = pair_sequence.tensor();
      cached.row_position = pair_position.tensor();
      cached.o = pair_o.tensor();
      for (const int64_t bad : {21, 90}) {
        const int64_t at = ((1 * most + bad) * key_heads) * d;
        const float k_before = k_cache[at], v_before = v_cache[at];
        k_cache[at] = v_cache[at] = NAN;
        RUN(attention_cached, pool, cached);
        k_cache[at] = k_before;
        v_cache[at] = v_before;
        bool clean = true;
        for (int64_t h = 0; h < heads; ++h)
          for (int64_t j = 0; j < d; ++j)
            clean = clean && same_bits(pair_o.at(0, h, j), o.at(most + 20, h, j));
        expect(clean && std::isnan(pair_o.at(1, 0, 0)),
               "attention_cached sees no later position, " + name);
      }
      cached.q = some_q.tensor();
      cached.row_sequence = few_sequence.tensor();
      cached.row_position = few_position.tensor();
      cached.o = some_o.tensor();

      for (const int32_t bad : {-1, 4, 2147483647, int32_t(-2147483647 - 1)}) {
        few_sequence.data[3] = bad;
        EXPECT_KERNEL_ERROR(attention_cached, pool, cached, "row_sequence[3] is ");
      }
      few_sequence.data[3] = 0;
      for (const int32_t bad : {-1, 150, 2147483647}) {
        few_position.data[6] = bad;
        EXPECT_KERNEL_ERROR(attention_cached, pool, cached, "row_position[6] is ");
        auto append = arguments<pl_cache_append_args>();
        Floats few_k(random, {7, key_heads, d});
        append.x = few_k.uniform(random).tensor();
        append.row_sequence = few_sequence.tensor();
        append.row_position = few_position.tensor();
        append.cache = k_cache.tensor();
        EXPECT_KERNEL_ERROR(cache_append, pool, append, "row_position[6] is ");
      }
    });
  }
}

}  // namespace

int main(int count, char** arguments_of_run) {
  Random random{seed_of(count, arguments_of_run)};
  struct Case {
    std::vector<int64_t> lengths;
    int64_t group, key_heads, d;
  };
  const Case cases[] = {{{}, 1, 1, 8},
                        {{0, 0}, 2, 1, 8},
                        {{1}, 1, 1, 1},
                        {{3, 0, 4}, 1, 2, 3},
                        {{0, 63, 64, 65, 0}, 2, 2, 16},
                        {{47, 48, 49, 31, 32, 33}, 1, 1, 33},
                        {{200}, 7, 2, 64},
                        {{129, 17, 96}, 4, 1, 80},
                        {{150}, 1, 1, 128},
                        {{70}, 2, 1, 256},
                        {{97, 2}, 3, 1, 250}};
  for (const Case& c : cases) {
    Problem problem(random, c.lengths, c.group, c.key_heads, c.d);
    test_problem(problem, random,
                 "D " + std::to_string(c.d) + ", T " + std::to_string(problem.total));
  }
  for (int trial = 0; trial < 6; ++trial) {
    std::vector<int64_t> lengths;
    for (int64_t s = random.below(5); s >= 0; --s)
      lengths.push_back(random.below(3) == 0 ? random.below(4) : random.below(150));
    Problem problem(random, lengths, 1 + random.below(4), 1 + random.below(3),
                    1 + random.below(100));
    test_problem(problem, random, "trial " + std::to_string(trial));
  }
  test_packing(random);
  test_large_scores(random);
  test_nan(random);
  test_hostile(random);
  test_cached(random);
  return report();
}
