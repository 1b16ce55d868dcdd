// The functions of cuda/ptx.h for sm_80, and what the emulator has of CUDA's language, each against
// its definition, bit for bit.
#include <cmath>
#include <cstring>

#include "cuda/launch.h"
#include "cuda/ptx.h"
#include "cuda_test.h"

using namespace polylora;
using namespace polylora::cuda;
using namespace polylora::cuda_test;

namespace {

std::string at(const char* what, size_t i) {
  return std::string(what) + " at " + std::to_string(i);
}

template <class T>
void expect_same(const char* what, const std::vector<T>& found, const std::vector<T>& wanted) {
  for (size_t i = 0; i < wanted.size(); ++i)
    if (std::memcmp(&found[i], &wanted[i], sizeof(T)) != 0) {
      expect(false, at(what, i));
      return;
    }
  expect(found.size() == wanted.size(), what);
}

std::vector<uint16_t> halves(Random& random, size_t count) {
  std::vector<uint16_t> values(count);
  for (auto& value : values) value = uint16_t(random.next());
  return values;
}

std::vector<int> small_integers(Random& random, size_t count) {
  std::vector<int> values(count);
  for (auto& value : values) value = random.below(33) - 16;
  return values;
}

// ---- Conversions

__global__ void pack_kernel(const float* from, uint32_t* to, int pairs) {
  const int i = int(blockIdx.x * 128 + threadIdx.x);
  if (i < pairs) to[i] = ptx::pack_bf16(from[2 * i], from[2 * i + 1]);
}

// To nearest, ties to even, by integers; a NaN is one NaN.
uint16_t rounded(uint32_t bits) {
  if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fff;
  const uint32_t rest = bits & 0xffff, kept = bits >> 16;
  return uint16_t(kept + (rest > 0x8000 || (rest == 0x8000 && kept % 2)));
}

void test_pack(TestStream& stream, Random& random) {
  std::vector<uint32_t> bits;
  for (uint32_t high = 0; high < 0x10000; high += 7)
    for (uint32_t low : {0u, 1u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu})
      bits.push_back(high << 16 | low);
  while (bits.size() % 2 || bits.size() < 100000) bits.push_back(uint32_t(random.next()));
  std::vector<float> values(bits.size());
  std::memcpy(values.data(), bits.data(), bits.size() * 4);
  const int pairs = int(bits.size() / 2);
  Array<float> from(stream, values);
  Array<uint32_t> to(stream, size_t(pairs));
  launch(stream, {blocks_for(pairs, 128), 128}, pack_kernel, from.data(), to.data(), pairs);
  std::vector<uint32_t> wanted(static_cast<size_t>(pairs));
  for (size_t i = 0; i < wanted.size(); ++i)
    wanted[i] = rounded(bits[2 * i]) | uint32_t(rounded(bits[2 * i + 1])) << 16;
  expect_same("pack_bf16", to.read(stream), wanted);
}

__global__ void exp2_kernel(const float* from, float* to, int count) {
  const int i = int(blockIdx.x * 128 + threadIdx.x);
  if (i < count) to[i] = ptx::exp2_approximate(from[i]);
}

void test_exp2(TestStream& stream) {
  std::vector<float> values;
  for (int i = -126 * 64; i < 127 * 64; ++i) values.push_back(float(i) / 64 + float(i % 7) / 4096);
  values.push_back(-INFINITY);
  Array<float> from(stream, values), to(stream, values.size());
  launch(stream, {blocks_for(int64_t(values.size()), 128), 128}, exp2_kernel, from.data(),
         to.data(), int(values.size()));
  const auto found = to.read(stream);
  double worst = 0;
  for (size_t i = 0; i + 1 < values.size(); ++i) {
    const double wanted = std::exp2(double(values[i]));
    if (wanted >= 0x1p-126) worst = std::fmax(worst, std::fabs(double(found[i]) / wanted - 1));
  }
  // PTX gives 2^-22.5 of the result's last place and more; two bits are left for the range.
  expect(worst < 0x1p-21, "exp2_approximate's error is " + std::to_string(worst));
  expect(found.back() == 0, "exp2_approximate of minus infinity");
}

// ---- cp.async

// Thread t copies 16 bytes of which t % 17 are read, and then 4 of which t % 5 are.
__global__ void cp_async_kernel(const uint8_t* from, uint8_t* to) {
  PL_SHARED(uint8_t, tile, 128 * 32);
  const int t = int(threadIdx.x);
  for (int i = 0; i < 32; ++i) tile[t * 32 + i] = 0xAB;
  ptx::cp_async_16(tile + t * 32, from + t * 32, t % 17);
  ptx::cp_async_4(tile + t * 32 + 16, from + t * 32 + 16, t % 5);
  ptx::cp_async_4(tile + t * 32 + 20, from + t * 32 + 20);
  ptx::cp_async_commit();
  ptx::cp_async_wait<0>();
  __syncthreads();
  const int other = (t + 37) % 128;
  for (int i = 0; i < 32; ++i) to[other * 32 + i] = tile[other * 32 + i];
}

void test_cp_async(TestStream& stream, Random& random) {
  std::vector<uint8_t> bytes(128 * 32);
  for (auto& byte : bytes) byte = uint8_t(random.next());
  Array<uint8_t> from(stream, bytes), to(stream, bytes.size());
  launch(stream, {1, 128}, cp_async_kernel, from.data(), to.data());
  std::vector<uint8_t> wanted = bytes;
  for (int t = 0; t < 128; ++t)
    for (int i = 0; i < 32; ++i) {
      uint8_t& byte = wanted[size_t(t * 32 + i)];
      if (i < 16 ? i >= t % 17 : i < 20 && i - 16 >= t % 5) byte = 0;
      if (i >= 24) byte = 0xAB;
    }
  expect_same("cp_async_16 and cp_async_4", to.read(stream), wanted);
}

// A ring of three stages: what cp_async_wait<1> leaves in flight is the youngest group.
__global__ void cp_async_groups_kernel(const uint32_t* from, uint32_t* to, int steps) {
  PL_SHARED(uint32_t, ring, 3 * 128);
  const int t = int(threadIdx.x);
  const auto load = [&](int step) {
    if (step < steps) ptx::cp_async_16(ring + step % 3 * 128 + t * 4, from + step * 128 + t * 4);
    ptx::cp_async_commit();
  };
  load(0);
  load(1);
  for (int step = 0; step < steps; ++step) {
    ptx::cp_async_wait<1>();
    __syncthreads();
    load(step + 2);
    for (int i = 0; i < 4; ++i)
      to[step * 128 + i * 32 + t] = ring[step % 3 * 128 + i * 32 + t] + uint32_t(step);
  }
  ptx::cp_async_wait<0>();
}

void test_cp_async_groups(TestStream& stream, Random& random) {
  const int steps = 7;
  std::vector<uint32_t> values(steps * 128);
  for (auto& value : values) value = uint32_t(random.next());
  Array<uint32_t> from(stream, values), to(stream, values.size());
  launch(stream, {1, 32}, cp_async_groups_kernel, from.data(), to.data(), steps);
  std::vector<uint32_t> wanted = values;
  for (size_t i = 0; i < wanted.size(); ++i) wanted[i] += uint32_t(i / 128);
  expect_same("groups of cp.async", to.read(stream), wanted);
}

// ---- ldmatrix

constexpr int kPitch = 24;  // elements: rows need not be neighbours

// to[kind][lane][register]: x4, x4 transposed, x2, x2 transposed.
__global__ void ldmatrix_kernel(const uint16_t* from, uint32_t* to) {
  PL_SHARED(uint16_t, tile, 32 * kPitch);
  const int lane = int(threadIdx.x);
  for (int i = 0; i < kPitch; ++i) tile[lane * kPitch + i] = from[lane * kPitch + i];
  __syncthreads();
  const uint16_t* const row = tile + lane * kPitch;
  const uint16_t* const low_row = tile + lane % 16 * kPitch;
  uint32_t x4[4], x4t[4], x2[2], x2t[2];
  ptx::ldmatrix_x4(x4, row);
  ptx::ldmatrix_x4_transposed(x4t, row);
  ptx::ldmatrix_x2(x2, low_row);
  ptx::ldmatrix_x2_transposed(x2t, low_row);
  for (int r = 0; r < 4; ++r) {
    to[lane * 4 + r] = x4[r];
    to[128 + lane * 4 + r] = x4t[r];
  }
  for (int r = 0; r < 2; ++r) {
    to[256 + lane * 2 + r] = x2[r];
    to[320 + lane * 2 + r] = x2t[r];
  }
}

void test_ldmatrix(TestStream& stream, Random& random) {
  const auto values = halves(random, 32 * kPitch);
  Array<uint16_t> from(stream, values);
  Array<uint32_t> to(stream, 384);
  launch(stream, {1, 32}, ldmatrix_kernel, from.data(), to.data());
  std::vector<uint32_t> wanted(384);
  const auto element = [&](int matrix, int row, int column) {
    return uint32_t(values[size_t((matrix * 8 + row) * kPitch + column)]);
  };
  for (int lane = 0; lane < 32; ++lane)
    for (int r = 0; r < 4; ++r) {
      const int g = lane / 4, t = lane % 4 * 2;
      const uint32_t plain = element(r, g, t) | element(r, g, t + 1) << 16;
      const uint32_t transposed = element(r, t, g) | element(r, t + 1, g) << 16;
      wanted[size_t(lane * 4 + r)] = plain;
      wanted[size_t(128 + lane * 4 + r)] = transposed;
      if (r < 2) {
        wanted[size_t(256 + lane * 2 + r)] = plain;
        wanted[size_t(320 + lane * 2 + r)] = transposed;
      }
    }
  expect_same("ldmatrix", to.read(stream), wanted);
}

// ---- mma.sync

__global__ void mma_kernel(const uint16_t* a, const uint16_t* b, float* d) {
  const int lane = int(threadIdx.x), g = lane / 4, t = lane % 4;
  uint32_t as[4], bs[2];
  float ds[4];
  const auto a_pair = [&](int row, int column) {
    return uint32_t(a[row * 16 + column]) | uint32_t(a[row * 16 + column + 1]) << 16;
  };
  const auto b_pair = [&](int row, int column) {
    return uint32_t(b[row * 8 + column]) | uint32_t(b[(row + 1) * 8 + column]) << 16;
  };
  for (int r = 0; r < 4; ++r) {
    as[r] = a_pair(g + r % 2 * 8, 2 * t + r / 2 * 8);
    ds[r] = d[(g + r / 2 * 8) * 8 + 2 * t + r % 2];
  }
  for (int r = 0; r < 2; ++r) bs[r] = b_pair(2 * t + r * 8, g);
  ptx::mma_m16n8k16_bf16(ds, as, bs);
  for (int r = 0; r < 4; ++r) d[(g + r / 2 * 8) * 8 + 2 * t + r % 2] = ds[r];
}

void test_mma(TestStream& stream, Random& random) {
  for (int round = 0; round < 10; ++round) {
    const auto a = small_integers(random, 256), b = small_integers(random, 128),
               c = small_integers(random, 128);
    std::vector<uint16_t> as, bs;
    std::vector<float> cs, wanted(128);
    for (int value : a) as.push_back(bf16_of(value));
    for (int value : b) bs.push_back(bf16_of(value));
    for (int value : c) cs.push_back(float(value));
    for (size_t i = 0; i < 16; ++i)
      for (size_t j = 0; j < 8; ++j) {
        int sum = c[i * 8 + j];
        for (size_t k = 0; k < 16; ++k) sum += a[i * 16 + k] * b[k * 8 + j];
        wanted[i * 8 + j] = float(sum);
      }
    Array<uint16_t> a_array(stream, as), b_array(stream, bs);
    Array<float> d(stream, cs);
    launch(stream, {1, 32}, mma_kernel, a_array.data(), b_array.data(), d.data());
    expect_same("mma_m16n8k16_bf16", d.read(stream), wanted);
  }
}

// Numbers with more bits than the tensor cores take, and those that they are rounded to.
__global__ void tf32_kernel(const float* from, uint32_t* to, int count) {
  const int i = int(threadIdx.x);
  if (i < count) to[i] = ptx::tf32_of(from[i]);
}

void test_tf32(TestStream& stream) {
  const float step = 0x1p-10f;  // between 1 and 2
  const std::vector<float> from = {0.0f,
                                   -0.0f,
                                   1,
                                   1 + step,
                                   1 + 0.49f * step,
                                   1 + 0.5f * step,
                                   -1 - 0.5f * step,
                                   1 + 1.5f * step,
                                   0x1.fffffep127f,
                                   -0x1.fffp-1f,
                                   HUGE_VALF,
                                   -HUGE_VALF};
  const std::vector<float> rounded = {0.0f,      -0.0f,    1,         1 + step,
                                      1,         1 + step, -1 - step, 1 + 2 * step,
                                      HUGE_VALF, -1,       HUGE_VALF, -HUGE_VALF};
  std::vector<uint32_t> wanted(rounded.size());
  std::memcpy(wanted.data(), rounded.data(), rounded.size() * 4);
  Array<float> numbers(stream, from);
  Array<uint32_t> to(stream, from.size());
  launch(stream, {1, 32}, tf32_kernel, numbers.data(), to.data(), int(from.size()));
  expect_same("tf32_of", to.read(stream), wanted);
}

__global__ void mma_tf32_kernel(const float* a, const float* b, float* d) {
  const int lane = int(threadIdx.x), g = lane / 4, t = lane % 4;
  uint32_t as[4], bs[2];
  float ds[4];
  for (int r = 0; r < 4; ++r) {
    as[r] = ptx::tf32_of(a[(g + r % 2 * 8) * 8 + t + r / 2 * 4]);
    ds[r] = d[(g + r / 2 * 8) * 8 + 2 * t + r % 2];
  }
  for (int r = 0; r < 2; ++r) bs[r] = ptx::tf32_of(b[(t + r * 4) * 8 + g]);
  ptx::mma_m16n8k8_tf32(ds, as, bs);
  for (int r = 0; r < 4; ++r) d[(g + r / 2 * 8) * 8 + 2 * t + r % 2] = ds[r];
}

void test_mma_tf32(TestStream& stream, Random& random) {
  for (int round = 0; round < 10; ++round) {
    const auto a = small_integers(random, 128), b = small_integers(random, 64),
               c = small_integers(random, 128);
    std::vector<float> wanted(128);
    for (size_t i = 0; i < 16; ++i)
      for (size_t j = 0; j < 8; ++j) {
        int sum = c[i * 8 + j];
        for (size_t k = 0; k < 8; ++k) sum += a[i * 8 + k] * b[k * 8 + j];
        wanted[i * 8 + j] = float(sum);
      }
    Array<float> a_array(stream, std::vector<float>(a.begin(), a.end()));
    Array<float> b_array(stream, std::vector<float>(b.begin(), b.end()));
    Array<float> d(stream, std::vector<float>(c.begin(), c.end()));
    launch(stream, {1, 32}, mma_tf32_kernel, a_array.data(), b_array.data(), d.data());
    expect_same("mma_m16n8k8_tf32", d.read(stream), wanted);
  }
}

// ---- Named barriers

// Warp 0 makes numbers and does not wait for those that take them; warps 1 and 2 do.
__global__ void named_barrier_kernel(const uint32_t* from, uint32_t* to, int steps) {
  PL_SHARED(uint32_t, box, 32);
  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  for (int step = 0; step < steps; ++step) {
    if (warp == 0) {
      if (step > 0) ptx::named_barrier_sync(2, 96);  // it is empty
      box[lane] = from[step * 32 + lane];
      ptx::named_barrier_arrive(1, 96);  // it is full
    } else {
      ptx::named_barrier_sync(1, 96);
      to[step * 64 + (warp - 1) * 32 + lane] = box[(lane + warp) % 32];
      if (step + 1 < steps) ptx::named_barrier_arrive(2, 96);
    }
  }
}

void test_named_barriers(TestStream& stream, Random& random) {
  const int steps = 5;
  std::vector<uint32_t> values(steps * 32), wanted(steps * 64);
  for (auto& value : values) value = uint32_t(random.next());
  for (size_t i = 0; i < wanted.size(); ++i)
    wanted[i] = values[i / 64 * 32 + (i % 32 + 1 + i % 64 / 32) % 32];
  Array<uint32_t> from(stream, values), to(stream, wanted.size());
  launch(stream, {1, 96}, named_barrier_kernel, from.data(), to.data(), steps);
  expect_same("named barriers", to.read(stream), wanted);
}

// ---- Warps and blocks

__global__ void warp_kernel(const uint32_t* from, uint32_t* to) {
  const int t = int(threadIdx.x), lane = t % 32;
  const uint32_t mine = from[t];
  const unsigned all = 0xffffffffu;
  uint32_t* const out = to + t * 10;
  out[0] = __shfl_sync(all, mine, (lane * 5 + 3) % 32);
  out[1] = __shfl_xor_sync(all, mine, 9);
  out[2] = __shfl_down_sync(all, mine, 3);
  out[3] = __shfl_up_sync(all, mine, 5);
  out[4] = __shfl_xor_sync(all, mine, 1, 8);
  out[5] = __ballot_sync(all, mine % 3 == 0);
  out[6] = uint32_t(__any_sync(all, mine % 61 == 0) != 0);
  out[7] = uint32_t(__all_sync(all, mine % 61 != 0) != 0);
  const unsigned half = lane < 16 ? 0xffffu : 0xffff0000u;
  out[8] = __shfl_sync(half, mine, lane < 16 ? 15 - lane : 47 - lane);
  out[9] = uint32_t(__syncthreads_or(mine % 509 == 0) != 0);
}

void test_warps(TestStream& stream, Random& random) {
  for (int round = 0; round < 4; ++round) {
    std::vector<uint32_t> values(64), wanted(640);
    for (auto& value : values) value = uint32_t(random.below(1 << 20));
    const auto value = [&](int warp, int lane) { return values[size_t(warp * 32 + lane)]; };
    for (int t = 0; t < 64; ++t) {
      const int warp = t / 32, lane = t % 32;
      uint32_t* const out = &wanted[size_t(t) * 10];
      out[0] = value(warp, (lane * 5 + 3) % 32);
      out[1] = value(warp, lane ^ 9);
      out[2] = value(warp, lane + 3 < 32 ? lane + 3 : lane);
      out[3] = value(warp, lane >= 5 ? lane - 5 : lane);
      out[4] = value(warp, lane ^ 1);
      for (int i = 0; i < 32; ++i) {
        if (value(warp, i) % 3 == 0) out[5] |= 1u << i;
        if (value(warp, i) % 61 == 0) out[6] = 1;
      }
      out[7] = 1 - out[6];
      out[8] = value(warp, lane < 16 ? 15 - lane : 47 - lane);
      for (uint32_t each : values)
        if (each % 509 == 0) out[9] = 1;
    }
    Array<uint32_t> from(stream, values), to(stream, wanted.size());
    launch(stream, {1, 64}, warp_kernel, from.data(), to.data());
    expect_same("shuffles and votes", to.read(stream), wanted);
  }
}

__global__ void atomics_kernel(int32_t* counters, int32_t* firsts) {
  const int t = int(threadIdx.x);
  atomicAdd(&counters[0], t);
  atomicMax(&counters[1], t * 37 % 101);
  atomicMin(&counters[2], -(t * 37 % 101));
  const int32_t before = atomicCAS(&counters[3], 0, 7);
  firsts[t] = before == 0;
}

void test_atomics(TestStream& stream) {
  Array<int32_t> counters(stream, std::vector<int32_t>{0, 0, 0, 0}), firsts(stream, 128);
  launch(stream, {1, 128}, atomics_kernel, counters.data(), firsts.data());
  expect_same("atomics", counters.read(stream), {127 * 64, 100, -100, 7});
  int first = 0;
  for (int32_t value : firsts.read(stream)) first += value;
  expect(first == 1, "one atomicCAS wins");
}

}  // namespace

int main() {
  if (!announce()) return 0;
  TestStream stream;
  Random random = {20250101};
  test_pack(stream, random);
  test_exp2(stream);
  test_cp_async(stream, random);
  test_cp_async_groups(stream, random);
  test_ldmatrix(stream, random);
  test_mma(stream, random);
  test_tf32(stream);
  test_mma_tf32(stream, random);
  test_named_barriers(stream, random);
  test_warps(stream, random);
  test_atomics(stream);
  return report();
}
