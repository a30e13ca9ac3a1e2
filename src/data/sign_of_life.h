// A small file that a working rank renews every few seconds, so that a rank that waits for it can
// tell hours of work on one film from a process that is gone.

#pragma once
#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>

#include "base/env.h"

namespace keiko::data {

class SignOfLife {
 public:
  // Renews `path` at most every `interval_s`. `env` outlives this.
  SignOfLife(Env* env, const std::string& path, double interval_s)
      : env_(env), path_(path), interval_s_(interval_s) {}

  // To be called often, from any thread: costs a look at the clock unless the file is due. A file
  // that cannot be written is no error: at worst the one who waits gives up.
  void give();

 private:
  Env* env_;
  std::string path_;
  double interval_s_;
  std::mutex mutex_;
  std::atomic<double> due_s_{0};
  int64_t count_ = 0;
};

// When signs of life at a path changed last, by the clock of the one who looks: no two machines
// need the same time. Not thread-safe.
class LifeWatch {
 public:
  LifeWatch(Env* env, const std::string& path);
  // Seconds since the file last changed, or since this was made.
  double silence_s();

 private:
  Env* env_;
  std::string path_;
  FileStatus seen_;
  double change_s_;
};

}  // namespace keiko::data
