#include "train/phase.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace keiko::train {
namespace {
constexpr size_t kBytes = 2;
}

// Nothing that a run depends on, so it does not go through Env.
void PhaseFile::open(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  void* mapped = MAP_FAILED;
  const char nothing[kBytes] = {};  // written, not cut out: a full disk is an error here, not later
  if (fd >= 0 && ::pwrite(fd, nothing, kBytes, 0) == ssize_t(kBytes))
    mapped = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  const int cause = errno;
  if (fd >= 0) ::close(fd);
  if (mapped == MAP_FAILED)
    throw Error(ErrorKind::kIo, fmt::format("{}: {}", path, std::strerror(cause)), cause);
  bytes_ = static_cast<std::atomic<uint8_t>*>(mapped);
  set(Phase::kNone);
  set_writing(Phase::kNone);
}

PhaseFile::~PhaseFile() {
  if (bytes_) ::munmap(bytes_, kBytes);
}

}  // namespace keiko::train
