// Operations of a device's library, without Node.
//
//   cuda_cases list [small]              the names of the cases, one a line
//   cuda_cases check LIBRARY             the small cases against the CPU's float32 and bf16 kernels
//   cuda_cases time LIBRARY [small] [NAME ...]   those cases, or all; a line each: name,
//                                        milliseconds, the fastest, float operations, bytes
//
// A case is queued until some 50 ms have passed between two synchronisations, nine times; its time
// is the median of the nine. What it computed must be finite.
#include <dlfcn.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

#include "cases.h"

using namespace polylora::benchmark;

namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

const pl_device_table* open_table(const char* file) {
  void* const library = dlopen(file, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (!library) {
    std::fprintf(stderr, "%s could not be loaded: %s\n", file, dlerror());
    return nullptr;
  }
  const auto table =
      reinterpret_cast<const pl_device_table* (*)()>(dlsym(library, "polylora_device_table"));
  const auto probe = reinterpret_cast<pl_status (*)()>(dlsym(library, "polylora_device_probe"));
  if (!table || !probe || table()->abi_version != PL_ABI_VERSION ||
      table()->size != sizeof(pl_device_table)) {
    std::fprintf(stderr, "%s is no library of this version of polylora\n", file);
    return nullptr;
  }
  must(probe(), file);
  return table();
}

void run(const Prepared& prepared) {
  for (const auto& operation : prepared.operations) operation();
}

// Largest distance over the reference's largest magnitude.
double distance(const std::vector<float>& found, const std::vector<float>& wanted) {
  double most = 0, size = 1e-30;
  for (size_t i = 0; i < wanted.size(); ++i) {
    const double error = std::fabs(double(found[i]) - double(wanted[i]));
    if (!(error <= most)) most = error;  // NaN too
    size = std::max(size, std::fabs(double(wanted[i])));
  }
  return most / size;
}

int check(const pl_device_table& table) {
  int passed = 0, failed = 0;
  for (const Case& one : all_cases(true)) {
    Device device(table), cpu(*pl_cpu_device_table());
    if (passed + failed == 0) std::printf("on %s\n", device.name().c_str());
    const Prepared mine = one.prepare(device), wanted = one.prepare(cpu);
    run(mine);
    run(wanted);
    double worst = 0;
    for (size_t i = 0; i < mine.outputs.size(); ++i) {
      const double error = distance(device.read(mine.outputs[i]), cpu.read(wanted.outputs[i]));
      if (!(error <= worst)) worst = error;
    }
    const bool good = worst <= mine.tolerance;
    (good ? passed : failed) += 1;
    std::printf("%s %s: %.2g of at most %.2g\n", good ? "good" : "failed", one.name().c_str(),
                worst, mine.tolerance);
  }
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed ? 1 : 0;
}

// Prints the line of one case; false if what it computed is not finite.
bool time_case(const pl_device_table& table, const Case& one, bool quick) {
  Device device(table);
  const Prepared prepared = one.prepare(device);
  const auto seconds_of = [&](int64_t times) {
    const double begin = now();
    for (int64_t i = 0; i < times; ++i) run(prepared);
    device.finish();
    return now() - begin;
  };
  run(prepared);
  device.finish();
  for (const pl_tensor& output : prepared.outputs)
    for (const float value : device.read(output))
      if (!std::isfinite(value)) {
        std::fprintf(stderr, "%s: a value is %g\n", one.name().c_str(), double(value));
        return false;
      }
  const double once = seconds_of(3) / 3;
  const int64_t times = quick ? 1 : std::clamp(int64_t(0.05 / once), int64_t(3), int64_t(1000));
  std::vector<double> samples;
  for (int i = 0; i < (quick ? 1 : 9); ++i) samples.push_back(seconds_of(times) / double(times));
  std::sort(samples.begin(), samples.end());
  std::printf("%s\t%.6g\t%.6g\t%.6g\t%.6g\n", one.name().c_str(), samples[samples.size() / 2] * 1e3,
              samples[0] * 1e3, one.operations, one.bytes);
  std::fflush(stdout);
  return true;
}

int usage() {
  std::fprintf(
      stderr, "usage: cuda_cases list [small] | check LIBRARY | time LIBRARY [small] [NAME ...]\n");
  return 2;
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 2) return usage();
  const auto is = [&](int i, const char* word) {
    return i < count && std::strcmp(arguments[i], word) == 0;
  };
  if (is(1, "list")) {
    for (const Case& one : all_cases(is(2, "small"))) std::printf("%s\n", one.name().c_str());
    return 0;
  }
  if (count < 3 || (!is(1, "check") && !is(1, "time"))) return usage();
  const pl_device_table* const table = open_table(arguments[2]);
  if (!table) return 1;
  if (is(1, "check")) return check(*table);
  const bool small = is(3, "small");
  const int first = small ? 4 : 3;
  int failed = 0;
  for (const Case& one : all_cases(small)) {
    bool asked = first == count;
    for (int i = first; i < count; ++i) asked |= one.name() == arguments[i];
    if (asked && !time_case(*table, one, small)) ++failed;
  }
  return failed ? 1 : 0;
}
