// An Env for tests: counts every operation that changes the disk, and can fail, hold or lose power
// at one.
//
// After a power cut what was not fsynced is gone (appended bytes, created names, renames,
// removals), all of it or a part, and the process has ended with _exit, so that no destructor
// tidied up.

#pragma once
#include <functional>
#include <memory>

#include "base/env.h"
#include "base/fault_disk.h"

namespace keiko {

// How an operation fails: with Error(kIo).
struct DiskFault {
  int code = 0;        // errno; 0: it does not
  double written = 0;  // share of its bytes that a failing write leaves in the file
};

class FaultEnv : public Env {
 public:
  static constexpr int kPowerCutExit = 86;  // the exit code of a process that lost power

  // Wraps `base`, which must outlive it, as must `disk`. Without a disk it has one of its own;
  // processes that share one have a rank each.
  explicit FaultEnv(Env* base, FaultDisk* disk = nullptr, int64_t rank = 0);

  // The operation of this rank with this number (from 1) never happens: power is lost just before.
  void stop_at(int64_t operation, const PowerCut& cut = {}) {
    stop_at_ = operation;
    cut_ = cut;
  }
  // From this operation on, every operation that takes space (create, append, write, fsync,
  // make_folder) throws Error(kIo) "no space left".
  void fill_disk_at(int64_t operation) { full_from_ = operation; }
  // Called before each operation, on its thread, with no lock held: it may take its time, and says
  // what goes wrong.
  using Before = std::function<DiskFault(DiskChange::Kind kind, const std::string& path)>;
  void before_each(Before before) { before_ = std::move(before); }
  // Operations of this rank seen so far.
  int64_t operations() const { return disk_->operations(rank_); }
  const FaultDisk& disk() const { return *disk_; }

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
  // Runs one operation: counts it, then stops, throws, or notes and does it. `part` does a share of
  // it, for a fault in its middle.
  void run(DiskChange change, const std::function<void()>& whole,
           const std::function<void(double share)>& part = {});

  std::unique_ptr<FaultDisk> own_;
  Env* base_;
  FaultDisk* disk_;
  int64_t rank_;
  int64_t stop_at_ = -1, full_from_ = -1;
  PowerCut cut_;
  Before before_;
};

}  // namespace keiko
