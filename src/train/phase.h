// What a rank is doing at this very moment, in a file that outlives it: so that who kills a run can
// tell what the kill hit (debug.phases).

#pragma once
#include <atomic>
#include <cstdint>
#include <string>

namespace keiko::train {

enum class Phase : uint8_t {
  kNone,
  kStep,      // waiting for data, forward, backward
  kReduce,    // waiting for sums of other ranks
  kUpdate,    // clipping, optimiser, moving averages
  kHostCopy,  // copying what a checkpoint holds
  kCommit,    // waiting for all ranks' files and making them count: fsync, rename
  kWrite,     // writing a checkpoint's files in the background
};

// RUN/phase-RANK: two bytes, what the main thread does and what the writing thread does, as values
// of Phase. Setting one costs a store to memory; a kill of the process loses nothing of it.
class PhaseFile {
 public:
  PhaseFile() = default;
  ~PhaseFile();
  PhaseFile(const PhaseFile&) = delete;
  PhaseFile& operator=(const PhaseFile&) = delete;
  // Until this is called, setting does nothing. Throws Error(kIo).
  void open(const std::string& path);
  void set(Phase phase) { put(0, phase); }
  void set_writing(Phase phase) { put(1, phase); }

 private:
  void put(int byte, Phase phase) {
    if (bytes_) bytes_[byte].store(uint8_t(phase), std::memory_order_relaxed);
  }
  std::atomic<uint8_t>* bytes_ = nullptr;  // mapped
};

}  // namespace keiko::train
