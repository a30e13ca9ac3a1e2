#include "base/fault_disk.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <sstream>

#include "base/env.h"
#include "base/error.h"
#include "base/fault_env.h"

namespace keiko {

namespace fs = std::filesystem;

namespace {

// Reserved, not used: only pages that are written to cost memory.
constexpr size_t kMapped = size_t{1} << 28;
constexpr int64_t kRanks = 16;

void undo(const DiskChange& change) {
  std::error_code ignored;  // what an older change that is lost too had made is gone already
  switch (change.kind) {
    case DiskChange::kCreate:
    case DiskChange::kOpen:
      fs::remove(change.path, ignored);
      break;
    case DiskChange::kMakeFolder:
      fs::remove_all(change.path, ignored);
      break;
    case DiskChange::kRename:
      fs::rename(change.path, change.from, ignored);
      if (!change.kept.empty()) fs::copy_file(change.kept, change.path, ignored);
      break;
    case DiskChange::kRemove:
      if (change.was_folder) fs::create_directory(change.path, ignored);
      // Not over what came under that name since.
      if (!change.kept.empty()) fs::copy_file(change.kept, change.path, ignored);
      break;
    default:
      break;
  }
}

}  // namespace

struct FaultDisk::Shared {
  pthread_mutex_t mutex;
  bool is_off;
  int64_t operations[kRanks];
  int64_t used;  // bytes of notes
  char* notes() { return reinterpret_cast<char*>(this + 1); }
};

FaultDisk::FaultDisk() {
  void* mapped = ::mmap(nullptr, kMapped, PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED)
    fail(ErrorKind::kIo, "no shared memory for a disk with faults: {}", std::strerror(errno));
  shared_ = new (mapped) Shared{};
  pthread_mutexattr_t attributes;
  ::pthread_mutexattr_init(&attributes);
  ::pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
  // A process that is killed while it holds the lock must not stop the others.
  ::pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
  ::pthread_mutex_init(&shared_->mutex, &attributes);
  ::pthread_mutexattr_destroy(&attributes);
}

FaultDisk::~FaultDisk() { ::munmap(shared_, kMapped); }

FaultDisk::Lock::Lock(const FaultDisk& disk) : shared_(disk.shared_) {
  if (::pthread_mutex_lock(&shared_->mutex) == EOWNERDEAD)
    ::pthread_mutex_consistent(&shared_->mutex);
}

FaultDisk::Lock::~Lock() { ::pthread_mutex_unlock(&shared_->mutex); }

std::vector<DiskChange> FaultDisk::changes() const {
  const Lock lock(*this);
  return read();
}

int64_t FaultDisk::operations(int64_t rank) const {
  const Lock lock(*this);
  return shared_->operations[rank];
}

int64_t FaultDisk::count(int64_t rank) {
  // The processes that are left see what the cut left of the files, and must not change it.
  if (shared_->is_off) ::_exit(FaultEnv::kPowerCutExit);
  return ++shared_->operations[rank];
}

void FaultDisk::note(const DiskChange& c) {
  const std::string line = fmt::format("{}\t{}\t{:d}\t{:d}\t{}\t{}\t{}\t{}\n", char(c.kind), c.rank,
                                       c.was_there, c.was_folder, c.size, c.path, c.from, c.kept);
  if (size_t(shared_->used) + line.size() + sizeof(Shared) > kMapped)
    fail(ErrorKind::kInternal, "a disk with faults remembers {} bytes of changes and no more",
         shared_->used);
  std::memcpy(shared_->notes() + shared_->used, line.data(), line.size());
  shared_->used += int64_t(line.size());
}

std::vector<DiskChange> FaultDisk::read() const {
  std::vector<DiskChange> changes;
  std::istringstream lines(std::string(shared_->notes(), size_t(shared_->used)));
  for (std::string line; std::getline(lines, line);) {
    std::vector<std::string> fields;
    for (size_t at = 0; at <= line.size();) {
      const size_t end = std::min(line.find('\t', at), line.size());
      fields.push_back(line.substr(at, end - at));
      at = end + 1;
    }
    changes.push_back({DiskChange::Kind(fields[0][0]), fields[5], fields[6], std::stoll(fields[1]),
                       fields[2] == "1", fields[3] == "1", std::stoll(fields[4]), fields[7]});
  }
  return changes;
}

std::string FaultDisk::keep(const std::string& path) {
  if (!fs::is_regular_file(fs::symlink_status(path))) return "";
  const std::string kept = fmt::format("{}/{}", attic_.path(), shared_->used);
  std::error_code code;
  fs::create_hard_link(path, kept, code);
  if (code)
    fail(ErrorKind::kIo, "{}: cannot be kept as {}: {}; set TMPDIR to a folder of its file system",
         path, kept, code.message());
  return kept;
}

void FaultDisk::lose(const PowerCut& cut, int64_t rank) {
  struct Unsynced {
    int64_t durable;  // bytes that survive in any case
    int64_t rank;     // who wrote the others
  };
  std::map<std::string, Unsynced> files;
  std::vector<DiskChange> names;
  for (const DiskChange& change : read()) {
    switch (change.kind) {
      case DiskChange::kCreate:
        files[change.path] = {0, change.rank};
        if (!change.was_there) names.push_back(change);
        break;
      case DiskChange::kOpen:
        if (!change.was_there) names.push_back(change);
        break;
      case DiskChange::kWrite:
        files.try_emplace(change.path, Unsynced{change.size, change.rank});
        break;
      case DiskChange::kSync:
        files.erase(change.path);
        break;
      case DiskChange::kRename:
        files.erase(change.path);
        if (auto found = files.extract(change.from); !found.empty()) {
          found.key() = change.path;
          files.insert(std::move(found));
        }
        names.push_back(change);
        break;
      case DiskChange::kRemove:
        files.erase(change.path);
        if (change.was_there) names.push_back(change);
        break;
      case DiskChange::kMakeFolder:
        if (!change.was_there) names.push_back(change);
        break;
      case DiskChange::kSyncFolder:
        std::erase_if(
            names, [&](const DiskChange& name) { return parent_folder(name.path) == change.path; });
        break;
    }
  }
  for (const auto& [path, unsynced] : files) {
    if (!cut.takes_disk && unsynced.rank != rank) continue;
    std::error_code gone;
    const auto size = int64_t(fs::file_size(path, gone));
    if (gone || size <= unsynced.durable) continue;
    fs::resize_file(path, uint64_t(unsynced.durable) +
                              uint64_t(std::floor(cut.bytes * double(size - unsynced.durable))));
  }
  if (!cut.takes_disk) return;
  const auto survive = size_t(std::floor(cut.names * double(names.size())));
  for (size_t i = names.size(); i > survive; --i) undo(names[i - 1]);
  shared_->is_off = true;
}

}  // namespace keiko
