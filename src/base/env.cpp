#include "base/env.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "base/error.h"

namespace keiko {
namespace {

[[noreturn]] void fail_io(const std::string& path, const char* what) {
  const int code = errno;
  const char* advice = code == ENOSPC || code == EDQUOT ? "; free some space there"
                       : code == EACCES || code == EPERM || code == EROFS
                           ? "; choose a folder that may be written"
                           : "";
  throw Error(ErrorKind::kIo,
              fmt::format("{}: cannot {}: {}{}", path, what, std::strerror(code), advice), code);
}

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }

 private:
  int fd_;
};

class PosixWritableFile : public WritableFile {
 public:
  PosixWritableFile(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}

  void append(std::span<const uint8_t> bytes) override {
    while (!bytes.empty()) {
      const ssize_t n = ::write(fd_.get(), bytes.data(), bytes.size());
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) fail_io(path_, "write");
      bytes = bytes.subspan(size_t(n));
    }
  }
  void overwrite(int64_t offset, std::span<const uint8_t> bytes) override {
    while (!bytes.empty()) {
      const ssize_t n = ::pwrite(fd_.get(), bytes.data(), bytes.size(), offset);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) fail_io(path_, "write");
      bytes = bytes.subspan(size_t(n));
      offset += n;
    }
  }
  void sync() override {
    if (::fsync(fd_.get()) != 0) fail_io(path_, "fsync");
  }

 private:
  std::string path_;
  Descriptor fd_;
};

class PosixReadableFile : public ReadableFile {
 public:
  PosixReadableFile(const std::string& path, int fd) : ReadableFile(path), fd_(fd) {}

  void set_size(int64_t size) { size_ = size; }
  int64_t size() const override { return size_; }
  void read(int64_t offset, std::span<uint8_t> out) const override {
    while (!out.empty()) {
      const ssize_t n = ::pread(fd_.get(), out.data(), out.size(), offset);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) fail_io(path(), "read");
      // Past its end the content is wrong; before it the file system is, or the file has shrunk.
      if (n == 0 && offset < size_)
        fail(ErrorKind::kIo, "{}: byte {} of {} cannot be read: the file ends there now", path(),
             offset, size_);
      if (n == 0)
        fail(ErrorKind::kData, "{}: ends at byte {}, but {} more bytes were expected", path(),
             offset, out.size());
      out = out.subspan(size_t(n));
      offset += n;
    }
  }

 private:
  Descriptor fd_;
  int64_t size_ = 0;
};

class PosixEnv : public Env {
 public:
  std::unique_ptr<WritableFile> create(const std::string& path) override {
    const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0) fail_io(path, "create");
    return std::make_unique<PosixWritableFile>(path, fd);
  }
  std::unique_ptr<WritableFile> append_to(const std::string& path, int64_t length) override {
    const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (fd < 0) fail_io(path, "open for appending");
    auto file = std::make_unique<PosixWritableFile>(path, fd);
    struct stat st;
    if (::fstat(fd, &st) != 0) fail_io(path, "stat");
    if (st.st_size < length)
      fail(ErrorKind::kData, "{}: holds {} bytes, but {} were recorded", path, st.st_size, length);
    if (st.st_size > length && ::ftruncate(fd, length) != 0) fail_io(path, "truncate");
    return file;
  }
  void rename(const std::string& from, const std::string& to) override {
    if (::rename(from.c_str(), to.c_str()) != 0) fail_io(to, "rename onto");
  }
  void remove(const std::string& path) override {
    if (::remove(path.c_str()) != 0 && errno != ENOENT) fail_io(path, "remove");
  }
  void make_folder(const std::string& path) override {
    std::error_code code;
    std::filesystem::create_directories(path, code);
    if (code) {
      errno = code.value();
      fail_io(path, "create the folder");
    }
  }
  void sync_folder(const std::string& path) override {
    const Descriptor fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (fd.get() < 0) fail_io(path, "open the folder");
    // Some network file systems refuse to fsync a folder; they make names durable by themselves.
    if (::fsync(fd.get()) != 0 && errno != EINVAL) fail_io(path, "fsync the folder");
  }
  std::unique_ptr<ReadableFile> open(const std::string& path) override {
    // Without O_NONBLOCK, opening a pipe that nobody writes to would never return.
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) fail_io(path, "open");
    auto file = std::make_unique<PosixReadableFile>(path, fd);
    struct stat st;
    if (::fstat(fd, &st) != 0) fail_io(path, "stat");
    if (S_ISDIR(st.st_mode)) {
      errno = EISDIR;
      fail_io(path, "open");
    }
    if (!S_ISREG(st.st_mode))
      throw Error(
          ErrorKind::kIo,
          fmt::format("{}: cannot open: not a regular file; write it to a disk first", path),
          EINVAL);
    file->set_size(st.st_size);
    return file;
  }
  FileStatus status(const std::string& path) override {
    struct stat st;
    int code = ::lstat(path.c_str(), &st);
    const bool is_link = code == 0 && S_ISLNK(st.st_mode);
    if (is_link) code = ::stat(path.c_str(), &st);
    if (code != 0) {
      FileStatus nothing;
      nothing.is_link = is_link;
      if (errno == ENOENT || errno == ENOTDIR) return nothing;
      fail_io(path, "stat");
    }
    return {true, S_ISDIR(st.st_mode), st.st_size,
            int64_t{st.st_mtim.tv_sec} * 1'000'000'000 + st.st_mtim.tv_nsec, is_link};
  }
  std::vector<std::string> list(const std::string& folder) override {
    DIR* dir = ::opendir(folder.c_str());
    if (dir == nullptr) fail_io(folder, "list");
    std::vector<std::string> names;
    while (const dirent* entry = ::readdir(dir)) {
      const std::string name = entry->d_name;
      if (name != "." && name != "..") names.push_back(name);
    }
    ::closedir(dir);
    std::sort(names.begin(), names.end());
    return names;
  }
};

}  // namespace

Env* default_env() {
  static PosixEnv env;
  return &env;
}

std::string read_text(Env* env, const std::string& path) {
  const auto file = env->open(path);
  std::string text(size_t(file->size()), '\0');
  file->read(0, {reinterpret_cast<uint8_t*>(text.data()), text.size()});
  return text;
}

void publish(Env* env, const std::string& path, std::string_view content) {
  const std::string beside = path + ".tmp";
  {
    const auto file = env->create(beside);
    file->append(content);
    file->sync();
  }
  env->rename(beside, path);
  env->sync_folder(parent_folder(path));
}

void remove_tree(Env* env, const std::string& path) {
  const FileStatus status = env->status(path);
  if (!status.exists && !status.is_link) return;
  if (status.is_folder && !status.is_link)
    for (const std::string& name : env->list(path)) remove_tree(env, path + "/" + name);
  env->remove(path);
}

std::string parent_folder(const std::string& path) {
  const size_t slash = path.find_last_of('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

}  // namespace keiko
