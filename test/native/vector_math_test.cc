// The functions of cpu/vector_math.h against float64, on every instruction set the processor has.
#define PL_TARGET_FILE "../test/native/vector_math_test.cc"
#include "cpu/for_each_target.h"
#ifdef PL_TARGET
#include "cpu/vector_math.h"
namespace polylora::cpu::PL_TARGET {
namespace {
void map_exp(const float* x, float* y, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) store(y + i, exp(load(x + i)));
}
void map_log(const float* x, float* y, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) store(y + i, log(load(x + i)));
}
void map_exp_below_zero(const float* x, float* y, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) store(y + i, exp_below_zero(load(x + i)));
}
void map_exp2_below_zero(const float* x, float* y, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) store(y + i, exp2_below_zero(load(x + i)));
}
}  // namespace
}  // namespace polylora::cpu::PL_TARGET
#else
#include <algorithm>
#include <cmath>
#include <cstdio>

#include "cpu/instruction_set.h"

using namespace polylora::cpu;

namespace {

int passed = 0, failed = 0;

void expect(bool condition, const char* what, const char* set) {
  (condition ? passed : failed) += 1;
  if (!condition) std::printf("failed: %s (%s)\n", what, set);
}

// Distance in units of the last place of the float nearest to `exact`; denormal results have a
// fixed unit.
double error_in_ulp(float y, double exact) {
  if (std::isnan(exact)) return std::isnan(y) ? 0 : 1e9;
  const float nearest = float(exact);
  if (std::isinf(nearest) || std::isinf(y)) return nearest == y ? 0 : 1e9;
  int exponent;
  std::frexp(nearest == 0 ? 1e-45 : std::fabs(double(nearest)), &exponent);
  return std::fabs(double(y) - exact) / std::ldexp(1.0, std::max(exponent - 24, -149));
}

// The two for x <= 0, which may give 0 where the result is below 2^-126.
void test_below_zero(Pool& pool, const char* name) {
  for (const bool base_two : {false, true}) {
    const auto map =
        base_two ? PL_SELECT(pool, map_exp2_below_zero) : PL_SELECT(pool, map_exp_below_zero);
    double worst = 0, largest_of_small = 0;
    float x[16], y[16];
    for (uint32_t first = 0x80000000; first < 0xff800000; first += 97 * 16) {
      for (int i = 0; i < 16; ++i) {
        const uint32_t bits = first + uint32_t(i) * 97;
        std::memcpy(&x[i], &bits, 4);
      }
      map(x, y, 16);
      for (int i = 0; i < 16; ++i) {
        const double exact = base_two ? std::exp2(double(x[i])) : std::exp(double(x[i]));
        const double error = error_in_ulp(y[i], exact);
        if (std::isnan(x[i])) continue;
        if (exact > 1.2e-38)
          worst = std::max(worst, error);
        else
          largest_of_small = std::max(largest_of_small, double(y[i]));
      }
    }
    std::printf("%s: %s below zero %.3f ulp\n", name, base_two ? "exp2" : "exp", worst);
    expect(worst < 2.5, "2.5 ulp below zero", name);
    expect(largest_of_small < 1.3e-38, "nothing of note where the result is tiny", name);
    const float special[16] = {0.0f, -0.0f, -INFINITY, NAN, -128.0f, -1e30f};
    map(special, y, 16);
    expect(y[0] == 1 && y[1] == 1 && y[2] == 0 && std::isnan(y[3]) && y[4] == 0 && y[5] == 0,
           "special values below zero", name);
  }
}

}  // namespace

int main() {
  for (int s = 0; s <= int(detect_instruction_set()) && s <= int(InstructionSet::avx512); ++s) {
    Pool pool(1, InstructionSet(s));
    const char* name = instruction_set_name(InstructionSet(s));
    // Every 97th float there is, in blocks of 16.
    double worst_exp = 0, worst_exp_denormal = 0, worst_log = 0;
    float x[16], y[16];
    for (uint64_t first = 0; first < (uint64_t(1) << 32); first += 97 * 16) {
      for (int i = 0; i < 16; ++i) {
        const uint32_t bits = uint32_t(first + uint64_t(i) * 97);
        std::memcpy(&x[i], &bits, 4);
      }
      if (!(std::fabs(x[0]) < 1e-6f) || first % 1024 == 0) {
        PL_SELECT(pool, map_exp)(x, y, 16);
        for (int i = 0; i < 16; ++i) {
          const double exact = std::exp(double(x[i])), error = error_in_ulp(y[i], exact);
          double& worst = exact < 1.2e-38 ? worst_exp_denormal : worst_exp;
          if (error > worst) worst = error;
        }
      }
      PL_SELECT(pool, map_log)(x, y, 16);
      for (int i = 0; i < 16; ++i) {
        const double error = error_in_ulp(y[i], std::log(double(x[i])));
        if (error > worst_log) worst_log = error;
      }
    }
    std::printf("%s: exp %.3f ulp, denormal %.3f, log %.3f\n", name, worst_exp, worst_exp_denormal,
                worst_log);
    expect(worst_exp < 1.5, "exp below 1.5 ulp", name);
    expect(worst_exp_denormal < 2, "exp below 2 ulp where denormal", name);
    expect(worst_log < 1.5, "log below 1.5 ulp", name);
    const float special[16] = {-INFINITY, INFINITY, NAN,   0.0f,    -0.0f,
                               -1000.0f,  1000.0f,  89.0f, -104.5f, 1.0f};
    PL_SELECT(pool, map_exp)(special, y, 16);
    expect(y[0] == 0 && y[1] == INFINITY && std::isnan(y[2]) && y[3] == 1 && y[4] == 1 &&
               y[5] == 0 && y[6] == INFINITY && y[7] == INFINITY && y[8] == 0,
           "exp of special values", name);
    const float special_log[16] = {0.0f, -0.0f, -1.0f, NAN, INFINITY, -INFINITY, 1.0f, 1e-45f};
    PL_SELECT(pool, map_log)(special_log, y, 16);
    expect(y[0] == -INFINITY && y[1] == -INFINITY && std::isnan(y[2]) && std::isnan(y[3]) &&
               y[4] == INFINITY && std::isnan(y[5]) && y[6] == 0 &&
               std::fabs(y[7] + 103.27893f) < 1e-4f,
           "log of special values", name);
    test_below_zero(pool, name);
  }
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed ? 1 : 0;
}
#endif
