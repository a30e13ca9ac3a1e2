// Keeps the files read last open: a clip from a shard that was just read costs no open.

#pragma once
#include <list>
#include <memory>
#include <string>
#include <unordered_map>

#include "base/env.h"

namespace keiko {

// Not thread-safe: one for each reading thread.
class OpenFiles {
 public:
  // `env` outlives this. At most `most` files stay open.
  OpenFiles(Env* env, size_t most) : env_(env), most_(most) {}

  // The file, opened now or before; valid until the next call. Throws Error(kIo).
  const ReadableFile& get(const std::string& path);
  // Closes the file if it is open: after a failed read the next get() opens it anew.
  void forget(const std::string& path);
  // Files opened so far.
  int64_t opens() const { return opens_; }

 private:
  Env* env_;
  size_t most_;
  std::list<std::unique_ptr<ReadableFile>> files_;  // read last first
  std::unordered_map<std::string, std::list<std::unique_ptr<ReadableFile>>::iterator> places_;
  int64_t opens_ = 0;
};

}  // namespace keiko
