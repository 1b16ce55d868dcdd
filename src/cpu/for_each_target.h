// Compiles the kernels of a file once for each instruction set, from one text. A file that wants it
// reads:
//
//   #define PL_TARGET_FILE "cpu/rms_norm.cc"  // itself
//   #include "cpu/for_each_target.h"          // after every other include
//   #ifdef PL_TARGET
//   namespace polylora::cpu::PL_TARGET {
//   namespace {
//   void rows(...) { ... Floats, kLanes, load(), fma() of cpu/vector.h ... }
//   }  // namespace
//   }  // namespace polylora::cpu::PL_TARGET
//   #else
//   ... void run_rms_norm(Pool& pool, ...) { ... PL_SELECT(pool, rows)(...) ... }
//   #endif
//
// Types that both parts use stand above the include, between `#ifndef PL_TARGET_FILE` and its
// definition.
//
// The part under PL_TARGET is compiled under `#pragma GCC target`. It must stay in its unnamed
// namespace and use no template and no inline function of the outside, the standard library's
// included: such a function would be emitted here with this instruction set, as a weak symbol that
// the linker may pick for the whole program. It must contain no lambda either: compilers disagree
// on whether a lambda inherits the target. Arithmetic is written out (fma() where a fused
// multiply-add is meant), as the build forbids contraction.
#ifndef PL_TARGET

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "cpu/pool.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define PL_TARGET avx512
#define PL_TARGET_AVX512 1
#ifdef __clang__
#pragma clang attribute push( \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#endif
#include "cpu/vector.h"
#include PL_TARGET_FILE
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#undef PL_TARGET
#undef PL_TARGET_AVX512

#define PL_TARGET avx2
#define PL_TARGET_AVX2 1
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#include "cpu/vector.h"
#include PL_TARGET_FILE
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#undef PL_TARGET
#undef PL_TARGET_AVX2

#define PL_SELECT(pool, function)                                                         \
  ((pool).instruction_set() >= ::polylora::cpu::InstructionSet::avx512 ? avx512::function \
   : (pool).instruction_set() == ::polylora::cpu::InstructionSet::avx2 ? avx2::function   \
                                                                       : portable::function)
#else
#define PL_SELECT(pool, function) ((void)(pool), portable::function)
#endif

#define PL_TARGET portable
#include "cpu/vector.h"
#include PL_TARGET_FILE
#undef PL_TARGET

#endif  // PL_TARGET
