// Bulk copies of the async proxy, by tensor maps.
#include <algorithm>

#include "async.h"
#include "race.h"

namespace polylora::emulator {

namespace {

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
  show_proxy(*current->block);
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
    race::write_issued(block.shared + offset, size_t(bytes), "a TMA load", site);
    issue(cluster, {[map, &own, &block, offset, barrier_offset, x, y, bytes, site] {
                      if (&block != &own && block.live == 0)
                        fail("a TMA load at %s: block %u of the cluster has ended",
                             describe_site(site).c_str(), block.rank);
                      land_load(map, block, offset, x, y);
                      char* const at = block.shared + barrier_offset;
                      const auto found = block.mbarriers.find(at);
                      if (found != block.mbarriers.end())
                        race::write_landed(block.shared + offset, size_t(bytes), &found->second,
                                           "a TMA load", site);
                      mbarrier_complete(block, at, bytes, site);
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
  const race::AsyncRead read = race::issue_read("a TMA store", site, false);
  race::check_read(read, shared, box_bytes(map));
  Thread* const issuer = current;
  block.cluster->bulk.push_back(
      {[map, &block, offset, x, y, read, issuer] {
         race::read_landed(read, block.shared + offset, box_bytes(map), issuer);
         each_unit(map, offset, x, y, [&](size_t at, const char* to) {
           if (to) std::memcpy(const_cast<char*>(to), block.proxy + at, map.element_bytes);
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

}  // namespace polylora::emulator
