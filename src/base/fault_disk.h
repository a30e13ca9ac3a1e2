// What a disk was told and may not hold yet: the memory behind FaultEnv, shared by the processes of
// a test.
//
// Every change is noted, in the order in which changes happened over all processes. A power cut
// reads the notes to find what no fsync covered, and takes that from the real files.

#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "base/temp_folder.h"

namespace keiko {

struct DiskChange {
  enum Kind : char {
    kCreate = 'c',
    kOpen = 'o',  // for appending
    kWrite = 'w',
    kSync = 's',
    kRename = 'r',
    kRemove = 'd',
    kMakeFolder = 'm',
    kSyncFolder = 'f',
  };
  Kind kind;
  std::string path;  // kRename: the new name
  std::string from;  // kRename: the old name
  int64_t rank = 0;
  // What was there before: whether anything, whether a folder, its size in bytes, and the name
  // under which what was replaced or removed is kept.
  bool was_there = false, was_folder = false;
  int64_t size = 0;
  std::string kept;
};

// What of all that is not fsynced is lost in a power cut. 0 is nothing that survives.
struct PowerCut {
  // The disk goes off, for all ranks. Otherwise one machine does, and the disk is another's: what
  // is lost then is what that machine alone had written, and names stay as they are.
  bool takes_disk = true;
  double names = 0;  // share of created names, renames and removals that survive, the oldest first
  double bytes = 0;  // share of every file's bytes that survive, the first ones
};

// Made before processes fork, and then the same for all of them. Safe to use from any thread and
// process. Paths must not hold tabs or newlines. What is replaced or removed is kept under $TMPDIR
// or /tmp, which must be of the same file system.
class FaultDisk {
 public:
  FaultDisk();
  ~FaultDisk();
  FaultDisk(const FaultDisk&) = delete;
  FaultDisk& operator=(const FaultDisk&) = delete;

  // All changes so far, the oldest first.
  std::vector<DiskChange> changes() const;
  // How many operations `rank` has begun, those included that failed. 0 <= rank < 16.
  int64_t operations(int64_t rank) const;

 private:
  friend class FaultEnv;
  struct Shared;

  // One process at a time. Ends a process that comes when the disk is off.
  class Lock {
   public:
    explicit Lock(const FaultDisk& disk);
    ~Lock();
    Lock(const Lock&) = delete;
    Lock& operator=(const Lock&) = delete;

   private:
    Shared* shared_;
  };

  // The callers of these hold a Lock.
  int64_t count(int64_t rank);
  void note(const DiskChange& change);
  std::vector<DiskChange> read() const;
  // A hard link to the file at `path`, for the time when its name or content is gone; "" when there
  // is no such file. Throws Error(kIo).
  std::string keep(const std::string& path);
  // Takes away what `cut`, met by `rank`, loses. With takes_disk every process ends at its next
  // operation.
  void lose(const PowerCut& cut, int64_t rank);

  TempFolder attic_;
  Shared* shared_;  // mapped; notes follow it
};

}  // namespace keiko
