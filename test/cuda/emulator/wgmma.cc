// wgmma: asynchronous products of a warpgroup, in order, on tiles in shared memory.
#include "async.h"
#include "race.h"

namespace polylora::emulator {

struct Wgmma {
  int n;
  uint64_t a, b;
  bool accumulate, transpose_a, transpose_b;
  void* d[128];
  Block* block;
  unsigned warpgroup;
  Site site;
  race::AsyncRead read;
  bool executed = false;
};

namespace {

struct Tile {
  size_t start, leading, stride;
  uint32_t swizzle_bytes;

  explicit Tile(uint64_t descriptor, Site site) {
    start = (descriptor & 0x3fff) << 4;
    leading = (descriptor >> 16 & 0x3fff) << 4;
    stride = (descriptor >> 32 & 0x3fff) << 4;
    const unsigned layout = unsigned(descriptor >> 62);
    swizzle_bytes = layout == 1 ? 128 : layout == 2 ? 64 : layout == 3 ? 32 : 0;
    if (layout != 1)
      fail("wgmma at %s: only the 128-byte swizzle is known here", describe_site(site).c_str());
    if (descriptor >> 49 & 7)
      fail("wgmma at %s: a base offset is not known here", describe_site(site).c_str());
  }
  // Of element k of row (or column) m. K innermost: rows of 64 elements in groups of eight,
  // `stride` apart. Otherwise: for each k 64 elements of m, in groups of eight k, `stride` apart;
  // the next 64 of m `leading` further.
  size_t offset(size_t m, size_t k, bool transposed) const {
    const size_t at = transposed
                          ? start + m / 64 * leading + k / 8 * stride + k % 8 * 128 + m % 64 * 2
                          : start + m / 8 * stride + m % 8 * 128 + k * 2;
    return swizzle(at, swizzle_bytes);
  }
};

// The operands' tiles in shared memory, 16 bytes at a time, which the swizzle leaves together.
template <class Body>
void each_chunk(const Wgmma& op, Body body) {
  const auto each = [&](const Tile& tile, size_t extent, bool transposed) {
    for (size_t m = 0; m < extent; m += transposed ? 8 : 1)
      for (size_t k = 0; k < 16; k += transposed ? 1 : 8)
        body(op.block->shared + tile.offset(m, k, transposed));
  };
  each(Tile(op.a, op.site), 64, op.transpose_a);
  each(Tile(op.b, op.site), size_t(op.n), op.transpose_b);
}

void execute(Wgmma& op) {
  Block& block = *op.block;
  Warpgroup& group = block.warpgroups[op.warpgroup];
  std::vector<float>& values = group.accumulators[op.d[0]];
  const Tile a(op.a, op.site), b(op.b, op.site);
  const char* const memory = proxy_view(block);
  const size_t extent = shared_extent(block);
  const auto read = [&](size_t offset) {
    // 14 bits of 16-byte units: the window that a descriptor can name.
    if (offset + 2 > extent)
      fail("wgmma at %s: a descriptor reaches offset %zu of %zu bytes of shared memory",
           describe_site(op.site).c_str(), offset, extent);
    uint16_t bits;
    std::memcpy(&bits, memory + offset, 2);
    return bf16_value(bits);
  };
  const int n = op.n;
  float as[64][16];
  std::vector<float> bs(size_t(n) * 16);
  for (size_t m = 0; m < 64; ++m)
    for (size_t k = 0; k < 16; ++k) as[m][k] = read(a.offset(m, k, op.transpose_a));
  for (size_t k = 0; k < 16; ++k)
    for (size_t j = 0; j < size_t(n); ++j)
      bs[k * size_t(n) + j] = read(b.offset(j, k, op.transpose_b));
  std::vector<float> row(static_cast<size_t>(n));
  for (size_t m = 0; m < 64; ++m) {
    const size_t warp = m / 16, g = m % 8, h = m / 8 % 2;
    const auto place = [&](size_t column) {
      const size_t thread = warp * 32 + g * 4 + column % 8 / 2;
      return thread * size_t(n / 2) + column / 8 * 4 + h * 2 + column % 2;
    };
    for (size_t j = 0; j < size_t(n); ++j) row[j] = op.accumulate ? values[place(j)] : 0.0f;
    for (size_t k = 0; k < 16; ++k) {
      const float x = as[m][k];
      const float* const w = &bs[k * size_t(n)];
      for (size_t j = 0; j < size_t(n); ++j) row[j] += x * w[j];
    }
    for (size_t j = 0; j < size_t(n); ++j) values[place(j)] = row[j];
  }
}

void write_back(Warpgroup& group, void* key, const Wgmma& op) {
  const auto found = group.accumulators.find(key);
  const size_t each = size_t(op.n) / 2;
  for (size_t t = 0; t < 128; ++t)
    std::memcpy(op.d[t], &found->second[t * each], each * sizeof(float));
  group.accumulators.erase(found);
}

bool in_flight(const Warpgroup& group, const void* key) {
  for (const auto& op : group.open_group)
    if (op->d[0] == key) return true;
  for (const auto& ops : group.groups)
    for (const auto& op : ops)
      if (op->d[0] == key) return true;
  return false;
}

}  // namespace

void wgmma_fence(Site site) {
  meet_warpgroup("wgmma.fence", site, nullptr, [](void* const*) {
    current->block->warpgroups[current->linear / 128].fenced = true;
  });
}

void wgmma(float* d, int n, uint64_t a, uint64_t b, int accumulate, bool transpose_a,
           bool transpose_b, Site site) {
  struct Mine {
    float* d;
    uint64_t a, b;
    int accumulate;
  } mine = {d, a, b, accumulate};
  meet_warpgroup("wgmma", site, &mine, [&](void* const* slots) {
    Warpgroup& group = current->block->warpgroups[current->linear / 128];
    if (!group.fenced)
      fail("wgmma at %s: no wgmma.fence came before it", describe_site(site).c_str());
    auto op = std::make_shared<Wgmma>();
    op->n = n;
    op->a = a;
    op->b = b;
    op->accumulate = accumulate != 0;
    op->transpose_a = transpose_a;
    op->transpose_b = transpose_b;
    op->block = current->block;
    op->warpgroup = current->linear / 128;
    op->site = site;
    for (size_t t = 0; t < 128; ++t) {
      const Mine& theirs = *static_cast<const Mine*>(slots[t]);
      if (theirs.a != a || theirs.b != b || (theirs.accumulate != 0) != op->accumulate)
        fail("wgmma at %s: the threads of the warpgroup differ in descriptors",
             describe_site(site).c_str());
      op->d[t] = theirs.d;
    }
    const size_t each = size_t(n) / 2;
    if (!in_flight(group, op->d[0])) {
      std::vector<float>& values = group.accumulators[op->d[0]];
      values.resize(128 * each);
      for (size_t t = 0; t < 128; ++t)
        std::memcpy(&values[t * each], op->d[t], each * sizeof(float));
      // Until somebody waits nobody may look.
      for (size_t t = 0; t < 128; ++t) std::memset(op->d[t], 0xFF, each * sizeof(float));
    }
    if (race::kOn) {
      op->read = race::issue_read("wgmma", site, true);
      each_chunk(*op, [&](const char* chunk) { race::check_read(op->read, chunk, 16); });
    }
    group.open_group.push_back(op);
    if (op->block->cluster->mode == Mode::eager) {
      execute(*op);
      op->executed = true;
    }
  });
}

void wgmma_commit(Site site) {
  meet_warpgroup("wgmma.commit_group", site, nullptr, [](void* const*) {
    Warpgroup& group = current->block->warpgroups[current->linear / 128];
    group.groups.push_back(std::move(group.open_group));
    group.open_group.clear();
  });
}

void wgmma_wait(int left, Site site) {
  meet_warpgroup("wgmma.wait_group", site, nullptr, [left](void* const*) {
    Warpgroup& group = current->block->warpgroups[current->linear / 128];
    while (group.groups.size() > size_t(left)) {
      const auto ops = std::move(group.groups.front());
      group.groups.pop_front();
      race::read_ends(*current->block, current->linear / 128);
      for (const auto& op : ops) {
        if (!op->executed) execute(*op);
        if (race::kOn)
          each_chunk(*op, [&](const char* chunk) {
            race::read_landed(op->read, chunk, 16, *op->block, op->warpgroup);
          });
      }
      for (const auto& op : ops)
        if (!in_flight(group, op->d[0]) && group.accumulators.count(op->d[0])) {
          write_back(group, op->d[0], *op);
          group.fenced = false;  // whoever has the sums may change them
        }
    }
  });
}

void finish_block(Block& block) {
  for (const Warpgroup& group : block.warpgroups)
    if (!group.open_group.empty() || !group.groups.empty())
      fail("the block ended while a wgmma was in flight");
}

}  // namespace polylora::emulator
