// Work of a device that is recorded once and run again: CUDA graphs.
//
// A step launches thousands of kernels, each at the host's cost. Recorded, they are one launch, of
// the same kernels on the same addresses. So what changes from run to run must lie in memory that
// stays, and is filled before; whatever the host computed while it was recorded is a part of it.

#pragma once
#include <functional>
#include <memory>

namespace keiko::gpu {

// Not thread-safe. What it was recorded from may go; the memory that it reads and writes may not.
class Recording {
 public:
  virtual ~Recording() = default;
  // Adds the work to the calling thread's stream. The host does not wait.
  virtual void replay() = 0;
};

// Used by one thread. Outlives its recordings.
class Recorder {
 public:
  virtual ~Recorder() = default;
  // Does `work` now, on the stream that recordings are made on: it comes after what the calling
  // thread's stream was given, and before what that is given next. Libraries set themselves up at
  // their first calls, which must not be recorded, so what will be recorded is done so a few times
  // before.
  virtual void run(const std::function<void()>& work) = 0;
  // Records `work`, backward passes of autograd included, without doing it. What it makes on the
  // device and somebody still holds stays where it is, and is made anew by each replay(). The work
  // must neither wait for the device nor read memory of the host on it. Waits for the device.
  // Throws Error(kIo) saying what forbids it.
  virtual std::unique_ptr<Recording> record(const std::function<void()>& work) = 0;
};

}  // namespace keiko::gpu
