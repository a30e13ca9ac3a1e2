// One thread's decoder in `keiko bench decode`: on the CPU, or on a GPU with pixels in its memory.

#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>

#include "cuda/gpu_decoding.h"
#include "media/clip_decoder.h"

namespace keiko::cli {

// Used by one thread. Errors as media::ClipDecoder's.
class BenchDecoder {
 public:
  virtual ~BenchDecoder() = default;
  // Room for a clip's pixels, in the memory that decode() writes; valid until the next call.
  virtual uint8_t* room(size_t bytes) = 0;
  // Fills the clip, in that room; all is there on return.
  virtual media::ClipCost decode(const media::ClipRequest& request) = 0;
  // Decodes the clip's frames and makes no pixels of them: the bound of decoding alone.
  virtual void decode_frames(const media::ClipRequest& request) = 0;
  // Of the first `bytes` of the room.
  virtual uint64_t checksum(size_t bytes) = 0;
};

std::unique_ptr<BenchDecoder> make_cpu_bench_decoder();
// `decoding` outlives it. What the GPU does not take is decoded on the CPU, pixels included.
std::unique_ptr<BenchDecoder> make_gpu_bench_decoder(cuda::GpuDecoding& decoding);

// What was decoded where so far, and how often NVDEC was opened for it.
nlohmann::ordered_json gpu_figures(const cuda::GpuDecoding& decoding);

}  // namespace keiko::cli
