// The packets of one stream of one file, in file order, through libavformat.
//
// Used when indexing, and at training time only for files whose bytes cannot be read directly.

#pragma once
#include <exception>
#include <memory>
#include <string>

#include "base/env.h"
#include "media/ffmpeg.h"

namespace keiko::media {

// Not thread-safe. All bytes come from the one file, through Env: whatever else the content asks
// for (a network address, a playlist's entries, a file that the container refers to) is refused.
class Demuxer {
 public:
  static constexpr int kBestVideo = -1;

  // Throws Error(kData) saying what the file holds instead when it has no such video stream.
  // `env` outlives the demuxer.
  Demuxer(Env* env, const std::string& path, int stream_index);
  Demuxer(const Demuxer&) = delete;  // FFmpeg holds a pointer into it
  Demuxer& operator=(const Demuxer&) = delete;

  // The next packet of the stream, valid until the next call; null at the end. A damaged stretch is
  // counted and passed over.
  const AVPacket* next();

  const AVFormatContext* input() const { return input_.get(); }
  const AVStream* stream() const { return input_->streams[stream_index_]; }
  int64_t corrupt_packets() const { return corrupt_packets_; }

 private:
  // What FFmpeg reads through: the file, a place in it, and the error that a read threw.
  struct Source {
    std::unique_ptr<ReadableFile> file;
    int64_t at = 0;
    int64_t allowance = 0;  // bytes that may still be read before a packet must come out
    std::exception_ptr error;
    const AVFormatContext* probed = nullptr;  // whose streams are counted at every read; or none
    unsigned known_streams = 0;               // of it, when it was opened
  };
  void discard_other_streams();
  static int read_source(void* source, uint8_t* out, int size);
  static int64_t seek_source(void* source, int64_t offset, int whence);

  Source source_;
  IoPointer io_;
  InputPointer input_;
  PacketPointer packet_;
  int stream_index_;
  unsigned discarded_ = 0;  // streams up to here are the wanted one, or discarded
  int64_t corrupt_packets_ = 0;
};

}  // namespace keiko::media
