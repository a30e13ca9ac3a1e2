// The file system as Keiko sees it: every write, fsync, rename and unlink that a run depends on
// goes through an Env (log.txt, which nothing depends on, does not).
//
// Product code takes an Env* and never calls the operating system itself, so that tests can count
// operations, make one fail, or stop the process at one and lose what was not yet fsynced
// (fault_env.h). Publishing a file is always: write beside, sync, rename, sync the folder.

#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace keiko {

// A file opened for appending. Not thread-safe. Destroying it closes it without an fsync.
class WritableFile {
 public:
  virtual ~WritableFile() = default;
  // Appends all bytes. Throws Error(kIo) naming path and cause; part may have been written then.
  virtual void append(std::span<const uint8_t> bytes) = 0;
  void append(std::string_view text) {
    append({reinterpret_cast<const uint8_t*>(text.data()), text.size()});
  }
  // Replaces bytes that were appended before: [offset, offset + bytes.size()) must lie inside what
  // there is. Only for files from Env::create. Throws as append().
  virtual void overwrite(int64_t offset, std::span<const uint8_t> bytes) = 0;
  // Returns once the bytes are on the disk. Throws Error(kIo).
  virtual void sync() = 0;
};

// A file opened for reading at any offset. Safe to use from many threads at once.
class ReadableFile {
 public:
  virtual ~ReadableFile() = default;
  // Size in bytes when the file was opened.
  virtual int64_t size() const = 0;
  // Fills `out` from `offset`. Throws Error(kIo) on a system error, or when fewer bytes come than
  // the file had when it was opened, and Error(kData) when `out` reaches over the end it had then.
  virtual void read(int64_t offset, std::span<uint8_t> out) const = 0;
  const std::string& path() const { return path_; }

 protected:
  explicit ReadableFile(std::string path) : path_(std::move(path)) {}

 private:
  std::string path_;
};

struct FileStatus {
  bool exists = false;
  bool is_folder = false;
  int64_t size = 0;      // bytes
  int64_t mtime_ns = 0;  // since the epoch
  // The name itself is a symbolic link; the other fields speak of what it leads to.
  bool is_link = false;
};

// All functions may be called from any thread and throw Error(kIo) naming the path and the cause.
class Env {
 public:
  virtual ~Env() = default;
  // Creates or truncates.
  virtual std::unique_ptr<WritableFile> create(const std::string& path) = 0;
  // Opens for appending after cutting the file to `length` bytes; created if missing and length is
  // 0.
  virtual std::unique_ptr<WritableFile> append_to(const std::string& path, int64_t length) = 0;
  virtual void rename(const std::string& from, const std::string& to) = 0;
  // Removes a file, an empty folder, or a symbolic link (not what it leads to). No error when it
  // does not exist.
  virtual void remove(const std::string& path) = 0;
  // Creates the folder and its parents. No error when it exists.
  virtual void make_folder(const std::string& path) = 0;
  // Makes the names inside a folder durable.
  virtual void sync_folder(const std::string& path) = 0;

  virtual std::unique_ptr<ReadableFile> open(const std::string& path) = 0;
  virtual FileStatus status(const std::string& path) = 0;
  // Names inside a folder, sorted, without "." and "..".
  virtual std::vector<std::string> list(const std::string& folder) = 0;
};

// The operating system's own files. Lives as long as the process.
Env* default_env();

// The whole file as text. Throws Error(kIo).
std::string read_text(Env* env, const std::string& path);

// Writes `path` so that a reader sees the old content or the new, never a mixture, also after a
// power cut: `path.tmp` is written and synced, renamed over `path`, and the folder synced.
void publish(Env* env, const std::string& path, std::string_view content);

// Removes a folder and all it holds, contents first. Symbolic links go, what they lead to stays. No
// error when it does not exist.
void remove_tree(Env* env, const std::string& path);

// "a/b" -> "a"; "b" -> "."; "/b" -> "/".
std::string parent_folder(const std::string& path);

}  // namespace keiko
