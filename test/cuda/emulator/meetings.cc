// Where threads meet: warps, warpgroups, and the barriers of a block.
#include "async.h"
#include "race.h"

namespace polylora::emulator {

void meet_warp(uint32_t mask, const char* what, Site site, void* mine,
               const std::function<void(void* const*, uint32_t)>& act) {
  Thread& self = *current;
  const unsigned lane = self.lane();
  const unsigned first = self.warp() * 32;
  const unsigned lanes = unsigned(self.block->threads.size()) - first;
  if (lanes < 32) mask &= (1u << lanes) - 1;
  if (!(mask >> lane & 1))
    fail("%s at %s: the mask %08x does not name the calling lane %u", what,
         describe_site(site).c_str(), mask, lane);
  auto& meetings = self.block->warps[self.warp()];
  Meeting* meeting = nullptr;
  for (Meeting& open : meetings)
    if (open.arrived && open.mask == mask) meeting = &open;
  for (Meeting& open : meetings)
    if (open.arrived && &open != meeting && (open.mask & mask))
      fail("%s at %s with mask %08x: other lanes of it are at %s at %s with mask %08x", what,
           describe_site(site).c_str(), mask, open.what, describe_site(open.site).c_str(),
           open.mask);
  if (!meeting) {
    for (Meeting& open : meetings)
      if (!open.arrived) meeting = &open;
    if (!meeting) {
      meetings.emplace_back();
      meeting = &meetings.back();
    }
    meeting->mask = mask;
    meeting->what = what;
    meeting->site = site;
    meeting->expected = unsigned(__builtin_popcount(mask));
  } else if (std::strcmp(meeting->what, what) != 0) {
    fail("%s at %s: other lanes of its mask are at %s at %s", what, describe_site(site).c_str(),
         meeting->what, describe_site(meeting->site).c_str());
  }
  meeting->slots[lane] = mine;
  if (++meeting->arrived < meeting->expected) {
    meeting->waiters.push_back(&self);
    wait(what, site);
    return;
  }
  act(meeting->slots, mask);
  for (Thread* waiter : meeting->waiters) wake(waiter);
  meeting->waiters.clear();
  meeting->arrived = 0;
}

void meet_warpgroup(const char* what, Site site, void* mine,
                    const std::function<void(void* const*)>& act) {
  Thread& self = *current;
  Meeting& meeting = self.block->warpgroups[self.linear / 128].meeting;
  if (self.linear / 128 * 128 + 128 > self.block->threads.size())
    fail("%s at %s: a warpgroup is 128 threads, the block ends before", what,
         describe_site(site).c_str());
  if (meeting.arrived == 0) {
    meeting.what = what;
    meeting.site = site;
  } else if (std::strcmp(meeting.what, what) != 0) {
    fail("%s at %s: other threads of the warpgroup are at %s at %s", what,
         describe_site(site).c_str(), meeting.what, describe_site(meeting.site).c_str());
  }
  meeting.slots[self.linear % 128] = mine;
  if (++meeting.arrived < 128) {
    meeting.waiters.push_back(&self);
    wait(what, site);
    return;
  }
  act(meeting.slots);
  for (Thread* waiter : meeting.waiters) wake(waiter);
  meeting.waiters.clear();
  meeting.arrived = 0;
}

namespace {

Barrier& arrive_at(unsigned id, unsigned threads, bool same_line, Site site) {
  Thread& self = *current;
  if (id > 15) fail("barrier %u at %s: 0 to 15 are allowed", id, describe_site(site).c_str());
  Barrier& barrier = self.block->barriers[id];
  if (barrier.arrived == 0) {
    barrier.expected = threads;
    barrier.site = site;
  } else if (barrier.expected != threads) {
    fail("barrier %u at %s for %u threads: at %s it was for %u", id, describe_site(site).c_str(),
         threads, describe_site(barrier.site).c_str(), barrier.expected);
  } else if (same_line && barrier.site.line != site.line) {
    fail("__syncthreads at %s: other threads are at the one at %s", describe_site(site).c_str(),
         describe_site(barrier.site).c_str());
  }
  ++barrier.arrived;
  return barrier;
}

void open_if_full(Barrier& barrier) {
  if (barrier.arrived < barrier.expected) return;
  for (Thread* waiter : barrier.waiters) wake(waiter);
  barrier.waiters.clear();
  barrier.arrived = 0;
}

}  // namespace

void sync_threads(Site site) {
  Thread& self = *current;
  Barrier& barrier = arrive_at(0, unsigned(self.block->threads.size()), true, site);
  race::arrive(&barrier, &self);
  if (barrier.arrived == barrier.expected) {
    race::depart(&barrier, &self, true);
    open_if_full(barrier);
  } else {
    barrier.waiters.push_back(&self);
    wait("__syncthreads", site);
    race::depart(&barrier, &self, false);
  }
}

void barrier_sync(unsigned id, unsigned threads, Site site) {
  Thread& self = *current;
  if (threads % 32 || threads == 0)
    fail("barrier %u at %s for %u threads: whole warps are allowed", id,
         describe_site(site).c_str(), threads);
  Barrier& barrier = arrive_at(id, threads, false, site);
  race::arrive(&barrier, &self);
  if (barrier.arrived == barrier.expected) {
    race::depart(&barrier, &self, true);
    open_if_full(barrier);
  } else {
    barrier.waiters.push_back(&self);
    wait("a named barrier", site);
    race::depart(&barrier, &self, false);
  }
}

void barrier_arrive(unsigned id, unsigned threads, Site site) {
  Barrier& barrier = arrive_at(id, threads, false, site);
  race::arrive(&barrier, current);
  if (barrier.arrived == barrier.expected) race::complete(&barrier);
  open_if_full(barrier);
}

}  // namespace polylora::emulator
