#include "base/fault_env.h"

#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "base/error.h"

namespace keiko {

namespace fs = std::filesystem;

class FaultFile : public WritableFile {
 public:
  FaultFile(FaultEnv* env, std::string path, std::unique_ptr<WritableFile> base)
      : env_(env), path_(std::move(path)), base_(std::move(base)) {}

  void append(std::span<const uint8_t> bytes) override {
    std::lock_guard lock(env_->mutex_);
    env_->step("write", path_, true);
    env_->durable_size_.try_emplace(path_, env_->base_->status(path_).size);
    base_->append(bytes);
  }
  // Only in files that are not yet synced, whose bytes a power cut takes anyhow.
  void overwrite(int64_t offset, std::span<const uint8_t> bytes) override {
    std::lock_guard lock(env_->mutex_);
    env_->step("write", path_, true);
    base_->overwrite(offset, bytes);
  }
  void sync() override {
    std::lock_guard lock(env_->mutex_);
    env_->step("fsync", path_, true);
    base_->sync();
    env_->durable_size_.erase(path_);
  }

 private:
  FaultEnv* env_;
  std::string path_;
  std::unique_ptr<WritableFile> base_;
};

void FaultEnv::step(const char* what, const std::string& path, bool needs_space) {
  ++count_;
  if (count_ == stop_at_) cut_power();
  if (needs_space && full_from_ > 0 && count_ >= full_from_)
    throw Error(
        ErrorKind::kIo,
        fmt::format("{}: cannot {}: No space left on device; free some space there", path, what),
        ENOSPC);
}

void FaultEnv::cut_power() {
  for (const auto& [path, size] : durable_size_) {
    std::error_code ignored;  // the file may have been renamed or removed since
    fs::resize_file(path, size, ignored);
  }
  for (auto change = unsynced_names_.rbegin(); change != unsynced_names_.rend(); ++change)
    change->undo();
  ::_exit(kPowerCutExit);
}

std::unique_ptr<WritableFile> FaultEnv::create(const std::string& path) {
  std::lock_guard lock(mutex_);
  step("create", path, true);
  if (!base_->status(path).exists)
    unsynced_names_.push_back({parent_folder(path), [path] {
                                 std::error_code ignored;
                                 fs::remove(path, ignored);
                               }});
  auto file = base_->create(path);
  durable_size_[path] = 0;
  return std::make_unique<FaultFile>(this, path, std::move(file));
}

std::unique_ptr<WritableFile> FaultEnv::append_to(const std::string& path, int64_t length) {
  std::lock_guard lock(mutex_);
  step("open for appending", path, true);
  if (!base_->status(path).exists)
    unsynced_names_.push_back({parent_folder(path), [path] {
                                 std::error_code ignored;
                                 fs::remove(path, ignored);
                               }});
  auto file = base_->append_to(path, length);
  if (auto found = durable_size_.find(path); found != durable_size_.end())
    found->second = std::min(found->second, length);
  return std::make_unique<FaultFile>(this, path, std::move(file));
}

void FaultEnv::rename(const std::string& from, const std::string& to) {
  std::lock_guard lock(mutex_);
  step("rename onto", to, false);
  // The replaced file is kept beside under a hard link, so that a lost rename can bring it back.
  const std::string kept = to + ".replaced-" + std::to_string(count_);
  std::error_code ignored;
  const bool replaced = fs::is_regular_file(to, ignored);
  if (replaced) fs::create_hard_link(to, kept, ignored);
  base_->rename(from, to);
  if (auto found = durable_size_.extract(from); !found.empty()) {
    found.key() = to;
    durable_size_.erase(to);
    durable_size_.insert(std::move(found));
  }
  unsynced_names_.push_back({parent_folder(to), [from, to, kept, replaced] {
                               std::error_code code;
                               fs::rename(to, from, code);
                               if (replaced) fs::rename(kept, to, code);
                             }});
  if (replaced) kept_.insert({parent_folder(to), kept});
}

void FaultEnv::remove(const std::string& path) {
  std::lock_guard lock(mutex_);
  step("remove", path, false);
  // A removal that is lost would bring old content back; readers must cope with that as with a
  // process that never removed, which stop_at just before this operation already tries.
  base_->remove(path);
  durable_size_.erase(path);
}

void FaultEnv::make_folder(const std::string& path) {
  std::lock_guard lock(mutex_);
  step("create the folder", path, true);
  if (!base_->status(path).exists)
    unsynced_names_.push_back({parent_folder(path), [path] {
                                 std::error_code ignored;
                                 fs::remove_all(path, ignored);
                               }});
  base_->make_folder(path);
}

void FaultEnv::sync_folder(const std::string& path) {
  std::lock_guard lock(mutex_);
  step("fsync the folder", path, false);
  base_->sync_folder(path);
  std::erase_if(unsynced_names_, [&](const NameChange& change) { return change.folder == path; });
  std::error_code ignored;
  for (auto [it, end] = kept_.equal_range(path); it != end; ++it) fs::remove(it->second, ignored);
  kept_.erase(path);
}

}  // namespace keiko
