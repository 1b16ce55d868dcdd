// The checks of all operations on arguments made of awkward numbers: they must answer with one
// sentence and read nothing but the struct. Built with the sanitizers this finds overflows; that
// good arguments pass is tested with each operation.
#include <cstddef>
#include <type_traits>

#include "native_test.h"

using namespace polylora;
using namespace polylora::test;

namespace {

int64_t awkward(Random& random) {
  const int64_t values[] = {0,
                            0,
                            1,
                            1,
                            2,
                            3,
                            4,
                            7,
                            8,
                            64,
                            -1,
                            -2,
                            2147483647,
                            2147483648,
                            4294967295,
                            INT64_MAX,
                            INT64_MIN,
                            int64_t(1) << 61,
                            int64_t(1) << 62};
  return random.pick(values);
}

// Never read by a check.
alignas(64) unsigned char memory[64];

void make(Random& random, pl_tensor& tensor) {
  tensor.data = random.below(5) ? memory + random.below(3) * random.below(9) : nullptr;
  tensor.dtype = int32_t(random.below(8) ? random.below(6) : awkward(random));
  tensor.rank = int32_t(random.below(8) ? random.below(5) : awkward(random));
  for (int i = 0; i < PL_MAX_RANK; ++i) {
    tensor.shape[i] = random.below(3) ? random.below(4) : awkward(random);
    tensor.strides[i] = random.below(3) ? random.below(4) : awkward(random);
  }
}

float awkward_float(Random& random) {
  const float values[] = {0, 1, -1, 0.5f, 0.999f, 2, 1e30f, -1e30f, INFINITY, -INFINITY, NAN};
  return random.pick(values);
}

// What a struct points to.
struct Pointees {
  pl_segment segments[3];
  pl_adamw_parameter parameters[3];
  pl_tensor gradients[3];
};

// Tensors and numbers in the order of the struct; every field is a multiple of 4 bytes and tensors
// begin at multiples of 8, so any 4 or 8 bytes may be overwritten as long as the pointers are put
// right after.
template <class Args>
void scramble(Random& random, Args& args) {
  auto* const bytes = reinterpret_cast<unsigned char*>(&args);
  for (size_t at = sizeof(pl_header); at + 4 <= sizeof args; at += 4) {
    const float real = awkward_float(random);
    const int32_t whole = int32_t(awkward(random));
    std::memcpy(bytes + at, random.below(2) ? static_cast<const void*>(&real) : &whole, 4);
  }
  // Most of the time what lies there looks like a tensor.
  for (size_t at = sizeof(pl_header); at + sizeof(pl_tensor) <= sizeof args;) {
    if (random.below(6) == 0) {
      at += 8;
      continue;
    }
    pl_tensor tensor;
    make(random, tensor);
    std::memcpy(bytes + at, &tensor, sizeof tensor);
    at += sizeof tensor;
  }
  args.header = {};
  args.header.size = random.below(20) ? uint32_t(sizeof args) : uint32_t(awkward(random));
}

template <class Args>
void point(Random&, Args&, Pointees&) {}

void point(Random& random, pl_matmul_args& args, Pointees& pointees) {
  args.segment_count = uint32_t(random.below(4));
  args.segments = random.below(9) ? pointees.segments : nullptr;
  for (pl_segment& segment : pointees.segments) {
    make(random, segment.x);
    make(random, segment.w);
    segment.weight = nullptr;
    segment.mask_after = int32_t(random.below(2));
    segment.mask_w = int32_t(random.below(2));
  }
}
void point(Random& random, pl_adamw_args& args, Pointees& pointees) {
  args.parameter_count = uint32_t(random.below(4));
  args.parameters = random.below(9) ? pointees.parameters : nullptr;
  for (pl_adamw_parameter& parameter : pointees.parameters) {
    make(random, parameter.parameter);
    for (pl_tensor* other : {&parameter.gradient, &parameter.moment, &parameter.variance}) {
      if (random.below(4))
        *other = parameter.parameter;
      else
        make(random, *other);
    }
    parameter.learning_rate_scale = awkward_float(random);
    parameter.weight_decay = awkward_float(random);
  }
}
void point(Random& random, pl_gradient_norm_args& args, Pointees& pointees) {
  args.gradient_count = uint32_t(random.below(4));
  args.gradients = random.below(9) ? pointees.gradients : nullptr;
  for (pl_tensor& gradient : pointees.gradients) make(random, gradient);
}
void point(Random&, pl_weight_update_args& args, Pointees&) { args.weight = nullptr; }
void point(Random&, pl_weight_read_args& args, Pointees&) { args.weight = nullptr; }
void point(Random&, pl_weight_row_norms_args& args, Pointees&) { args.weight = nullptr; }
void point(Random&, pl_gather_rows_args& args, Pointees&) { args.weight = nullptr; }
void point(Random&, pl_head_cross_entropy_args& args, Pointees&) { args.weight = nullptr; }

template <class Args>
void test_check(Random& random, const char* name, pl_status (*check)(const Args*)) {
  bool sound = true;
  int64_t refused = 0;
  Pointees pointees;
  constexpr int kTrials = 3000;
  for (int trial = 0; trial < kTrials; ++trial) {
    Args args;
    scramble(random, args);
    point(random, args, pointees);
    const pl_status status = check(&args);
    if (status.code == PL_OK) continue;
    ++refused;
    const size_t length = strnlen(status.message, sizeof status.message);
    sound = sound && length < sizeof status.message &&
            std::strncmp(status.message, name, std::strlen(name)) == 0 &&
            (status.code == PL_ARGUMENT || status.code == PL_SHAPE || status.code == PL_DTYPE);
  }
  expect(sound && refused > kTrials / 2, std::string(name) + " answers in one sentence");
  const pl_status none = check(nullptr);
  expect(none.code == PL_ARGUMENT, std::string(name) + " refuses null");
}

}  // namespace

int main(int count, char** arguments_of_run) {
  Random random{seed_of(count, arguments_of_run)};
#define PL_ENTRY(name) test_check(random, #name, pl_check_##name);
  PL_OPERATIONS(PL_ENTRY)
#undef PL_ENTRY
  return report();
}
