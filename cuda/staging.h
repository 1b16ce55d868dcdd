// Pinned memory, which the device copies to and from while the host goes on.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

namespace polylora::cuda {

class Staging {
 public:
  ~Staging() {
    for (const Buffer& buffer : free_) cudaFreeHost(buffer.data);
  }

  struct Buffer {
    void* data = nullptr;
    uint64_t bytes = 0;
  };

  // data is null if the system refuses.
  Buffer take(uint64_t bytes) {
    bytes = (bytes + kUnit - 1) / kUnit * kUnit;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      size_t best = free_.size();
      for (size_t i = 0; i < free_.size(); ++i)
        if (free_[i].bytes >= bytes && free_[i].bytes <= 4 * bytes &&
            (best == free_.size() || free_[i].bytes < free_[best].bytes))
          best = i;
      if (best < free_.size()) {
        const Buffer found = free_[best];
        free_.erase(free_.begin() + std::ptrdiff_t(best));
        kept_ -= found.bytes;
        return found;
      }
    }
    Buffer made;
    if (cudaHostAlloc(&made.data, bytes, 0) == cudaSuccess) made.bytes = bytes;
    return made;
  }

  void give_back(const Buffer& buffer) {
    if (!buffer.data) return;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (kept_ + buffer.bytes <= kMostKept) {
        free_.push_back(buffer);
        kept_ += buffer.bytes;
        return;
      }
    }
    cudaFreeHost(buffer.data);
  }

 private:
  static constexpr uint64_t kUnit = 4096, kMostKept = uint64_t(256) << 20;
  std::mutex mutex_;
  std::vector<Buffer> free_;
  uint64_t kept_ = 0;
};

}  // namespace polylora::cuda
