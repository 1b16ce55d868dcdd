#include "io/file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace polylora::io {

namespace {

struct NamedError {
  const char* name;
  int error;
};
constexpr NamedError kErrors[] = {{"EINTR", EINTR},   {"ENOSPC", ENOSPC}, {"EIO", EIO},
                                  {"EDQUOT", EDQUOT}, {"EACCES", EACCES}, {"EROFS", EROFS},
                                  {"ENOENT", ENOENT}, {"EMFILE", EMFILE}, {"short", 0}};
constexpr const char* kCalls[] = {"open",   "read",   "write",     "sync",
                                  "rename", "unlink", "syncFolder"};

// Linux moves at most this much in one call.
constexpr size_t kMostBytes = size_t(1) << 30;

std::string errno_text(int error) {
  char buffer[128];
  return strerror_r(error, buffer, sizeof buffer);
}

const char* errno_name(int error) {
  for (const NamedError& named : kErrors)
    if (named.error == error && error != 0) return named.name;
  switch (error) {
    case ENOTDIR:
      return "ENOTDIR";
    case EISDIR:
      return "EISDIR";
    case ELOOP:
      return "ELOOP";
    case EPERM:
      return "EPERM";
    case EFBIG:
      return "EFBIG";
    case ENAMETOOLONG:
      return "ENAMETOOLONG";
    case EBADF:
      return "EBADF";
    case ENOLCK:
      return "ENOLCK";
    case EOPNOTSUPP:
      return "EOPNOTSUPP";
    default:
      return "";
  }
}

Failure io_failure(const char* doing, const std::string& path, int error) {
  Failure failure("Io", path + " could not be " + doing + ": " + errno_text(error));
  failure.with("file", path);
  const std::string name = errno_name(error);
  failure.with("error", name.empty() ? std::to_string(error) : name);
  return failure;
}

}  // namespace

void File::close() {
  // Not retried: Linux has released the descriptor even when it says EINTR.
  if (descriptor_ >= 0) ::close(descriptor_);
  descriptor_ = -1;
}

void FileSystem::inject(Fault fault) {
  int error = 0;
  if (fault.nth != 0) {
    const bool known_call = std::any_of(std::begin(kCalls), std::end(kCalls),
                                        [&](const char* c) { return fault.call == c; });
    const auto named = std::find_if(std::begin(kErrors), std::end(kErrors),
                                    [&](const NamedError& e) { return fault.error == e.name; });
    if (!known_call || named == std::end(kErrors))
      throw Failure("Argument", "no fault is known for call \"" + fault.call + "\" and error \"" +
                                    fault.error + "\"");
    error = named->error;
  }
  std::lock_guard<std::mutex> lock(mutex_);
  fault_ = std::move(fault);
  fault_errno_ = error;
  calls_ = 0;
}

FileSystem::Effect FileSystem::fault(const char* call) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (fault_.nth == 0 || fault_.call != call || ++calls_ != fault_.nth) return Effect::none;
  if (fault_errno_ == 0) return Effect::one_byte;
  errno = fault_errno_;
  return Effect::fail;
}

void FileSystem::fail(const char* doing, const std::string& path, int error) {
  throw io_failure(doing, path, error);
}

File FileSystem::open_to_read(const std::string& path, uint64_t* size) {
  int descriptor;
  do {
    // Non-blocking, so that a FIFO cannot hold us here; regular files do not care.
    descriptor = fault("open") == Effect::fail
                     ? -1
                     : ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  } while (descriptor < 0 && errno == EINTR);
  if (descriptor < 0) fail("opened", path, errno);
  File file(descriptor);
  struct stat info;
  if (fstat(descriptor, &info) != 0) fail("examined", path, errno);
  if (!S_ISREG(info.st_mode))
    throw Failure("Format", path + " is not a regular file").with("file", path);
  *size = uint64_t(info.st_size);
  return file;
}

void FileSystem::read(const File& file, const std::string& path, void* data, size_t bytes,
                      uint64_t offset) {
  unsigned char* out = static_cast<unsigned char*>(data);
  while (bytes > 0) {
    const Effect effect = fault("read");
    const size_t wanted = effect == Effect::one_byte ? 1 : std::min(bytes, kMostBytes);
    const ssize_t got =
        effect == Effect::fail ? -1 : pread(file.descriptor(), out, wanted, off_t(offset));
    if (got < 0) {
      if (errno == EINTR) continue;
      fail("read", path, errno);
    }
    if (got == 0)
      throw Failure("Format", path + " ended at byte " + std::to_string(offset) + ", " +
                                  std::to_string(bytes) +
                                  " bytes early: it changed while it was read")
          .with("file", path);
    out += got;
    bytes -= size_t(got);
    offset += uint64_t(got);
  }
}

