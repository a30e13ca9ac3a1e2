#include "base/retry.h"

#include <cerrno>
#include <thread>

namespace keiko {

bool is_lasting(const Error& e) {
  switch (e.cause()) {
    case EACCES:
    case EPERM:
    case EROFS:
    case ENOSPC:
    case EDQUOT:
    case EISDIR:
    case EINVAL:
    case ELOOP:
    case ENAMETOOLONG:
      return true;
    default:
      return false;
  }
}

bool sleep_for(std::chrono::milliseconds time) {
  std::this_thread::sleep_for(time);
  return true;
}

void try_patiently(const std::function<void()>& work, const Wait& wait) {
  constexpr std::chrono::milliseconds kFirst{100}, kLast{1600};
  for (std::chrono::milliseconds pause = kFirst;; pause *= 4) {
    try {
      work();
      return;
    } catch (const Error& e) {
      if (e.kind() != ErrorKind::kIo || is_lasting(e) || pause > kLast) throw;
      if (!wait(pause)) throw;
    }
  }
}

}  // namespace keiko
