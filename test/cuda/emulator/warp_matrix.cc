// What a whole warp does with matrices: mma.sync, ldmatrix, stmatrix.
#include "async.h"
#include "race.h"

namespace polylora::emulator {

void mma_m16n8k16(float* d, const uint32_t* a, const uint32_t* b, Site site) {
  struct Mine {
    float* d;
    const uint32_t *a, *b;
  } mine = {d, a, b};
  meet_warp(0xffffffffu, "mma.sync", site, &mine, [](void* const* slots, uint32_t) {
    float as[16][16], bs[16][8], ds[16][8];
    for (unsigned lane = 0; lane < 32; ++lane) {
      const Mine& m = *static_cast<const Mine*>(slots[lane]);
      const unsigned g = lane / 4, t = lane % 4 * 2;
      for (unsigned r = 0; r < 4; ++r)
        for (unsigned h = 0; h < 2; ++h)
          as[g + r % 2 * 8][t + r / 2 * 8 + h] = bf16_value(uint16_t(m.a[r] >> (16 * h)));
      for (unsigned r = 0; r < 2; ++r)
        for (unsigned h = 0; h < 2; ++h)
          bs[t + r * 8 + h][g] = bf16_value(uint16_t(m.b[r] >> (16 * h)));
      for (unsigned r = 0; r < 4; ++r) ds[g + r / 2 * 8][t + r % 2] = m.d[r];
    }
    for (unsigned i = 0; i < 16; ++i)
      for (unsigned k = 0; k < 16; ++k)
        for (unsigned j = 0; j < 8; ++j) ds[i][j] += as[i][k] * bs[k][j];
    for (unsigned lane = 0; lane < 32; ++lane) {
      const Mine& m = *static_cast<const Mine*>(slots[lane]);
      for (unsigned r = 0; r < 4; ++r) m.d[r] = ds[lane / 4 + r / 2 * 8][lane % 4 * 2 + r % 2];
    }
  });
}

void mma_m16n8k8(float* d, const uint32_t* a, const uint32_t* b, Site site) {
  struct Mine {
    float* d;
    const uint32_t *a, *b;
  } mine = {d, a, b};
  meet_warp(0xffffffffu, "mma.sync", site, &mine, [](void* const* slots, uint32_t) {
    // What lies below tf32's bits is not looked at.
    const auto value_of = [](uint32_t bits) {
      float value;
      bits &= ~0x1fffu;
      std::memcpy(&value, &bits, 4);
      return value;
    };
    float as[16][8], bs[8][8], ds[16][8];
    for (unsigned lane = 0; lane < 32; ++lane) {
      const Mine& m = *static_cast<const Mine*>(slots[lane]);
      const unsigned g = lane / 4, t = lane % 4;
      for (unsigned r = 0; r < 4; ++r) as[g + r % 2 * 8][t + r / 2 * 4] = value_of(m.a[r]);
      for (unsigned r = 0; r < 2; ++r) bs[t + r * 4][g] = value_of(m.b[r]);
      for (unsigned r = 0; r < 4; ++r) ds[g + r / 2 * 8][2 * t + r % 2] = m.d[r];
    }
    for (unsigned i = 0; i < 16; ++i)
      for (unsigned k = 0; k < 8; ++k)
        for (unsigned j = 0; j < 8; ++j) ds[i][j] += as[i][k] * bs[k][j];
    for (unsigned lane = 0; lane < 32; ++lane) {
      const Mine& m = *static_cast<const Mine*>(slots[lane]);
      for (unsigned r = 0; r < 4; ++r) m.d[r] = ds[lane / 4 + r / 2 * 8][lane % 4 * 2 + r % 2];
    }
  });
}

void ldmatrix(uint32_t* r, int matrices, bool transposed, const void* row, Site site) {
  struct Mine {
    uint32_t* r;
    const void* row;
  } mine = {r, row};
  if (current->lane() < unsigned(matrices) * 8) {
    if (reinterpret_cast<uintptr_t>(row) % 16)
      fail("ldmatrix at %s: a row's address is no multiple of 16", describe_site(site).c_str());
    require_shared(row, 16, "ldmatrix", site);
    race::read(row, 16, "ldmatrix", site);
  }
  meet_warp(0xffffffffu, "ldmatrix", site, &mine, [&](void* const* slots, uint32_t) {
    for (int matrix = 0; matrix < matrices; ++matrix) {
      uint16_t elements[8][8];
      for (int i = 0; i < 8; ++i)
        std::memcpy(elements[i], static_cast<const Mine*>(slots[matrix * 8 + i])->row, 16);
      for (int lane = 0; lane < 32; ++lane) {
        const int g = lane / 4, t = lane % 4 * 2;
        const uint32_t low = transposed ? elements[t][g] : elements[g][t];
        const uint32_t high = transposed ? elements[t + 1][g] : elements[g][t + 1];
        static_cast<const Mine*>(slots[lane])->r[matrix] = low | high << 16;
      }
    }
  });
}

void stmatrix(void* row, const uint32_t* r, int matrices, Site site) {
  struct Mine {
    const uint32_t* r;
    void* row;
  } mine = {r, row};
  if (current->lane() < unsigned(matrices) * 8) {
    if (reinterpret_cast<uintptr_t>(row) % 16)
      fail("stmatrix at %s: a row's address is no multiple of 16", describe_site(site).c_str());
    require_shared(row, 16, "stmatrix", site);
    race::write(row, 16, "stmatrix", site);
  }
  meet_warp(0xffffffffu, "stmatrix", site, &mine, [&](void* const* slots, uint32_t) {
    for (int matrix = 0; matrix < matrices; ++matrix)
      for (int lane = 0; lane < 32; ++lane) {
        const uint32_t value = static_cast<const Mine*>(slots[lane])->r[matrix];
        char* const at =
            static_cast<char*>(static_cast<const Mine*>(slots[matrix * 8 + lane / 4])->row);
        std::memcpy(at + lane % 4 * 4, &value, 4);
      }
  });
}

}  // namespace polylora::emulator
