// A GPU as FFmpeg's decoders use it.

#pragma once
#include <memory>
#include <string>
#include <vector>

#include "cuda/nvdec_driver.h"
#include "cuda/nvdec_frame_decoder.h"

namespace keiko::cuda {

// The codecs of Keiko's NVDEC path that this FFmpeg can decode on a GPU: some of h264, hevc, vp9
// and av1, or none when it was built without NVDEC.
std::vector<std::string> nvdec_codecs_of_ffmpeg();

// Opens GPU `gpu` (0 to driver.gpu_count() - 1) for FFmpeg, in the GPU's primary context, which
// CUDA's runtime and torch use, too, whoever opened it first. Frames come out in AV_PIX_FMT_CUDA,
// written in the order of a stream of the device's own: torch's work neither waits for it nor holds
// it up. The driver outlives the device, and the device all that decodes on it.
// Throws Error(kUsage) when the driver, its video library, FFmpeg's part or Keiko's own is missing,
// saying what to do; Error(kIo) when the GPU cannot be opened.
std::unique_ptr<NvdecDevice> open_cuda_device(const NvidiaDriver& driver, int gpu);

// Why open_cuda_device() would refuse every GPU, as a sentence to show; empty: it would not.
std::string why_no_cuda_device(const NvidiaDriver& driver);

}  // namespace keiko::cuda
