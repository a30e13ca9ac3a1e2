// NVIDIA's driver, found at run time: which GPUs there are, and what their video decoders take.
//
// Nothing is linked: a machine without a GPU has neither library, and says so. The few declarations
// that are needed stand in the source, so that every build of Keiko can ask.

#pragma once
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <tuple>
#include <vector>

#include "cuda/nvdec_session_key.h"

struct CUctx_st;

namespace keiko::cuda {

// What the driver calls CUcontext: of a GPU the primary one, which CUDA's runtime and torch use.
using ContextHandle = struct CUctx_st*;

struct Gpu {
  std::string name;
  int capability_major = 0, capability_minor = 0;  // compute capability, 9.0 for Hopper
  int64_t free_bytes = 0, total_bytes = 0;         // device memory; 0 when the driver does not say
};

// Thread-safe. The libraries stay loaded.
class NvidiaDriver {
 public:
  // Loads libcuda.so.1 and libnvcuvid.so.1, and starts the driver. Never throws; what is missing is
  // told by the functions below.
  NvidiaDriver();

  // Why no GPU can be used, with what to do; empty when one can.
  const std::string& why_no_gpu() const { return why_no_gpu_; }
  // Why no GPU can decode video, with what to do; empty when one can.
  const std::string& why_no_nvdec() const { return why_no_nvdec_; }
  // The newest CUDA that the driver knows, 13000 for 13.0; 0 without a driver.
  int cuda_version() const { return cuda_version_; }
  int gpu_count() const { return gpu_count_; }

  // Free memory is found by opening the GPU's context, which takes some memory of it and up to a
  // second. `gpu`: 0 to gpu_count() - 1. Throws Error(kIo) when the driver fails.
  Gpu gpu(int gpu) const;
  // What the GPU's video decoders take; unsupported when there is none. Asked once and remembered.
  // Throws Error(kIo) when the driver fails.
  NvdecCaps caps(int gpu, const std::string& codec, Chroma chroma, int bit_depth) const;
  // The GPU's primary context, opened if nobody has opened it yet, with whatever flags it has; it
  // stays open until release_context(). Throws Error(kIo) when the driver fails.
  ContextHandle retain_context(int gpu) const;
  void release_context(int gpu) const;

 private:
  using Symbol = void (*)();
  Symbol find(void* library, const char* name, std::string& why) const;

  std::string why_no_gpu_, why_no_nvdec_;
  int cuda_version_ = 0, gpu_count_ = 0;
  std::map<std::string, Symbol> symbols_;

  mutable std::mutex mutex_;
  mutable std::map<std::tuple<int, std::string, Chroma, int>, NvdecCaps> caps_;
};

}  // namespace keiko::cuda
