// cuda/descriptor.h against the manual's words (PTX ISA, "Asynchronous warpgroup level matrix
// shared memory layout"; CUTLASS writes the same as layouts in mma_sm90_desc.hpp): where TMA puts a
// tile, and where wgmma looks for it by a descriptor, are the same bytes. On the host alone.
#include "cuda/descriptor.h"
#include "cuda_test.h"

using namespace polylora::cuda;
using namespace polylora::cuda_test;

namespace {

// Bits 4 to 6 of an address are exchanged by bits 7 to 9.
uint32_t swizzled(uint32_t address) { return address ^ (address >> 7 & 7) << 4; }

struct Descriptor {
  uint32_t start, leading, stride, base_offset, swizzle;
  explicit Descriptor(uint64_t bits)
      : start(uint32_t(bits & 0x3fff) << 4),
        leading(uint32_t(bits >> 16 & 0x3fff) << 4),
        stride(uint32_t(bits >> 32 & 0x3fff) << 4),
        base_offset(uint32_t(bits >> 49 & 7)),
        swizzle(uint32_t(bits >> 62)) {}

  // Of element (m, k) of an instruction's operand, 16 of k.
  uint32_t address(bool outer, uint32_t m, uint32_t k) const {
    const uint32_t at = outer ? start + m % 64 * 2 + m / 64 * leading + k % 8 * 128 + k / 8 * stride
                              : start + m % 8 * 128 + m / 8 * stride + k * 2;
    return swizzled(at);
  }
};

void test_fields() {
  const Descriptor found(Wgmma::descriptor(0x2c400, 8192, 1024));
  expect(found.start == 0x2c400, "the start address");
  expect(found.leading == 8192, "the leading distance");
  expect(found.stride == 1024, "the stride");
  expect(found.base_offset == 0, "the base offset");
  expect(found.swizzle == 1, "the 128-byte swizzle");
  // Shared addresses have 18 bits here; what is above them belongs to no field.
  expect(Wgmma::descriptor(0x7c0400, 16, 1024) == Wgmma::descriptor(0x400, 16, 1024),
         "an address beyond 18 bits");
}

template <bool kOuter>
void test_operand(uint32_t extent) {
  using Operand = WgmmaOperand<kOuter>;
  const std::string what = std::string(kOuter ? "k outermost" : "k innermost") + ", extent " +
                           std::to_string(extent) + ": ";
  const auto elements = extent * uint32_t(Operand::kStep);
  expect(Operand::bytes(int(extent)) == int(elements) * 2, what + "its bytes");
  const auto boxes = uint32_t(Operand::boxes(int(extent)));
  const auto rows = uint32_t(Operand::box_rows(int(extent)));
  expect(boxes * rows * 64 == elements, what + "its boxes");
  expect(boxes == 1 || rows * 128 == uint32_t(Operand::kBoxBytes), what + "a box's bytes");

  std::vector<bool> taken(elements);
  uint32_t wrong_box = 0, wrong_descriptor = 0, twice = 0;
  for (uint32_t base : {0u, 1024u, 0x1c000u})
    for (uint32_t m = 0; m < extent; ++m)
      for (uint32_t k = 0; k < uint32_t(Operand::kStep); ++k) {
        const auto offset = uint32_t(Operand::offset(int(m), int(k)));
        // A box lies row by row, swizzled by its address.
        const uint32_t row = kOuter ? k : m, column = kOuter ? m % 64 : k;
        const uint32_t box = kOuter ? m / 64 : 0;
        wrong_box += swizzled(base + box * rows * 128 + row * 128 + column * 2) != base + offset;
        // The instruction at k / 16 * 16 of the warpgroup that begins at m / 64 * 64, and the one
        // that takes the whole extent.
        for (uint32_t first : {0u, m / 64 * 64}) {
          const Descriptor found(Operand::descriptor(base, int(first)) +
                                 Operand::advance(int(k / 16 * 16)));
          wrong_descriptor += found.address(kOuter, m - first, k % 16) != base + offset;
        }
        if (base != 0) continue;
        twice += taken[offset / 2];
        taken[offset / 2] = true;
      }
  expect(wrong_box == 0, what + "where TMA puts it");
  expect(wrong_descriptor == 0, what + "where wgmma looks for it");
  expect(twice == 0, what + "two elements at one place");
}

}  // namespace

int main() {
  test_fields();
  for (uint32_t extent : {64u, 128u, 256u}) {
    test_operand<false>(extent);
    test_operand<true>(extent);
  }
  return report();
}
