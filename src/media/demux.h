// The packets of one stream of one file, in file order, through libavformat.
//
// Used when indexing, and at training time only for files whose bytes cannot be read directly.

#pragma once
#include <string>

#include "media/ffmpeg.h"

namespace keiko::media {

// Not thread-safe. Opens the given file alone: no network protocol, no playlist, no file that the
// container refers to.
class Demuxer {
 public:
  static constexpr int kBestVideo = -1;

  // Throws Error(kData) saying what the file holds instead when it has no such video stream.
  Demuxer(const std::string& path, int stream_index);

  // The next packet of the stream, valid until the next call; null at the end. A damaged stretch is
  // counted and passed over.
  const AVPacket* next();

  const AVFormatContext* input() const { return input_.get(); }
  const AVStream* stream() const { return input_->streams[stream_index_]; }
  int64_t corrupt_packets() const { return corrupt_packets_; }

 private:
  InputPointer input_;
  PacketPointer packet_;
  int stream_index_;
  int64_t corrupt_packets_ = 0;
};

}  // namespace keiko::media
