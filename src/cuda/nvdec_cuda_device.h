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
// CUDA's runtime and torch use, too. Frames come out in AV_PIX_FMT_CUDA, written in the order of
// the default stream: kernels on another stream must wait for it. The driver outlives the device.
// Throws Error(kUsage) when the driver, its video library or FFmpeg's part is missing, saying what
// to do; Error(kIo) when the GPU cannot be opened.
std::unique_ptr<NvdecDevice> open_cuda_device(const NvidiaDriver& driver, int gpu);

}  // namespace keiko::cuda
