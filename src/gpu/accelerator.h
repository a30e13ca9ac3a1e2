// A GPU as torch uses it: its stream, its memory, and collectives between GPUs.
//
// torch's CUDA part weighs gigabytes and is of no use without a GPU. So the program does not link
// it: a module beside the program does (keiko_gpu.so), and is loaded only where a recipe computes
// on a GPU. This is all that the program sees of it.

#pragma once
#include <ATen/core/Tensor.h>

#include <memory>
#include <string>

#include "cuda/device.h"
#include "dist/communicator.h"
#include "gpu/recorder.h"

namespace keiko::gpu {

// Of torch's caching allocator on this GPU, and of the GPU as a whole; bytes.
struct Memory {
  int64_t allocated = 0, reserved = 0;  // in use by tensors; held by the allocator
  int64_t peak_allocated = 0;           // the most since the last reset_peak_memory()
  int64_t free = 0, total = 0;          // of the GPU, all processes together
};

// Used by one thread, apart from what says otherwise.
class Accelerator {
 public:
  virtual ~Accelerator() = default;
  virtual at::Device device() const = 0;
  virtual std::string name() const = 0;  // "NVIDIA H100 80GB HBM3"
  // The stream that torch's operations of the calling thread go to.
  virtual cuda::StreamHandle stream() const = 0;
  // Waits for all that was given to the GPU. Throws Error(kIo) naming what the GPU reports.
  virtual void synchronize() = 0;
  virtual Memory memory() const = 0;
  virtual void reset_peak_memory() = 0;
  // Gives the GPU's driver back what torch keeps for later, so that others can have it. Any thread
  // may call it. Throws Error(kIo).
  virtual void release_unused_memory() = 0;

  // `host` for tensors in host memory, and NCCL for those on this GPU. A collective between GPUs is
  // ordered by the stream: wait() makes the stream wait and not the host, so errors show later, and
  // torch's own watchdog ends the process (exit code 134) when one fails or takes longer than
  // `timeout_s`. All ranks make it at the same time, each with a GPU of its own. `host` outlives
  // it. Throws Error(kIo).
  virtual std::unique_ptr<dist::Communicator> make_communicator(dist::Communicator& host,
                                                                double timeout_s) = 0;
  // Of work on this GPU. The accelerator outlives it.
  virtual std::unique_ptr<Recorder> make_recorder() = 0;
};

// Loads the module, if it is not loaded yet, and says why that cannot be done; empty: it is there.
// A GPU is not needed for that. Call before torch is asked for a GPU: torch remembers what it has.
std::string why_no_module();
// Why load_accelerator() would throw for every GPU: Keiko or torch without CUDA, no driver, no GPU;
// with what to do. Empty: it need not.
std::string why_no_accelerator();

// Loads the module and makes GPU `index` (from 0 on, of those that CUDA_VISIBLE_DEVICES leaves) the
// calling thread's. The module stays loaded. Throws Error(kUsage) saying what is missing and what
// to do.
std::unique_ptr<Accelerator> load_accelerator(int index);

}  // namespace keiko::gpu
