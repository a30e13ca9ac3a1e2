// Decoding on one GPU, whole: what its decoders share, and the slots that they write.
//
// Whoever wires a loader (cli) asks for decoders and slots here; nothing else needs to know how
// driver, FFmpeg's device, sessions and kernels go together.

#pragma once
#include <functional>
#include <memory>
#include <string>

#include "base/env.h"
#include "cuda/nvdec_clip_decoder.h"
#include "cuda/nvdec_driver.h"

namespace keiko::cuda {

// Thread-safe. Outlives the decoders and slots that it makes.
class GpuDecoding {
 public:
  // Why no GPU of this machine can decode videos, with what to do; empty: one can.
  static std::string why_not();

  // Opens GPU `gpu`, from 0 on, of those that CUDA_VISIBLE_DEVICES leaves. `env` reads the files
  // and outlives this. Throws as open_cuda_device() does.
  GpuDecoding(Env* env, int gpu);

  // For one thread. Writes slots of make_slot(), or any memory of the GPU when a clip names no
  // slot. Throws Error when the GPU has no room for its stream.
  std::unique_ptr<media::ClipDecoder> make_decoder();
  // As make_decoder(), and makes no pixels of the frames that the GPU decodes: to measure decoding
  // by itself.
  std::unique_ptr<media::ClipDecoder> make_blind_decoder();
  // `reader` gives the stream in whose order a batch is read, whenever it is asked: by the thread
  // that takes batches from the loader. `make_room`: as for GrowingDeviceBuffer, on any thread.
  std::unique_ptr<media::BatchBuffer> make_slot(std::function<StreamHandle()> reader,
                                                std::function<void()> make_room = {}) const;

  int gpu() const { return gpu_; }
  NvdecTally::Counts clips() const { return tally_.counts(); }
  NvdecSessionPool::Counts sessions() const { return pool_.counts(); }

 private:
  Env* env_;
  const int gpu_;
  const NvidiaDriver driver_;
  const std::unique_ptr<NvdecDevice> device_;
  NvdecTally tally_;
  NvdecSessionPool pool_;  // goes before the device
};

}  // namespace keiko::cuda
