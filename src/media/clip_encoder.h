// Writes short grey clips as H.264 in MP4: the embedded data set, and what tests need.

#pragma once
#include <cstdint>
#include <span>
#include <vector>

namespace keiko::media {

struct EncoderOptions {
  int width = 32, height = 32;  // pixels, even
  int frames_per_second = 25;
  int crf = 20;                 // x264 quality: 0 lossless, 51 worst
  int keyframe_interval = 250;  // frames
  int b_frames = 2;             // at most, between two others
};

// Encodes frames (luma, full frames one after another, `width * height` bytes each; chroma is grey)
// and returns the bytes of an MP4 file. The same input gives the same bytes (one thread).
// Throws Error(kInternal) when libx264 is missing from this FFmpeg, and Error(kUsage) on odd sizes.
std::vector<uint8_t> encode_mp4(std::span<const uint8_t> luma, const EncoderOptions& options);

}  // namespace keiko::media
