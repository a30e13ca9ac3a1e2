// An Env for tests whose reads fail, come back short or take long, and that counts them, for each
// file.

#pragma once
#include <atomic>
#include <chrono>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>

#include "base/env.h"
#include "base/error.h"

namespace keiko::data {

class FlakyEnv : public Env {
 public:
  enum Fault { kNone, kEio, kSlow };
  // `fault(path, n)` says what happens to the n-th read, from 0, over all files. Called from any
  // thread. `base` outlives it.
  using ChooseFault = std::function<Fault(const std::string& path, int64_t n)>;
  explicit FlakyEnv(Env* base, ChooseFault fault = {}, int slow_ms = 50)
      : base_(base), fault_(std::move(fault)), slow_ms_(slow_ms) {}

  std::atomic<int64_t> reads{0}, bytes{0}, failures{0};
  // Bytes asked for so far of all files called `name`, in whatever folder.
  int64_t bytes_of(const std::string& name) {
    const std::lock_guard lock(mutex_);
    return bytes_of_[name];
  }

  std::unique_ptr<ReadableFile> open(const std::string& path) override {
    return std::make_unique<File>(this, base_->open(path));
  }
  FileStatus status(const std::string& path) override { return base_->status(path); }
  std::vector<std::string> list(const std::string& folder) override { return base_->list(folder); }
  std::unique_ptr<WritableFile> create(const std::string& path) override {
    return base_->create(path);
  }
  std::unique_ptr<WritableFile> append_to(const std::string& path, int64_t length) override {
    return base_->append_to(path, length);
  }
  void rename(const std::string& from, const std::string& to) override { base_->rename(from, to); }
  void remove(const std::string& path) override { base_->remove(path); }
  void make_folder(const std::string& path) override { base_->make_folder(path); }
  void sync_folder(const std::string& path) override { base_->sync_folder(path); }

 private:
  class File : public ReadableFile {
   public:
    File(FlakyEnv* env, std::unique_ptr<ReadableFile> base)
        : ReadableFile(base->path()), env_(env), base_(std::move(base)) {}
    int64_t size() const override { return base_->size(); }
    void read(int64_t offset, std::span<uint8_t> out) const override {
      const int64_t n = env_->reads++;
      env_->bytes += int64_t(out.size());
      {
        const std::lock_guard lock(env_->mutex_);
        env_->bytes_of_[path().substr(path().rfind('/') + 1)] += int64_t(out.size());
      }
      const Fault fault = env_->fault_ ? env_->fault_(path(), n) : kNone;
      env_->failures += fault == kEio;
      if (fault == kSlow) std::this_thread::sleep_for(std::chrono::milliseconds(env_->slow_ms_));
      if (fault == kEio) {
        // As after half of the bytes had come.
        base_->read(offset, out.first(out.size() / 2));
        fail(ErrorKind::kIo, "{}: cannot read: Input/output error", path());
      }
      base_->read(offset, out);
    }

   private:
    FlakyEnv* env_;
    std::unique_ptr<ReadableFile> base_;
  };

  Env* base_;
  ChooseFault fault_;
  int slow_ms_;
  std::mutex mutex_;
  std::map<std::string, int64_t> bytes_of_;
};

}  // namespace keiko::data
