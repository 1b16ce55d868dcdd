// cp.async: copies of one thread, in groups that it waits for.
#include "async.h"
#include "race.h"

namespace polylora::emulator {

namespace {

void land(AsyncCopy& copy) {
  std::memcpy(copy.to, copy.from, copy.read);
  std::memset(copy.to + copy.read, 0, copy.bytes - copy.read);
  copy.landed = true;
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
  if (read) race::read(global, size_t(read), "cp.async", site);
  race::write_issued(shared, size_t(bytes), "cp.async", site);
  AsyncCopy copy = {static_cast<char*>(shared), static_cast<const char*>(global), unsigned(bytes),
                    unsigned(read), site};
  Cluster& cluster = *current->block->cluster;
  if (cluster.mode == Mode::eager || (cluster.mode == Mode::random && cluster.draw() % 2))
    land(copy);
  else
    std::memset(copy.to, 0xFF, copy.bytes);
  current->open_group.push_back(copy);
}

void cp_async_commit() {
  current->groups.push_back(std::move(current->open_group));
  current->open_group.clear();
}

void cp_async_wait(int left) {
  while (current->groups.size() > size_t(left)) {
    for (AsyncCopy& copy : current->groups.front()) {
      if (!copy.landed) land(copy);
      race::write_landed(copy.to, copy.bytes, current, "cp.async", copy.site);
    }
    current->groups.pop_front();
  }
  maybe_yield();
}

void finish_thread(Thread& thread) {
  bool pending = !thread.open_group.empty();
  for (const auto& group : thread.groups) pending = pending || !group.empty();
  if (pending) fail("the thread ended while copies of its cp.async were in flight");
  for (const BulkCopy& copy : thread.block->cluster->bulk)
    if (copy.is_store && copy.issuer == &thread)
      fail("the thread ended while a TMA store of its was still to read shared memory");
  thread.groups.clear();
}

}  // namespace polylora::emulator
