#include "fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <new>

#include "sanitize.h"

#if defined(__x86_64__) && !defined(POLYLORA_FIBERS_UCONTEXT)
#define PL_FIBER_ASM 1
#else
#include <ucontext.h>
#endif

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#ifdef PL_FIBER_ASM
extern "C" void polylora_fiber_switch(void** from, void* to);
// Saves what the calling convention says a callee keeps. `pop; jmp` rather than `ret`: the
// processor's return predictor would guess wrong every time.
asm(R"(
.text
.type polylora_fiber_switch,@function
.hidden polylora_fiber_switch
.globl polylora_fiber_switch
polylora_fiber_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  popq %rcx
  jmpq *%rcx
.size polylora_fiber_switch,.-polylora_fiber_switch
)");
#endif

namespace polylora::emulator {

#ifdef PL_FIBER_ASM

struct Fiber::Context {};

#else

struct Fiber::Context {
  ucontext_t own, caller;
};

#endif

Fiber::Fiber(void (*entry)(), size_t stack_bytes, size_t stagger) : bytes_(stack_bytes) {
  memory_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory_ == MAP_FAILED) throw std::bad_alloc();
  mprotect(memory_, 4096, PROT_NONE);  // a stack that overflows faults
#ifdef PL_FIBER_ASM
  // Staggered, or the tops of all stacks would compete for the same lines of the cache.
  auto top = (reinterpret_cast<uintptr_t>(memory_) + bytes_ - stagger) & ~uintptr_t(63);
  void** stack = reinterpret_cast<void**>(top);
  *--stack = nullptr;  // as if `entry` had been called: the stack is 8 off a multiple of 16
  *--stack = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; ++i) *--stack = nullptr;
  own_ = stack;
#else
  context_ = std::make_unique<Context>();
  getcontext(&context_->own);
  context_->own.uc_stack.ss_sp = static_cast<char*>(memory_) + 4096;
  context_->own.uc_stack.ss_size = bytes_ - 4096 - (stagger & ~size_t(63));
  context_->own.uc_link = nullptr;
  makecontext(&context_->own, entry, 0);
#endif
}

Fiber::~Fiber() {
  allow(memory_, bytes_);
  munmap(memory_, bytes_);
}

// AddressSanitizer wants to know of a switch before, and after.
void Fiber::enter() {
#if defined(__SANITIZE_ADDRESS__)
  void* saved;
  __sanitizer_start_switch_fiber(&saved, memory_, bytes_);
#endif
#ifdef PL_FIBER_ASM
  polylora_fiber_switch(&caller_, own_);
#else
  swapcontext(&context_->caller, &context_->own);
#endif
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(saved, nullptr, nullptr);
#endif
}

void Fiber::arrived() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(saved_, &caller_stack_, &caller_bytes_);
#endif
}

void Fiber::leave() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&saved_, caller_stack_, caller_bytes_);
#endif
#ifdef PL_FIBER_ASM
  polylora_fiber_switch(&own_, caller_);
#else
  swapcontext(&context_->own, &context_->caller);
#endif
  arrived();
}

}  // namespace polylora::emulator
