// Pictures in, an MP4 file with H.264 out, made to be decoded in random clips.
//
// `kFast` spends bits to make decoding cheap: no arithmetic coding, no loop filter, one reference,
// and only every eighth picture is one that others need, so that a clip at a stride leaves most
// packets alone. `kSmall` spends decoding time to save bytes. Both aim at fidelity (PSNR), not at
// what pleases the eye.

#pragma once
#include <cstdint>
#include <memory>
#include <string>

#include "base/env.h"
#include "media/ffmpeg.h"
#include "media/frame_scaler.h"
#include "media/video_writer.h"

namespace keiko::media {

enum class EncoderProfile { kFast, kSmall };

struct VideoEncoderOptions {
  EncoderProfile profile = EncoderProfile::kFast;
  ScaledFormat format;          // size and colour of the pictures
  int rotation = 0;             // degrees clockwise for display; written, not applied
  AVRational time_base{1, 25};  // of the pictures' pts
  AVRational frame_rate{25, 1};
  int crf = 23;  // x264 quality: 0 best, 51 worst
  int gop = 16;  // pictures from key frame to key frame, at most
};

// Encodes with one thread: the same pictures give the same bytes. Not thread-safe; several encoders
// run side by side.
class VideoEncoder {
 public:
  // The file becomes `path` when it is finished. Throws Error(kUsage) for an impossible size,
  // Error(kInternal) when this FFmpeg has no libx264, and, here and later, Error(kIo) naming the
  // file when the disk refuses.
  VideoEncoder(Env* env, const std::string& path, const VideoEncoderOptions& options);

  // `picture`: yuv420p of the format's size. `pts` in ticks of the time base, ascending.
  void add(const AVFrame& picture, int64_t pts);
  // Ends the stream and publishes the file; nothing may follow. Returns its size in bytes.
  int64_t finish();

 private:
  void write_packets();

  CodecPointer encoder_;
  std::unique_ptr<VideoWriter> file_;
  FramePointer frame_;
  PacketPointer packet_;
};

}  // namespace keiko::media
