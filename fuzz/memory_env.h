// Files in memory, so that a fuzz target costs no disk operation. Stricter than a disk: asking for
// bytes at a negative offset ends the process, because no reader should ever compute one.

#pragma once
#include <algorithm>
#include <map>
#include <memory>

#include "base/env.h"
#include "fuzz/target.h"

namespace keiko::fuzz {

// Not thread-safe.
class MemoryEnv : public Env {
 public:
  std::map<std::string, std::string> files;  // path -> content; folders are not kept

  std::unique_ptr<WritableFile> create(const std::string& path) override {
    files[path].clear();
    return std::make_unique<Writer>(&files[path]);
  }
  std::unique_ptr<WritableFile> append_to(const std::string& path, int64_t length) override {
    require(length >= 0 && length <= int64_t(files[path].size()),
            "a file is opened for appending at an offset inside it");
    files[path].resize(size_t(length));
    return std::make_unique<Writer>(&files[path]);
  }
  void rename(const std::string& from, const std::string& to) override {
    files[to] = std::move(files[from]);
    files.erase(from);
  }
  void remove(const std::string& path) override { files.erase(path); }
  void make_folder(const std::string&) override {}
  void sync_folder(const std::string&) override {}
  std::unique_ptr<ReadableFile> open(const std::string& path) override {
    const auto found = files.find(path);
    if (found == files.end()) fail(ErrorKind::kIo, "{}: cannot open: no such file", path);
    return std::make_unique<Reader>(path, &found->second);
  }
  FileStatus status(const std::string& path) override {
    const auto found = files.find(path);
    if (found == files.end()) return {};
    return {true, false, int64_t(found->second.size()), 1, false};
  }
  std::vector<std::string> list(const std::string& folder) override {
    std::vector<std::string> names;
    for (const auto& [path, content] : files)
      if (parent_folder(path) == folder) names.push_back(path.substr(folder.size() + 1));
    return names;
  }

 private:
  class Writer : public WritableFile {
   public:
    explicit Writer(std::string* content) : content_(content) {}
    void append(std::span<const uint8_t> bytes) override {
      content_->append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    }
    void overwrite(int64_t offset, std::span<const uint8_t> bytes) override {
      require(offset >= 0 && size_t(offset) + bytes.size() <= content_->size(),
              "only bytes that were written are overwritten");
      std::copy(bytes.begin(), bytes.end(), content_->begin() + offset);
    }
    void sync() override {}

   private:
    std::string* content_;
  };
  class Reader : public ReadableFile {
   public:
    Reader(const std::string& path, const std::string* content)
        : ReadableFile(path), content_(content) {}
    int64_t size() const override { return int64_t(content_->size()); }
    void read(int64_t offset, std::span<uint8_t> out) const override {
      require(offset >= 0, "no reader asks for bytes at a negative offset");
      if (offset > size() || out.size() > content_->size() - size_t(offset))
        fail(ErrorKind::kData, "{}: ends before byte {}", path(), offset + int64_t(out.size()));
      std::copy_n(content_->data() + offset, out.size(), reinterpret_cast<char*>(out.data()));
    }

   private:
    const std::string* content_;
  };
};

}  // namespace keiko::fuzz
