// Every system call that the library makes on files, in one place where tests can make any of them
// fail.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>

#include "runtime/failure.h"

namespace polylora::io {

// A fault of one system call, for tests.
struct Fault {
  std::string call;  // open, read, write, sync, rename, unlink, syncFolder
  uint64_t nth = 0;  // counted from 1, from when it was injected; 0 is no fault
  std::string
      error;  // an errno name such as ENOSPC; "short" transfers one byte; EINTR happens once
};

// A file descriptor, closed at the end.
class File {
 public:
  File() = default;
  explicit File(int descriptor) : descriptor_(descriptor) {}
  File(File&& other) noexcept : descriptor_(other.descriptor_) { other.descriptor_ = -1; }
  File& operator=(File&& other) noexcept {
    if (this != &other) {
      close();
      descriptor_ = other.descriptor_;
      other.descriptor_ = -1;
    }
    return *this;
  }
  ~File() { close(); }

  int descriptor() const { return descriptor_; }
  bool is_open() const { return descriptor_ >= 0; }
  void close();

 private:
  int descriptor_ = -1;
};

// All calls are retried when interrupted, and throw Failure "Io" with the path and the reason.
class FileSystem {
 public:
  // Throws Argument if the fault names no call or no error that is known.
  void inject(Fault fault);

  // A regular file, to read; symbolic links are followed. `size` is its size now.
  File open_to_read(const std::string& path, uint64_t* size);
  // Reads exactly `bytes` at `offset`; throws Format if the file ends before.
  void read(const File& file, const std::string& path, void* data, size_t bytes, uint64_t offset);

  // Creates or empties a file; a symbolic link is refused.
  File open_to_write(const std::string& path);
  void write(const File& file, const std::string& path, const void* data, size_t bytes);
  void sync(const File& file, const std::string& path);
  void rename(const std::string& from, const std::string& to);
  // Swaps what two names stand for, in one step; false if the file system cannot do that.
  bool exchange(const std::string& a, const std::string& b);
  // The folder that holds `path`: makes a rename in it durable.
  void sync_folder_of(const std::string& path);
  // Says nothing about failures.
  void remove(const std::string& path) noexcept;

 private:
  enum class Effect { none, fail, one_byte };
  Effect fault(const char* call);
  [[noreturn]] void fail(const char* doing, const std::string& path, int error);

  std::mutex mutex_;
  Fault fault_;
  int fault_errno_ = 0;
  uint64_t calls_ = 0;
};

// An advisory lock on `path`, held while the file is open: on the folder that is there, else on a
// file, which is created if need be. Not open if another holds it.
File lock_file(const std::string& path);

}  // namespace polylora::io
