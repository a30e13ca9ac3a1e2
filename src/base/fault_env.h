// An Env for tests: counts every operation that changes the disk, and can fail or stop at one.
//
// "Stop" is a power cut: what was not fsynced is undone (appended bytes cut off, created names and
// renames taken back), then the process ends with _exit, so that no destructor tidies up.

#pragma once
#include <functional>
#include <map>
#include <mutex>
#include <vector>

#include "base/env.h"

namespace keiko {

class FaultEnv : public Env {
 public:
  static constexpr int kPowerCutExit = 86;  // the exit code of a stopped process

  // Wraps `base`, which must outlive it.
  explicit FaultEnv(Env* base) : base_(base) {}

  // The operation with this number (from 1) never happens: the process loses power just before it.
  void stop_at(int64_t operation) { stop_at_ = operation; }
  // From this operation on, every operation that takes space (create, append, write, fsync,
  // make_folder) throws Error(kIo) "no space left".
  void fill_disk_at(int64_t operation) { full_from_ = operation; }
  // Operations seen so far.
  int64_t operations() const { return count_; }

  std::unique_ptr<WritableFile> create(const std::string& path) override;
  std::unique_ptr<WritableFile> append_to(const std::string& path, int64_t length) override;
  void rename(const std::string& from, const std::string& to) override;
  void remove(const std::string& path) override;
  void make_folder(const std::string& path) override;
  void sync_folder(const std::string& path) override;
  std::unique_ptr<ReadableFile> open(const std::string& path) override { return base_->open(path); }
  FileStatus status(const std::string& path) override { return base_->status(path); }
  std::vector<std::string> list(const std::string& folder) override { return base_->list(folder); }

 private:
  friend class FaultFile;
  // Counts one operation; stops or throws when it is its turn. Caller holds mutex_.
  void step(const char* what, const std::string& path, bool needs_space);
  // Takes back everything that a power cut would lose, newest first, and ends the process.
  [[noreturn]] void cut_power();

  // One change of a folder's names that is lost unless that folder is synced.
  struct NameChange {
    std::string folder;
    std::function<void()> undo;
  };

  Env* base_;
  std::mutex mutex_;
  int64_t count_ = 0;
  int64_t stop_at_ = -1;
  int64_t full_from_ = -1;
  std::map<std::string, int64_t> durable_size_;  // files with unsynced bytes: what survives
  std::vector<NameChange> unsynced_names_;
  std::multimap<std::string, std::string> kept_;  // folder -> hard links of replaced files
};

}  // namespace keiko
