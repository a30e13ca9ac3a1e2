// Bytes as a file that has a path but no disk: for what only takes a path.

#pragma once
#include <sys/mman.h>
#include <unistd.h>

#include <span>
#include <string>

#include "fuzz/target.h"

namespace keiko::fuzz {

class MemoryFile {
 public:
  MemoryFile() : fd_(::memfd_create("hostile", MFD_CLOEXEC)) {
    require(fd_ >= 0, "a file in memory can be made");
    path_ = "/proc/self/fd/" + std::to_string(fd_);
  }
  ~MemoryFile() { ::close(fd_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  // Replaces the content.
  void write(std::span<const uint8_t> bytes) {
    require(::ftruncate(fd_, 0) == 0, "a file in memory can be emptied");
    for (size_t at = 0; at < bytes.size();) {
      const ssize_t n = ::pwrite(fd_, bytes.data() + at, bytes.size() - at, off_t(at));
      require(n > 0, "a file in memory can be written");
      at += size_t(n);
    }
  }
  const std::string& path() const { return path_; }

 private:
  int fd_;
  std::string path_;
};

}  // namespace keiko::fuzz
