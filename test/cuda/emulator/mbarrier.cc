// mbarriers, and the barrier of a cluster.
#include "async.h"
#include "race.h"

namespace polylora::emulator {

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
  race::read(address, 8, "mbarrier.arrive", site);
  race::arrive(&barrier, current);
  barrier.transactions += bytes;
  --barrier.pending;
  complete_if_done(barrier);
}

}  // namespace

void mbarrier_init(void* address, int arrivals, Site site) {
  require_shared(address, 8, "mbarrier.init", site);
  race::write(address, 8, "mbarrier.init", site);
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
  if (block.live == 0)
    fail("mbarrier.arrive at %s: block %d of the cluster has ended", describe_site(site).c_str(),
         rank);
  arrive(block, block.shared + (static_cast<char*>(address) - current->block->shared), 0, site);
  maybe_yield();
}

void mbarrier_wait(void* address, int parity, Site site) {
  MBarrier& barrier = mbarrier_at(*current->block, address, site);
  if (parity != 0 && parity != 1)
    fail("mbarrier wait at %s: parity %d", describe_site(site).c_str(), parity);
  race::read(address, 8, "mbarrier wait", site);
  if ((barrier.phase & 1) == unsigned(parity)) {
    barrier.waiters.push_back({current, unsigned(parity)});
    wait("an mbarrier", site);
  }
  race::acquire(&barrier, current);
}

void mbarrier_complete(Block& block, void* address, int64_t bytes, Site site) {
  MBarrier& barrier = mbarrier_at(block, address, site);
  barrier.transactions -= bytes;
  complete_if_done(barrier);
}

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

}  // namespace polylora::emulator
