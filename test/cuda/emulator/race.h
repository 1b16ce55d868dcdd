// Race mode: the kernels are built with -fsanitize=thread, whose calls come here instead of to its
// own run-time library, and keep vector clocks over shared memory. In other builds nothing is left
// of it.
#pragma once

#include <cstddef>

#include "emulator.h"

namespace polylora::emulator::race {

#ifdef POLYLORA_EMULATOR_RACE
void begin(Cluster& cluster);
void switch_to(Thread* thread);
// Lanes of a warp that meet: each sees what all did before.
void meet(Thread* const* others, size_t count, Thread* last);
// A barrier: what threads did before they arrive is seen by those that leave it.
void arrive(void* barrier, Thread* thread);
void complete(void* barrier);
void depart(void* barrier, Thread* thread, bool last);
void acquire(void* barrier, Thread* thread);
// Accesses of instructions, which the compiler does not instrument.
void read(const void* address, size_t bytes, const char* what, Site site);
void write(const void* address, size_t bytes, const char* what, Site site);
// The async proxy: acts for the thread that issued, and sees what that one has fenced.
void fence_proxy(Thread* thread);
void bulk_read(const void* address, size_t bytes, Site site);
void bulk_write(const void* address, size_t bytes, Site site);
void bulk_landed(void* barrier);
void wgmma_issue(Block& block, unsigned warpgroup);
#else
inline void begin(Cluster&) {}
inline void switch_to(Thread*) {}
inline void meet(Thread* const*, size_t, Thread*) {}
inline void arrive(void*, Thread*) {}
inline void complete(void*) {}
inline void depart(void*, Thread*, bool) {}
inline void acquire(void*, Thread*) {}
inline void fence_proxy(Thread*) {}
inline void bulk_read(const void*, size_t, Site) {}
inline void bulk_write(const void*, size_t, Site) {}
inline void bulk_landed(void*) {}
inline void wgmma_issue(Block&, unsigned) {}
inline void read(const void*, size_t, const char*, Site) {}
inline void write(const void*, size_t, const char*, Site) {}
#endif

}  // namespace polylora::emulator::race
