// Race mode: the kernels are built with -fsanitize=thread, whose calls come here instead of to its
// own run-time library. They keep vector clocks over shared memory and the device's: two accesses
// of which one writes are a race unless a barrier orders them, and so is one to an array in which a
// copy is in flight. Addresses outside every array, and shared memory that nobody wrote, are
// reported as well.
//
// What orders: __syncthreads, named barriers, __syncwarp, mbarriers and the cluster's barrier; for
// cp.async its wait and then a barrier, for TMA its mbarrier, for wgmma its wait. Shuffles, votes
// and atomics order nothing. Blocks of one launch have no order but within a cluster.
//
// In other builds nothing is left of it.
#pragma once

#include <cstddef>

#include "emulator.h"

namespace polylora::emulator::race {

#ifdef POLYLORA_EMULATOR_RACE
constexpr bool kOn = true;

// A launch, and its next cluster of blocks.
void begin_grid();
void begin(Cluster& cluster);
// Memory that goes back to the system.
void forget(const void* address, size_t bytes);

// Threads of a warp that meet: each sees what all did before.
void meet(void* const* lanes, uint32_t mask);
// A barrier: who leaves it sees what all did before they arrived. depart() is acquire(), and by the
// last to come complete() before.
void arrive(const void* barrier, Thread* thread);
void complete(const void* barrier);
void acquire(const void* barrier, Thread* thread);
void depart(const void* barrier, Thread* thread, bool last);

// Accesses of instructions, which the compiler does not instrument: by the current thread, at once.
void read(const void* address, size_t bytes, const char* what, Site site);
void write(const void* address, size_t bytes, const char* what, Site site);
// Atomic operations race with plain accesses alone.
void atomic(const void* address, size_t bytes, const char* what, Site site);
// Of the code at `place`, a return address; anywhere, also outside a grid.
void access(const void* address, size_t bytes, bool is_write, uintptr_t place);

// A write that is under way: nobody may touch the bytes until it has landed. A cp.async lands when
// its thread has waited, a TMA load with its bytes at an mbarrier.
void write_issued(const void* address, size_t bytes, const char* what, Site site);
void write_landed(const void* address, size_t bytes, Thread* thread, const char* what, Site site);
void write_landed(const void* address, size_t bytes, const void* mbarrier, const char* what,
                  Site site);

// A read of the async proxy: at issue and when it is waited for, nothing may have written the bytes
// but what was ordered before the issue, and fenced if it was a thread's write.
struct AsyncRead {
  std::vector<uint32_t> seen, fenced;
  const char* what;
  Site site;
};
void fence_proxy(Thread* thread);
// By one thread (a TMA store), or all threads of the current warpgroup.
AsyncRead issue_read(const char* what, Site site, bool warpgroup);
void check_read(const AsyncRead& read, const void* address, size_t bytes);
// When it is waited for. First, once for all its bytes: the reader's clock goes on.
void read_ends(Block& block, unsigned warpgroup);
void read_landed(const AsyncRead& read, const void* address, size_t bytes, Thread* thread);
void read_landed(const AsyncRead& read, const void* address, size_t bytes, Block& block,
                 unsigned warpgroup);
#else
constexpr bool kOn = false;
struct AsyncRead {};
inline void begin_grid() {}
inline void begin(Cluster&) {}
inline void forget(const void*, size_t) {}
inline void meet(void* const*, uint32_t) {}
inline void arrive(const void*, Thread*) {}
inline void complete(const void*) {}
inline void acquire(const void*, Thread*) {}
inline void depart(const void*, Thread*, bool) {}
inline void read(const void*, size_t, const char*, Site) {}
inline void write(const void*, size_t, const char*, Site) {}
inline void atomic(const void*, size_t, const char*, Site) {}
inline void write_issued(const void*, size_t, const char*, Site) {}
inline void write_landed(const void*, size_t, Thread*, const char*, Site) {}
inline void write_landed(const void*, size_t, const void*, const char*, Site) {}
inline void fence_proxy(Thread*) {}
inline AsyncRead issue_read(const char*, Site, bool) { return {}; }
inline void check_read(const AsyncRead&, const void*, size_t) {}
inline void read_ends(Block&, unsigned) {}
inline void read_landed(const AsyncRead&, const void*, size_t, Thread*) {}
inline void read_landed(const AsyncRead&, const void*, size_t, Block&, unsigned) {}
#endif

}  // namespace polylora::emulator::race
