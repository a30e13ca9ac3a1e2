// What one video may ask for, at most. A header that claims the impossible costs an attacker
// nothing, and a damaged one can claim it by accident; FFmpeg's own limits are near 2^31.

#pragma once
#include <cstddef>
#include <cstdint>

#include "media/ffmpeg.h"

namespace keiko::media {

// Pixels of one frame: 8192 x 8192, twice what 8K needs.
constexpr int64_t kMostPixels = int64_t{1} << 26;
// Bytes of one allocation inside FFmpeg: a plane of such a frame at 32 bits a pixel, or an MP4
// index of 13 million samples (60 hours at 60 frames a second).
constexpr size_t kLargestAllocation = size_t{320} << 20;
// Streams of one file. Each may have a decoder open, with a frame in it, while the file is probed.
constexpr int kMostStreams = 128;
constexpr int kMostVideoStreams = 16;
// Bytes of one read while a container that announces streams as it goes (MPEG-TS, MPEG-PS) is
// probed: so few streams can turn up, and be given a decoder, before they are counted again.
constexpr int kProbingRead = 4096;
// Packets and their table together, over the bytes of the file. Real ones stay near 1, or a few
// times that where packets are tiny or packed with zlib; a short index that names the same bytes
// over and over does not.
constexpr int64_t kMostBytesPerByte = 16;
// Bytes read without a packet coming out, over the bytes of the file: a demuxer that seeks in
// circles.
constexpr int64_t kMostReadsPerByte = 4;
constexpr int64_t kFreeBytes = int64_t{1} << 26;  // before the ratios count
constexpr int64_t kTableBytesPerPacket = 33;      // of the columns in PacketTable

// Applies what FFmpeg keeps for the whole process. Cheap; call it before anything of FFmpeg.
inline void limit_ffmpeg() {
  av_log_set_level(AV_LOG_PANIC);  // libav's own complaints name no file; ours do
  av_max_alloc(kLargestAllocation);
}

}  // namespace keiko::media
