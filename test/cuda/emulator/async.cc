#include "async.h"

#include <algorithm>

#include "race.h"

namespace polylora::emulator {

namespace {

Mode mode_now() { return current->block->cluster->mode; }

}  // namespace

// ---- cp.async

namespace {

void land(const AsyncCopy& copy) {
  std::memcpy(copy.to, copy.from, copy.read);
  std::memset(copy.to + copy.read, 0, copy.bytes - copy.read);
}

void land_group(std::vector<AsyncCopy>& group) {
  for (const AsyncCopy& copy : group) land(copy);
  group.clear();
}

}  // namespace

void cp_async(void* shared, const void* global, int bytes, int read, Site site) {
  if (reinterpret_cast<uintptr_t>(shared) % unsigned(bytes) ||
      (read && reinterpret_cast<uintptr_t>(global) % unsigned(bytes)))
    fail("cp.async at %s: an address is no multiple of %d", describe_site(site).c_str(), bytes);
  if (read < 0 || read > bytes)
    fail("cp.async at %s: %d bytes of %d are to be read", describe_site(site).c_str(), read, bytes);
  require_shared(shared, size_t(bytes), "cp.async", site);
  if (read) require_global(global, size_t(read), "cp.async", site);
  race::write(shared, size_t(bytes), "cp.async", site);
  const AsyncCopy copy = {static_cast<char*>(shared), static_cast<const char*>(global),
                          unsigned(bytes), unsigned(read)};
  const Mode mode = mode_now();
  if (mode == Mode::eager || (mode == Mode::random && current->block->cluster->draw() % 2)) {
    land(copy);
    return;
  }
  std::memset(copy.to, 0xFF, copy.bytes);
  current->open_group.push_back(copy);
}

void cp_async_commit() {
  current->groups.push_back(std::move(current->open_group));
  current->open_group.clear();
}

void cp_async_wait(int left) {
  while (current->groups.size() > size_t(left)) {
    land_group(current->groups.front());
    current->groups.pop_front();
  }
  maybe_yield();
}

void finish_thread(Thread& thread) {
  bool pending = !thread.open_group.empty();
  for (const auto& group : thread.groups) pending = pending || !group.empty();
  if (pending) fail("the thread ended while copies of its cp.async were under way");
  thread.groups.clear();
}

// ---- mbarrier

namespace {

MBarrier& mbarrier_at(Block& block, void* barrier, Site site) {
  const auto found = block.mbarriers.find(barrier);
  if (found == block.mbarriers.end())
    fail("mbarrier at %s: it was not initialised", describe_site(site).c_str());
  return found->second;
}

void complete_if_done(MBarrier& barrier) {
  if (barrier.pending || barrier.transactions) return;
  ++barrier.phase;
  barrier.pending = barrier.count;
  race::complete(&barrier);
  auto& waiters = barrier.waiters;
  for (size_t i = 0; i < waiters.size();) {
    if ((barrier.phase & 1) != waiters[i].parity) {
      wake(waiters[i].thread);
      waiters.erase(waiters.begin() + long(i));
    } else {
      ++i;
    }
  }
}

void arrive(Block& block, void* address, int64_t bytes, Site site) {
  MBarrier& barrier = mbarrier_at(block, address, site);
  if (barrier.pending == 0)
    fail("mbarrier at %s: more than its %u arrivals in one phase", describe_site(site).c_str(),
         barrier.count);
  race::arrive(&barrier, current);
  barrier.transactions += bytes;
  --barrier.pending;
  complete_if_done(barrier);
}

}  // namespace

void mbarrier_init(void* address, int arrivals, Site site) {
  require_shared(address, 8, "mbarrier.init", site);
  if (arrivals < 1 || arrivals > (1 << 20) - 1)
    fail("mbarrier.init at %s: %d arrivals", describe_site(site).c_str(), arrivals);
  MBarrier& barrier = current->block->mbarriers[address];
  barrier = MBarrier();
  barrier.count = barrier.pending = unsigned(arrivals);
}

void mbarrier_arrive(void* address, int64_t expected_bytes, Site site) {
  arrive(*current->block, address, expected_bytes, site);
  maybe_yield();
}

void mbarrier_arrive_remote(void* address, int rank, Site site) {
  Cluster& cluster = *current->block->cluster;
  if (rank < 0 || size_t(rank) >= cluster.blocks.size())
    fail("mbarrier.arrive at %s: the cluster has no block %d", describe_site(site).c_str(), rank);
  Block& block = *cluster.blocks[size_t(rank)];
  arrive(block, block.shared + (static_cast<char*>(address) - current->block->shared), 0, site);
  maybe_yield();
}

void mbarrier_wait(void* address, int parity, Site site) {
  MBarrier& barrier = mbarrier_at(*current->block, address, site);
  if (parity != 0 && parity != 1)
    fail("mbarrier wait at %s: parity %d", describe_site(site).c_str(), parity);
  if ((barrier.phase & 1) == unsigned(parity)) {
    barrier.waiters.push_back({current, unsigned(parity)});
    wait("an mbarrier", site);
  }
  race::acquire(&barrier, current);
}

// ---- TMA

namespace {

// The 128-byte (64, 32) swizzle exchanges 16-byte units within a row by the row's number, both
// taken from the address in shared memory.
size_t swizzle(size_t offset, uint32_t bytes) {
  if (bytes == 128) return offset ^ ((offset >> 7 & 7) << 4);
  if (bytes == 64) return offset ^ ((offset >> 7 & 3) << 4);
  if (bytes == 32) return offset ^ ((offset >> 7 & 1) << 4);
  return offset;
}

TensorMap map_of(const void* address, Site site) {
  TensorMap map;
  std::memcpy(&map, address, sizeof map);
  if (map.magic != kTensorMapMagic)
    fail("TMA at %s: the tensor map was not encoded", describe_site(site).c_str());
  if (map.rank != 2)
    fail("TMA at %s: the tensor has rank %u", describe_site(site).c_str(), map.rank);
  return map;
}

size_t box_bytes(const TensorMap& map) {
  return size_t(map.box[0]) * map.box[1] * map.element_bytes;
}

// Calls body(offset in shared memory, address in global memory or null) for every element's unit.
template <class Body>
void each_unit(const TensorMap& map, size_t shared_offset, int x, int y, Body body) {
  const size_t row_bytes = size_t(map.box[0]) * map.element_bytes;
  for (uint32_t j = 0; j < map.box[1]; ++j)
    for (uint32_t i = 0; i < map.box[0]; ++i) {
      const int64_t column = int64_t(x) + i, row = int64_t(y) + j;
      const bool inside =
          column >= 0 && row >= 0 && uint64_t(column) < map.dims[0] && uint64_t(row) < map.dims[1];
      const size_t offset =
          swizzle(shared_offset + j * row_bytes + i * map.element_bytes, map.swizzle_bytes);
      body(offset,
           inside ? map.base + uint64_t(row) * map.strides[1] + uint64_t(column) * map.element_bytes
                  : nullptr);
    }
}

void land_load(const TensorMap& map, Block& block, size_t offset, int x, int y) {
  char* const proxy = proxy_view(block);
  each_unit(map, offset, x, y, [&](size_t at, const char* from) {
    if (from)
      std::memcpy(block.shared + at, from, map.element_bytes);
    else
      std::memset(block.shared + at, 0, map.element_bytes);
    std::memcpy(proxy + at, block.shared + at, map.element_bytes);
  });
}

void check_tile(const TensorMap& map, const void* shared, const char* what, Site site) {
  const size_t alignment = map.swizzle_bytes ? map.swizzle_bytes * 8 : 128;
  const auto offset = size_t(static_cast<const char*>(shared) - current->block->shared);
  if (offset % alignment)
    fail("%s at %s: the tile's offset %zu in shared memory is no multiple of %zu", what,
         describe_site(site).c_str(), offset, alignment);
  require_shared(shared, box_bytes(map), what, site);
}

void issue(Cluster& cluster, BulkCopy copy) {
  if (cluster.mode == Mode::eager && !copy.is_store) {
    copy.land();
    return;
  }
  cluster.bulk.push_back(std::move(copy));
}

}  // namespace

bool land_bulk_copy(Cluster& cluster) {
  // Stores that were never committed land as well, in the end.
  if (cluster.bulk.empty()) return false;
  size_t at = 0;
  if (cluster.mode == Mode::random) at = cluster.draw() % cluster.bulk.size();
  BulkCopy copy = std::move(cluster.bulk[at]);
  cluster.bulk.erase(cluster.bulk.begin() + long(at));
  copy.land();
  return true;
}

void fence_proxy_async() {
  Block& block = *current->block;
  char* const proxy = proxy_view(block);
  std::memcpy(proxy, block.shared, shared_extent(block));
  race::fence_proxy(current);
}

void tma_load_2d(void* shared, const void* map_address, int x, int y, void* barrier,
                 uint32_t blocks, Site site) {
  const TensorMap map = map_of(map_address, site);
  Block& own = *current->block;
  Cluster& cluster = *own.cluster;
  check_tile(map, shared, "a TMA load", site);
  const auto offset = size_t(static_cast<char*>(shared) - own.shared);
  const auto barrier_offset = size_t(static_cast<char*>(barrier) - own.shared);
  const auto bytes = int64_t(box_bytes(map));
  for (size_t rank = 0; rank < 32; ++rank) {
    if (!(blocks >> rank & 1)) continue;
    if (rank >= cluster.blocks.size())
      fail("a TMA load at %s: the cluster has no block %zu", describe_site(site).c_str(), rank);
    Block& block = *cluster.blocks[rank];
    if (cluster.mode != Mode::eager) {
      std::memset(block.shared + offset, 0xFF, size_t(bytes));
      std::memset(proxy_view(block) + offset, 0xFF, size_t(bytes));
    }
    race::bulk_write(block.shared + offset, size_t(bytes), site);
    issue(cluster, {[map, &block, offset, barrier_offset, x, y, bytes, site] {
                      land_load(map, block, offset, x, y);
                      const auto found = block.mbarriers.find(block.shared + barrier_offset);
                      if (found == block.mbarriers.end())
                        fail("a TMA load at %s: its mbarrier was not initialised",
                             describe_site(site).c_str());
                      race::bulk_landed(&found->second);
                      found->second.transactions -= bytes;
                      complete_if_done(found->second);
                    },
                    current, false});
  }
  maybe_yield();
}

void tma_store_2d(const void* map_address, const void* shared, int x, int y, Site site) {
  const TensorMap map = map_of(map_address, site);
  Block& block = *current->block;
  check_tile(map, shared, "a TMA store", site);
  const auto offset = size_t(static_cast<const char*>(shared) - block.shared);
  proxy_view(block);
  race::bulk_read(shared, box_bytes(map), site);
  block.cluster->bulk.push_back({[map, &block, offset, x, y] {
                                   each_unit(map, offset, x, y, [&](size_t at, const char* to) {
                                     if (to)
                                       std::memcpy(const_cast<char*>(to), block.proxy + at,
                                                   map.element_bytes);
                                   });
                                 },
                                 current, true});
}

void tma_store_commit() {
  auto& bulk = current->block->cluster->bulk;
  int group = -1;
  for (const BulkCopy& copy : bulk)
    if (copy.is_store && copy.issuer == current) group = std::max(group, copy.group);
  for (BulkCopy& copy : bulk)
    if (copy.is_store && copy.issuer == current && copy.group < 0) copy.group = group + 1;
}

void tma_store_wait(int left, Site) {
  auto& bulk = current->block->cluster->bulk;
  std::vector<int> groups;
  for (const BulkCopy& copy : bulk)
    if (copy.is_store && copy.issuer == current && copy.group >= 0 &&
        std::find(groups.begin(), groups.end(), copy.group) == groups.end())
      groups.push_back(copy.group);
  std::sort(groups.begin(), groups.end());
  if (groups.size() <= size_t(left)) return;
  const int last = groups[groups.size() - size_t(left) - 1];
  for (size_t i = 0; i < bulk.size();) {
    if (bulk[i].is_store && bulk[i].issuer == current && bulk[i].group >= 0 &&
        bulk[i].group <= last) {
      bulk[i].land();
      bulk.erase(bulk.begin() + long(i));
    } else {
      ++i;
    }
  }
}

// ---- Clusters

void cluster_arrive(Site) {
  Cluster& cluster = *current->block->cluster;
  unsigned threads = 0;
  for (const auto& block : cluster.blocks) threads += unsigned(block->threads.size());
  race::arrive(&cluster, current);
  current->cluster_generation = cluster.generation;
  if (++cluster.arrived < threads) return;
  cluster.arrived = 0;
  ++cluster.generation;
  race::complete(&cluster);
  for (Thread* waiter : cluster.waiters) wake(waiter);
  cluster.waiters.clear();
}

void cluster_wait(Site site) {
  Cluster& cluster = *current->block->cluster;
  if (cluster.generation == current->cluster_generation) {
    cluster.waiters.push_back(current);
    wait("the cluster's barrier", site);
  }
  race::acquire(&cluster, current);
}

// ---- wgmma

struct Wgmma {
  int n;
  uint64_t a, b;
  bool accumulate, transpose_a, transpose_b;
  void* d[128];
  Block* block;
  unsigned warpgroup;
  Site site;
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
    race::wgmma_issue(*op->block, op->warpgroup);
    group.open_group.push_back(op);
    if (mode_now() == Mode::eager) {
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
      for (const auto& op : ops)
        if (!op->executed) execute(*op);
      for (const auto& op : ops)
        if (!in_flight(group, op->d[0]) && group.accumulators.count(op->d[0]))
          write_back(group, op->d[0], *op);
    }
  });
}

void finish_block(Block& block) {
  for (const Warpgroup& group : block.warpgroups)
    if (!group.open_group.empty() || !group.groups.empty())
      fail("the block ended while a wgmma was in flight");
}

// ---- Warp-wide matrix instructions

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
