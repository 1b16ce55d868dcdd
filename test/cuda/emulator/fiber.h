// Fibers: stacks that one OS thread switches between. On x86-64 a switch is a dozen instructions;
// elsewhere it goes through ucontext.
#pragma once

#include <cstddef>
#include <memory>

namespace polylora::emulator {

class Fiber {
 public:
  // `entry` never returns: it ends in a switch away that is never switched back from.
  Fiber(void (*entry)(), size_t stack_bytes, size_t stagger);
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // From the scheduler: runs the fiber until it calls leave().
  void enter();
  // From the fiber: first when `entry` begins, then back to the scheduler's enter().
  void arrived();
  void leave();

  bool holds(const void* address) const {
    return address >= memory_ && address < static_cast<char*>(memory_) + bytes_;
  }

 private:
  struct Context;
  void* memory_;
  size_t bytes_;
  void* own_ = nullptr;  // stack pointers while switched away
  void* caller_ = nullptr;
  // For AddressSanitizer.
  void* saved_ = nullptr;
  const void* caller_stack_ = nullptr;
  size_t caller_bytes_ = 0;
  std::unique_ptr<Context> context_;
};

}  // namespace polylora::emulator
