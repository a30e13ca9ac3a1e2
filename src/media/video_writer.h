// An MP4 or Matroska file written to the disk, packet by packet, and published whole.
//
// A muxer goes back to patch what it wrote; libavformat does so through an I/O context of ours,
// which appends and overwrites in `path.tmp` by way of Env. So memory stays the same however long
// the film is, and a full disk is told from packets that the container does not take.

#pragma once
#include <cstdint>
#include <exception>
#include <memory>
#include <string>

#include "base/env.h"
#include "media/ffmpeg.h"

namespace keiko::media {

// One video stream. Not thread-safe. Bit-exact: the same packets give the same bytes. Destroyed
// before finish(), it removes what it wrote. Every function throws Error(kIo) naming the file when
// the disk refuses, and Error(kData) when the container does.
class VideoWriter {
 public:
  // `container`: "mp4" or "matroska". `stream` describes packets whose times are in `time_base`.
  // `rotation`: degrees clockwise to turn the picture for display, written as the stream's display
  // matrix. `env` outlives the writer. Throws Error(kData) when the container cannot hold the
  // stream.
  VideoWriter(Env* env, const std::string& path, const char* container,
              const AVCodecParameters& stream, AVRational time_base, int rotation);
  ~VideoWriter();
  VideoWriter(const VideoWriter&) = delete;  // FFmpeg holds a pointer into it
  VideoWriter& operator=(const VideoWriter&) = delete;

  // Takes the packet's bytes and leaves it empty. Throws Error(kData) when its times go backwards
  // or are missing.
  void write(AVPacket& packet);
  // Ends the file and publishes it as `path`; nothing may follow. Returns its size in bytes.
  int64_t finish();

 private:
  // What FFmpeg writes through: the file, a place in it, and the error that a write threw.
  struct Sink {
    std::unique_ptr<WritableFile> file;
    int64_t at = 0, size = 0;
    std::exception_ptr error;
  };
  struct FreeOutput {
    void operator()(AVFormatContext* output) const { avformat_free_context(output); }
  };
  static int write_sink(void* sink, WrittenByte* bytes, int size);
  static int64_t seek_sink(void* sink, int64_t offset, int whence);
  void check(int code, const char* what);
  void discard();
  std::string beside() const { return path_ + ".tmp"; }

  Env* env_;
  std::string path_;
  AVRational time_base_;
  Sink sink_;
  IoPointer io_;
  std::unique_ptr<AVFormatContext, FreeOutput> output_;
};

}  // namespace keiko::media
