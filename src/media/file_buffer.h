// An MP4 or Matroska file written to memory, packet by packet.
//
// In memory, because a muxer goes back to patch what it wrote, and a pack publishes files whole.

#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "media/ffmpeg.h"

namespace keiko::media {

// One video stream. Not thread-safe. Bit-exact: the same packets give the same bytes.
class FileBuffer {
 public:
  // `container`: "mp4" or "matroska". `stream` describes packets whose times are in `time_base`.
  // `rotation`: degrees clockwise to turn the picture for display, written as the stream's display
  // matrix. Throws Error(kData) when the container cannot hold the stream.
  FileBuffer(const char* container, const AVCodecParameters& stream, AVRational time_base,
             int rotation);
  ~FileBuffer();

  // Takes the packet's bytes and leaves it empty. Throws Error(kData) when its times go backwards
  // or are missing.
  void write(AVPacket& packet);
  // The whole file; nothing may follow. Throws Error(kData) when it is larger than 2 GiB, which is
  // what libavformat can hold in memory; write() may fail earlier, from about 213 MB on, because
  // of the limit on one allocation (limits.h).
  std::vector<uint8_t> finish();

 private:
  AVFormatContext* output_ = nullptr;
  AVRational time_base_;
};

}  // namespace keiko::media
