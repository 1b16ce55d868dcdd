// The shared memory of the blocks that run: static arrays behind the dynamic bytes, each with a
// guard.
#include <new>

#include "async.h"
#include "executor.h"
#include "sanitize.h"

namespace polylora::emulator {

namespace {

constexpr size_t kGuard = 64;  // bytes behind every array, which must stay as they are
constexpr unsigned char kGuardByte = 0xA5;
constexpr size_t kArena = size_t(256) << 10;

// Never written means NaN.
void place_array(Block& block, size_t offset, size_t bytes) {
  allow(block.shared + offset, bytes + kGuard);
  std::memset(block.shared + offset, 0xFF, bytes);
  std::memset(block.shared + offset + bytes, kGuardByte, kGuard);
  forbid(block.shared + offset + bytes, kGuard);
}

}  // namespace

Executor::~Executor() {
  for (char* arena : arenas) {
    allow(arena, kArena);
    std::free(arena);
  }
}

void prepare_shared(Block& block, unsigned slot) {
  Executor& self = *executor;
  while (self.arenas.size() <= slot * 2 + 1) {
    void* arena = nullptr;
    if (posix_memalign(&arena, 1024, kArena)) throw std::bad_alloc();
    self.arenas.push_back(static_cast<char*>(arena));
  }
  block.shared = self.arenas[slot * 2];
  block.proxy = nullptr;
  forbid(block.shared, kArena);
  place_array(block, 0, self.cluster.shape->dynamic_shared);
  for (const StaticArray& array : self.arrays) place_array(block, array.offset, array.bytes);
}

void check_guards(const Block& block) {
  if (kSanitized) return;  // the write itself was reported
  for (const StaticArray& array : executor->arrays)
    for (size_t i = 0; i < kGuard; ++i)
      if (static_cast<unsigned char>(block.shared[array.offset + array.bytes + i]) != kGuardByte)
        fail("shared memory was written %zu bytes behind an array of %zu bytes", i, array.bytes);
  const size_t dynamic = block.cluster->shape->dynamic_shared;
  for (size_t i = 0; i < kGuard; ++i)
    if (static_cast<unsigned char>(block.shared[dynamic + i]) != kGuardByte)
      fail("shared memory was written %zu bytes behind the %zu dynamic bytes", i, dynamic);
}

void* static_shared(const void* key, size_t bytes, size_t alignment, Site site) {
  Executor& self = *executor;
  for (const StaticArray& array : self.arrays)
    if (array.key == key) return current->block->shared + array.offset;
  size_t end = self.cluster.shape->dynamic_shared + kGuard;
  for (const StaticArray& array : self.arrays) end = array.offset + array.bytes + kGuard;
  const size_t offset = (end + alignment - 1) / alignment * alignment;
  self.cluster.shared_bytes = (self.cluster.shared_bytes + alignment - 1) / alignment * alignment;
  self.cluster.shared_bytes += bytes;
  if (self.cluster.shared_bytes > self.cluster.shape->shared_limit)
    fail("the array at %s makes %zu bytes of shared memory, a block may have %zu",
         describe_site(site).c_str(), self.cluster.shared_bytes, self.cluster.shape->shared_limit);
  if (offset + bytes + kGuard > kArena) fail("the emulator's shared memory is full");
  self.arrays.push_back({key, offset, bytes});
  for (auto& block : self.cluster.blocks) place_array(*block, offset, bytes);
  return current->block->shared + offset;
}

void* dynamic_shared() { return current->block->shared; }

Block* block_of(const void* address) {
  for (auto& block : executor->cluster.blocks)
    if (address >= block->shared && address < block->shared + kArena) return block.get();
  return nullptr;
}

bool is_in_shared_array(const Block& block, const void* address, size_t bytes) {
  const auto* const at = static_cast<const char*>(address);
  if (at >= block.shared && at + bytes <= block.shared + block.cluster->shape->dynamic_shared)
    return true;
  for (const StaticArray& array : executor->arrays)
    if (at >= block.shared + array.offset &&
        at + bytes <= block.shared + array.offset + array.bytes)
      return true;
  return false;
}

void require_shared(const void* address, size_t bytes, const char* what, Site site) {
  const Block& block = *current->block;
  if (is_in_shared_array(block, address, bytes)) return;
  const auto* const at = static_cast<const char*>(address);
  if (at >= block.shared && at < block.shared + kArena)
    fail("%s at %s: %zu bytes at offset %td are outside every array of shared memory", what,
         describe_site(site).c_str(), bytes, at - block.shared);
  fail("%s at %s: the address is not in shared memory of its block", what,
       describe_site(site).c_str());
}

char* proxy_view(Block& block) {
  if (!block.proxy) {
    block.proxy = executor->arenas[block.rank * 2 + 1];
    std::memset(block.proxy, 0xFF, kArena);
  }
  return block.proxy;
}

void show_proxy(Block& block) {
  char* const proxy = proxy_view(block);
  std::memcpy(proxy, block.shared, block.cluster->shape->dynamic_shared);
  for (const StaticArray& array : executor->arrays)
    std::memcpy(proxy + array.offset, block.shared + array.offset, array.bytes);
}

size_t shared_extent(const Block& block) {
  size_t end = block.cluster->shape->dynamic_shared;
  for (const StaticArray& array : executor->arrays) end = array.offset + array.bytes;
  return end;
}

}  // namespace polylora::emulator
