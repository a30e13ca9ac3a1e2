#include "data/sign_of_life.h"

#include "base/error.h"
#include "base/machine.h"

namespace keiko::data {

void SignOfLife::give() {
  if (monotonic_s() < due_s_) return;
  const std::unique_lock lock(mutex_, std::try_to_lock);
  if (!lock || monotonic_s() < due_s_) return;
  try {
    // Longer each time, for file systems whose times are coarse.
    env_->create(path_)->append(std::string(size_t(++count_ % 1000 + 1), '.'));
  } catch (const Error&) {
    // The next one may succeed; the work itself must not suffer.
  }
  due_s_ = monotonic_s() + interval_s_;
}

LifeWatch::LifeWatch(Env* env, const std::string& path)
    : env_(env), path_(path), seen_(env->status(path)), change_s_(monotonic_s()) {}

double LifeWatch::silence_s() {
  const FileStatus now = env_->status(path_);
  if (now.exists != seen_.exists || now.size != seen_.size || now.mtime_ns != seen_.mtime_ns) {
    seen_ = now;
    change_s_ = monotonic_s();
  }
  return monotonic_s() - change_s_;
}

}  // namespace keiko::data
