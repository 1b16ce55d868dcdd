// Makes the n-th system call on files below one folder fail, whoever makes it: Node, libuv or the
// addon. Preloaded (LD_PRELOAD) into a process that steers it by reading links that do not exist:
//
//   readlink("polylora-faults:arm:NTH:EFFECT:FOLDER")  counts from 1 from now on; 0 only counts
//   readlink("polylora-faults:end")                    ends it; gives the number of calls
//   readlink("polylora-faults:call:NTH")               gives "CALL PATH" of one of them, and
//                                                      " from PATH" where a name is moved or added,
//                                                      " failed" where it was refused by the system
//
// EFFECT is the number of an errno; `short` (a write moves one byte); `full` (this call and all
// later ones that take space fail with ENOSPC); `kill` (SIGKILL instead of the call); `torn`
// (SIGKILL after half of a write).
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#include <mutex>
#include <string>
#include <vector>

namespace {

enum class Effect { none, fail, one_byte, half };

struct State {
  std::mutex mutex;
  std::string folder;
  std::string mode;
  unsigned long nth = 0;
  std::vector<std::string> calls;
};

State& state() {
  static State* one = new State;  // never destroyed: calls may come while the process ends
  return *one;
}

thread_local size_t latest = 0;  // this thread's last call, counted from 1; 0: it is not watched

template <class Function>
Function* real(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

std::string path_of(int descriptor) {
  static const auto real_readlink = real<ssize_t(const char*, char*, size_t)>("readlink");
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  const ssize_t length = real_readlink(link, path, sizeof path);
  return length > 0 ? std::string(path, size_t(length)) : std::string();
}

bool is_below(const std::string& path, const std::string& folder) {
  return path.compare(0, folder.size(), folder) == 0 &&
         (path.size() == folder.size() || path[folder.size()] == '/');
}

// What is to happen to this call; sets errno where it fails.
Effect fault(const char* call, const std::string& path, bool takes_space, bool writes,
             const char* from = nullptr) {
  State& self = state();
  std::lock_guard<std::mutex> lock(self.mutex);
  latest = 0;
  if (self.folder.empty() || !is_below(path, self.folder)) return Effect::none;
  self.calls.push_back(std::string(call) + " " + path + (from ? std::string(" from ") + from : ""));
  latest = self.calls.size();
  const bool is_hit = latest == self.nth;
  if (self.mode == "full") {
    if (self.nth == 0 || self.calls.size() < self.nth || !takes_space) return Effect::none;
    errno = ENOSPC;
    return Effect::fail;
  }
  if (!is_hit) return Effect::none;
  if (self.mode == "short") return writes ? Effect::one_byte : Effect::none;
  if (self.mode == "torn" && writes) return Effect::half;
  if (self.mode == "kill" || self.mode == "torn") kill(getpid(), SIGKILL);
  errno = atoi(self.mode.c_str());
  return Effect::fail;
}

// What a call that gives names has given, which the list tells if it is nothing.
int named(int result) {
  const int error = errno;
  State& self = state();
  std::lock_guard<std::mutex> lock(self.mutex);
  if (result != 0 && latest >= 1 && latest <= self.calls.size())
    self.calls[latest - 1] += " failed";
  errno = error;
  return result;
}

Effect fault_of(const char* call, int descriptor, bool takes_space, bool writes) {
  {
    // Most calls are none of ours: sockets, pipes, the terminal.
    State& self = state();
    std::lock_guard<std::mutex> lock(self.mutex);
    if (self.folder.empty()) return Effect::none;
  }
  return fault(call, path_of(descriptor), takes_space, writes);
}

size_t fewer(Effect effect, size_t bytes) {
  return effect == Effect::one_byte ? (bytes < 1 ? bytes : 1) : bytes / 2;
}

void end_if_torn(Effect effect) {
  if (effect == Effect::half) kill(getpid(), SIGKILL);
}

std::string steer(const std::string& command) {
  State& self = state();
  std::lock_guard<std::mutex> lock(self.mutex);
  if (command == "end") {
    self.folder.clear();
    return std::to_string(self.calls.size());
  }
  unsigned long index = 0;
  if (sscanf(command.c_str(), "call:%lu", &index) == 1)
    return index >= 1 && index <= self.calls.size() ? self.calls[index - 1] : "?";
  char mode[16] = "", folder[3800] = "";
  if (sscanf(command.c_str(), "arm:%lu:%15[^:]:%3799[^\n]", &self.nth, mode, folder) != 3)
    return "?";
  self.mode = mode;
  self.folder = folder;
  self.calls.clear();
  return "armed";
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT ssize_t readlink(const char* path, char* buffer, size_t size) noexcept {
  static const auto next = real<ssize_t(const char*, char*, size_t)>("readlink");
  static const char prefix[] = "polylora-faults:";
  if (strncmp(path, prefix, sizeof prefix - 1) != 0) return next(path, buffer, size);
  const std::string answer = steer(path + sizeof prefix - 1);
  const size_t length = answer.size() < size ? answer.size() : size;
  memcpy(buffer, answer.data(), length);
  return ssize_t(length);
}

static int open_with(const char* name, int (*next)(const char*, int, ...), const char* path,
                     int flags, mode_t mode) {
  if (fault(flags & O_CREAT ? "create" : name, path, (flags & O_CREAT) != 0, false) == Effect::fail)
    return -1;
  return next(path, flags, mode);
}

EXPORT int open(const char* path, int flags, ...) {
  static const auto next = real<int(const char*, int, ...)>("open");
  va_list list;
  va_start(list, flags);
  const mode_t mode = flags & O_CREAT ? va_arg(list, mode_t) : 0;
  va_end(list);
  return open_with("open", next, path, flags, mode);
}

EXPORT int open64(const char* path, int flags, ...) {
  static const auto next = real<int(const char*, int, ...)>("open64");
  va_list list;
  va_start(list, flags);
  const mode_t mode = flags & O_CREAT ? va_arg(list, mode_t) : 0;
  va_end(list);
  return open_with("open", next, path, flags, mode);
}

EXPORT ssize_t write(int descriptor, const void* data, size_t bytes) {
  static const auto next = real<ssize_t(int, const void*, size_t)>("write");
  const Effect effect = fault_of("write", descriptor, true, true);
  if (effect == Effect::fail) return -1;
  if (effect == Effect::none) return next(descriptor, data, bytes);
  const ssize_t written = next(descriptor, data, fewer(effect, bytes));
  end_if_torn(effect);
  return written;
}

EXPORT ssize_t pwrite64(int descriptor, const void* data, size_t bytes, off64_t offset) {
  static const auto next = real<ssize_t(int, const void*, size_t, off64_t)>("pwrite64");
  const Effect effect = fault_of("write", descriptor, true, true);
  if (effect == Effect::fail) return -1;
  if (effect == Effect::none) return next(descriptor, data, bytes, offset);
  const ssize_t written = next(descriptor, data, fewer(effect, bytes), offset);
  end_if_torn(effect);
  return written;
}

EXPORT ssize_t writev(int descriptor, const struct iovec* parts, int count) {
  static const auto next = real<ssize_t(int, const struct iovec*, int)>("writev");
  static const auto next_write = real<ssize_t(int, const void*, size_t)>("write");
  const Effect effect = fault_of("write", descriptor, true, true);
  if (effect == Effect::fail) return -1;
  if (effect == Effect::none || count < 1) return next(descriptor, parts, count);
  const ssize_t written =
      next_write(descriptor, parts[0].iov_base, fewer(effect, parts[0].iov_len));
  end_if_torn(effect);
  return written;
}

EXPORT ssize_t sendfile64(int out, int in, off64_t* offset, size_t bytes) noexcept {
  static const auto next = real<ssize_t(int, int, off64_t*, size_t)>("sendfile64");
  const Effect effect = fault_of("sendfile", out, true, true);
  if (effect == Effect::fail) return -1;
  if (effect == Effect::none) return next(out, in, offset, bytes);
  const ssize_t written = next(out, in, offset, fewer(effect, bytes));
  end_if_torn(effect);
  return written;
}

EXPORT int fsync(int descriptor) {
  static const auto next = real<int(int)>("fsync");
  return fault_of("sync", descriptor, false, false) == Effect::fail ? -1 : next(descriptor);
}

EXPORT int fdatasync(int descriptor) {
  static const auto next = real<int(int)>("fdatasync");
  return fault_of("sync", descriptor, false, false) == Effect::fail ? -1 : next(descriptor);
}

EXPORT int ftruncate64(int descriptor, off64_t size) noexcept {
  static const auto next = real<int(int, off64_t)>("ftruncate64");
  return fault_of("truncate", descriptor, false, false) == Effect::fail ? -1
                                                                        : next(descriptor, size);
}

EXPORT int rename(const char* from, const char* to) noexcept {
  static const auto next = real<int(const char*, const char*)>("rename");
  return fault("rename", to, false, false, from) == Effect::fail ? -1 : named(next(from, to));
}

EXPORT int renameat2(int from_folder, const char* from, int to_folder, const char* to,
                     unsigned int flags) noexcept {
  static const auto next = real<int(int, const char*, int, const char*, unsigned int)>("renameat2");
  return fault("exchange", to, false, false, from) == Effect::fail
             ? -1
             : named(next(from_folder, from, to_folder, to, flags));
}

EXPORT int link(const char* from, const char* to) noexcept {
  static const auto next = real<int(const char*, const char*)>("link");
  return fault("link", to, true, false, from) == Effect::fail ? -1 : named(next(from, to));
}

EXPORT int mkdir(const char* path, mode_t mode) noexcept {
  static const auto next = real<int(const char*, mode_t)>("mkdir");
  return fault("mkdir", path, true, false) == Effect::fail ? -1 : named(next(path, mode));
}

EXPORT int unlink(const char* path) noexcept {
  static const auto next = real<int(const char*)>("unlink");
  return fault("unlink", path, false, false) == Effect::fail ? -1 : next(path);
}

EXPORT int rmdir(const char* path) noexcept {
  static const auto next = real<int(const char*)>("rmdir");
  return fault("rmdir", path, false, false) == Effect::fail ? -1 : next(path);
}
