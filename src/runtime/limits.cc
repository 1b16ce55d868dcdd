#include "runtime/limits.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <memory>
#include <sstream>
#include <string>

namespace polylora {

namespace {

constexpr const char* kRoot = "/sys/fs/cgroup";

bool read_text(const std::string& path, std::string* out) {
  std::ifstream file(path);
  if (!file) return false;
  std::ostringstream text;
  text << file.rdbuf();
  *out = text.str();
  return true;
}

// The number after `key` in a file of "key value" lines; after nothing if key is empty. False for
// "max".
bool read_number(const std::string& path, const std::string& key, double* out) {
  std::string text;
  if (!read_text(path, &text)) return false;
  size_t at = 0;
  if (!key.empty()) {
    at = text.compare(0, key.size(), key) == 0 ? 0 : text.find("\n" + key);
    if (at == std::string::npos) return false;
    at = text.find_first_of(" \t", at);
    if (at == std::string::npos) return false;
  }
  char* end = nullptr;
  const double value = std::strtod(text.c_str() + at, &end);
  if (end == text.c_str() + at) return false;
  *out = value;
  return true;
}

// Visits this process's group of a controller and every group above it; `controller` empty means
// version 2.
void each_group(const std::string& controller,
                const std::function<void(const std::string& folder)>& visit) {
  std::string text;
  if (!read_text("/proc/self/cgroup", &text)) return;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    // id:controllers:path
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string names = "," + line.substr(first + 1, second - first - 1) + ",";
    const bool matches = controller.empty()
                             ? names == ",,"
                             : names.find("," + controller + ",") != std::string::npos;
    if (!matches) continue;
    const std::string mount = controller.empty() ? kRoot : std::string(kRoot) + "/" + controller;
    std::string path = line.substr(second + 1);
    for (;;) {
      while (!path.empty() && path.back() == '/') path.pop_back();
      visit(mount + path);
      if (path.empty()) return;
      path.resize(path.rfind('/') == std::string::npos ? 0 : path.rfind('/'));
    }
  }
}

int affinity() {
  // A machine may have more processors than a cpu_set_t; the kernel says EINVAL until the mask is
  // large enough.
  for (int count = 1024; count <= 1 << 18; count *= 4) {
    cpu_set_t* set = CPU_ALLOC(size_t(count));
    if (!set) break;
    const size_t bytes = CPU_ALLOC_SIZE(size_t(count));
    const int result = sched_getaffinity(0, bytes, set);
    const int error = errno;
    const int processors = result == 0 ? CPU_COUNT_S(bytes, set) : 0;
    CPU_FREE(set);
    if (result == 0) return processors;
    if (error != EINVAL) break;
  }
  return int(sysconf(_SC_NPROCESSORS_ONLN));
}

}  // namespace

int available_processors() {
  double least = std::max(affinity(), 1);
  const auto limit = [&](double quota, double period) {
    if (quota > 0 && period > 0) least = std::min(least, std::ceil(quota / period));
  };
  each_group("", [&](const std::string& folder) {
    std::string text;
    double quota, period;
    if (read_text(folder + "/cpu.max", &text) &&
        std::sscanf(text.c_str(), "%lf %lf", &quota, &period) == 2)
      limit(quota, period);
  });
  each_group("cpu", [&](const std::string& folder) {
    double quota, period;
    if (read_number(folder + "/cpu.cfs_quota_us", "", &quota) &&
        read_number(folder + "/cpu.cfs_period_us", "", &period))
      limit(quota, period);
  });
  return std::max(int(least), 1);
}

uint64_t available_memory() {
  double least = HUGE_VAL, value;
  if (read_number("/proc/meminfo", "MemAvailable:", &value)) least = value * 1024;
  // Pages of files that were only read are given back before a group runs out.
  const auto group = [&](const std::string& folder, const char* limit, const char* usage,
                         const char* cache) {
    double most, used, inactive = 0;
    if (!read_number(folder + limit, "", &most) || !read_number(folder + usage, "", &used)) return;
    read_number(folder + "/memory.stat", cache, &inactive);
    least = std::min(least, std::max(most - std::max(used - inactive, 0.0), 0.0));
  };
  each_group("", [&](const std::string& folder) {
    group(folder, "/memory.max", "/memory.current", "inactive_file");
  });
  each_group("memory", [&](const std::string& folder) {
    group(folder, "/memory.limit_in_bytes", "/memory.usage_in_bytes", "total_inactive_file");
  });
  return least < 1e18 ? uint64_t(least) : 0;
}

}  // namespace polylora
