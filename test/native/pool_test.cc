// The pool runs every index once, rethrows a body's exception, and survives workers that are held
// up at any point.
#include "cpu/pool.h"

#include <atomic>
#include <string>
#include <vector>

#include "native_test.h"

using polylora::cpu::InstructionSet;
using polylora::cpu::KernelError;
using polylora::cpu::Pool;
using polylora::cpu::Worker;

namespace {

// More workers than processors, and jobs so short that workers arrive when a job is over or about
// to be: a worker that reads the job's function after the job was taken down calls nothing.
bool runs_every_index_once(int threads) {
  Pool pool(threads, InstructionSet::portable);
  for (int job = 0; job < 20000; ++job) {
    const int64_t count = 1 + job % 7;
    std::vector<int> seen(size_t(count), 0);
    pool.parallel(count, [&](int64_t index, Worker&) {
      ++seen[size_t(index)];
      if (job % 64 == 0) std::this_thread::yield();
    });
    for (int times : seen)
      if (times != 1) return false;
  }
  return true;
}

bool rethrows_and_goes_on(int threads) {
  Pool pool(threads, InstructionSet::portable);
  for (int job = 0; job < 2000; ++job) {
    bool thrown = false;
    try {
      pool.parallel(5, [&](int64_t index, Worker&) {
        if (index == job % 5) throw KernelError("planned");
      });
    } catch (const KernelError&) {
      thrown = true;
    }
    if (!thrown) return false;
    std::atomic<int> count{0};
    pool.parallel(5, [&](int64_t, Worker&) { ++count; });
    if (count != 5) return false;
  }
  return true;
}

}  // namespace

int main() {
  using polylora::test::expect;
  for (int threads : {1, 2, 4, 7}) {
    const std::string with = " with " + std::to_string(threads) + " threads";
    expect(runs_every_index_once(threads), "every index runs once" + with);
    expect(rethrows_and_goes_on(threads),
           "an exception of a body arrives, and the pool goes on" + with);
  }
  return polylora::test::report();
}
