// A recorder without a device: what was recorded is done again, in the same memory.
//
// A CUDA graph does the same with kernels. So work that gives other results here than when it is
// called afresh, because it knows something of the time when it was recorded, would do so there.

#pragma once
#include "base/error.h"
#include "gpu/recorder.h"

namespace keiko::gpu {

class RecorderForTests : public Recorder {
 public:
  void run(const std::function<void()>& work) override {
    ++runs;
    work();
  }
  std::unique_ptr<Recording> record(const std::function<void()>& work) override {
    ++records;
    if (refuses) fail(ErrorKind::kIo, "recording a CUDA graph on GPU 0: out of memory");
    return std::make_unique<Again>(work);
  }

  int64_t runs = 0, records = 0;
  bool refuses = false;

 private:
  struct Again : Recording {
    explicit Again(const std::function<void()>& what) : work(what) {}
    void replay() override { work(); }
    std::function<void()> work;
  };
};

}  // namespace keiko::gpu