File FileSystem::open_to_write(const std::string& path) {
  int descriptor;
  do {
    descriptor =
        fault("open") == Effect::fail
            ? -1
            : ::open(path.c_str(),
                     O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY,
                     0666);
  } while (descriptor < 0 && errno == EINTR);
  if (descriptor < 0) fail("created", path, errno);
  File file(descriptor);
  struct stat info;
  if (fstat(descriptor, &info) != 0) fail("examined", path, errno);
  if (!S_ISREG(info.st_mode))
    throw Failure("Io", path + " is not a regular file").with("file", path);
  return file;
}

void FileSystem::write(const File& file, const std::string& path, const void* data, size_t bytes) {
  const unsigned char* from = static_cast<const unsigned char*>(data);
  while (bytes > 0) {
    const Effect effect = fault("write");
    const size_t wanted = effect == Effect::one_byte ? 1 : std::min(bytes, kMostBytes);
    const ssize_t put = effect == Effect::fail ? -1 : ::write(file.descriptor(), from, wanted);
    if (put < 0) {
      if (errno == EINTR) continue;
      fail("written", path, errno);
    }
    from += put;
    bytes -= size_t(put);
  }
}

void FileSystem::sync(const File& file, const std::string& path) {
  int result;
  do result = fault("sync") == Effect::fail ? -1 : fsync(file.descriptor());
  while (result != 0 && errno == EINTR);
  if (result != 0) fail("synced", path, errno);
}

void FileSystem::rename(const std::string& from, const std::string& to) {
  int result;
  do result = fault("rename") == Effect::fail ? -1 : ::rename(from.c_str(), to.c_str());
  while (result != 0 && errno == EINTR);
  if (result != 0) fail("put in place", to, errno);
}

bool FileSystem::exchange(const std::string& a, const std::string& b) {
  int result;
  do
    result = fault("rename") == Effect::fail
                 ? -1
                 : renameat2(AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), RENAME_EXCHANGE);
  while (result != 0 && errno == EINTR);
  if (result == 0) return true;
  if (errno == EINVAL || errno == ENOSYS || errno == EOPNOTSUPP) return false;
  fail("put in place", b, errno);
}

void FileSystem::sync_folder_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "."
                             : slash == 0               ? "/"
                                                        : path.substr(0, slash);
  int descriptor;
  do descriptor = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  while (descriptor < 0 && errno == EINTR);
  if (descriptor < 0) fail("opened", folder, errno);
  File file(descriptor);
  int result;
  do result = fault("syncFolder") == Effect::fail ? -1 : fsync(descriptor);
  while (result != 0 && errno == EINTR);
  // Some file systems cannot sync a folder; they say EINVAL.
  if (result != 0 && errno != EINVAL) fail("synced", folder, errno);
}

void FileSystem::remove(const std::string& path) noexcept {
  if (fault("unlink") != Effect::fail) ::unlink(path.c_str());
}

File lock_file(const std::string& path) {
  for (;;) {
    int descriptor;
    do {
      descriptor = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
      if (descriptor < 0 && (errno == ENOENT || errno == ENOTDIR))
        descriptor =
            ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0666);
    } while (descriptor < 0 && errno == EINTR);
    if (descriptor < 0) throw io_failure("opened", path, errno);
    File file(descriptor);
    int result;
    do result = flock(descriptor, LOCK_EX | LOCK_NB);
    while (result != 0 && errno == EINTR);
    if (result != 0) {
      if (errno == EWOULDBLOCK) return File();
      throw io_failure("locked", path, errno);
    }
    // Whoever held it before may have renamed or removed it: then this is a lock on nothing.
    struct stat held, there;
    if (fstat(descriptor, &held) != 0) throw io_failure("examined", path, errno);
    if (stat(path.c_str(), &there) == 0 && held.st_dev == there.st_dev &&
        held.st_ino == there.st_ino)
      return file;
  }
}

}  // namespace polylora::io
