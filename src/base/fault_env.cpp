#include "base/fault_env.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace keiko {
namespace {

const char* verb(DiskChange::Kind kind) {
  switch (kind) {
    case DiskChange::kCreate:
      return "create";
    case DiskChange::kOpen:
      return "open for appending";
    case DiskChange::kWrite:
      return "write";
    case DiskChange::kSync:
      return "fsync";
    case DiskChange::kRename:
      return "rename onto";
    case DiskChange::kRemove:
      return "remove";
    case DiskChange::kMakeFolder:
      return "create the folder";
    case DiskChange::kSyncFolder:
      return "fsync the folder";
  }
  return "?";
}

bool needs_space(DiskChange::Kind kind) {
  return kind != DiskChange::kRename && kind != DiskChange::kRemove &&
         kind != DiskChange::kSyncFolder;
}

}  // namespace

class FaultFile : public WritableFile {
 public:
  FaultFile(FaultEnv* env, std::string path, std::unique_ptr<WritableFile> base)
      : env_(env), path_(std::move(path)), base_(std::move(base)) {}

  void append(std::span<const uint8_t> bytes) override {
    env_->run(
        {DiskChange::kWrite, path_}, [&] { base_->append(bytes); },
        [&](double share) { base_->append(bytes.first(size_t(share * double(bytes.size())))); });
  }
  // Only in files that are not yet synced, whose bytes a power cut takes anyhow.
  void overwrite(int64_t offset, std::span<const uint8_t> bytes) override {
    env_->run({DiskChange::kWrite, path_}, [&] { base_->overwrite(offset, bytes); });
  }
  void sync() override {
    env_->run({DiskChange::kSync, path_}, [&] { base_->sync(); });
  }

 private:
  FaultEnv* env_;
  std::string path_;
  std::unique_ptr<WritableFile> base_;
};

FaultEnv::FaultEnv(Env* base, FaultDisk* disk, int64_t rank)
    : own_(disk ? nullptr : std::make_unique<FaultDisk>()),
      base_(base),
      disk_(disk ? disk : own_.get()),
      rank_(rank) {}

void FaultEnv::run(DiskChange change, const std::function<void()>& whole,
                   const std::function<void(double share)>& part) {
  const DiskFault fault = before_ ? before_(change.kind, change.path) : DiskFault{};
  const FaultDisk::Lock lock(*disk_);
  const int64_t number = disk_->count(rank_);
  if (number == stop_at_) {
    disk_->lose(cut_, rank_);
    ::_exit(kPowerCutExit);
  }
  const bool is_full = needs_space(change.kind) && full_from_ > 0 && number >= full_from_;
  const int code = is_full ? ENOSPC : fault.code;
  const FileStatus before = base_->status(change.path);
  change.rank = rank_;
  change.was_there = before.exists;
  change.was_folder = before.is_folder;
  change.size = before.size;
  if (code != 0) {
    if (part && !is_full) {
      disk_->note(change);
      part(fault.written);
    }
    throw Error(ErrorKind::kIo,
                fmt::format("{}: cannot {}: {}", change.path, verb(change.kind),
                            code == ENOSPC ? "No space left on device; free some space there"
                                           : std::strerror(code)),
                code);
  }
  if (change.kind == DiskChange::kRename || change.kind == DiskChange::kRemove)
    change.kept = disk_->keep(change.path);
  disk_->note(change);
  whole();
}

std::unique_ptr<WritableFile> FaultEnv::create(const std::string& path) {
  std::unique_ptr<WritableFile> file;
  run({DiskChange::kCreate, path}, [&] { file = base_->create(path); });
  return std::make_unique<FaultFile>(this, path, std::move(file));
}

std::unique_ptr<WritableFile> FaultEnv::append_to(const std::string& path, int64_t length) {
  std::unique_ptr<WritableFile> file;
  run({DiskChange::kOpen, path}, [&] { file = base_->append_to(path, length); });
  return std::make_unique<FaultFile>(this, path, std::move(file));
}

void FaultEnv::rename(const std::string& from, const std::string& to) {
  run({DiskChange::kRename, to, from}, [&] { base_->rename(from, to); });
}

void FaultEnv::remove(const std::string& path) {
  run({DiskChange::kRemove, path}, [&] { base_->remove(path); });
}

void FaultEnv::make_folder(const std::string& path) {
  run({DiskChange::kMakeFolder, path}, [&] { base_->make_folder(path); });
}

void FaultEnv::sync_folder(const std::string& path) {
  run({DiskChange::kSyncFolder, path}, [&] { base_->sync_folder(path); });
}

}  // namespace keiko
