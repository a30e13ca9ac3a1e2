// Pictures in, the bytes of an MP4 file with H.264 out, made to be decoded in random clips.
//
// `kFast` spends bits to make decoding cheap: no arithmetic coding, no loop filter, one reference,
// and only every eighth picture is one that others need, so that a clip at a stride leaves most
// packets alone. `kSmall` spends decoding time to save bytes. Both aim at fidelity (PSNR), not at
// what pleases the eye.

#pragma once
#include <cstdint>
#include <vector>

#include "media/ffmpeg.h"
#include "media/file_buffer.h"
#include "media/frame_scaler.h"

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
  // Throws Error(kUsage) for an impossible size, Error(kInternal) when this FFmpeg has no libx264.
  explicit VideoEncoder(const VideoEncoderOptions& options);

  // `picture`: yuv420p of the format's size. `pts` in ticks of the time base, ascending.
  void add(const AVFrame& picture, int64_t pts);
  // Ends the stream and returns the file. Nothing may follow. Errors as FileBuffer::finish.
  std::vector<uint8_t> finish();

 private:
  void write_packets();

  CodecPointer encoder_;
  std::unique_ptr<FileBuffer> file_;
  FramePointer frame_;
  PacketPointer packet_;
};

}  // namespace keiko::media
