// From a video's table and bytes to the pixels of one clip: plan, read, decode, convert.
//
// ClipDecoder is the interface that the loader sees; CpuClipDecoder is the one every machine has.

#pragma once
#include <functional>
#include <list>
#include <memory>
#include <span>
#include <string>

#include "base/env.h"
#include "media/batch_buffer.h"
#include "media/clip_frames.h"
#include "media/frame_decoder.h"
#include "media/packet_table.h"
#include "media/pixels.h"

namespace keiko::media {

// Another cut of the same frames: they are decoded once however many views are made of them.
struct ClipView {
  CropRect crop;
  bool flip = false;
  uint8_t* out = nullptr;  // laid out as ClipRequest::out
};

// One clip to be decoded. All pointers are the caller's and outlive the call.
struct ClipRequest {
  const PacketTable* table = nullptr;
  const std::string* path = nullptr;  // the file that holds the packets
  std::span<const int64_t> frames;    // presentation indices, any order, repeats allowed
  CropRect crop;
  int size = 0;  // output is size x size
  bool flip = false;
  Filter filter = Filter::kBilinear;
  LoopFilter loop_filter = LoopFilter::kExact;
  bool allow_concealed = false;  // false: a clip with patched-up pictures is an error
  uint8_t* out = nullptr;        // frame t, channel c at out + c * channel_stride + t * size^2
  int64_t channel_stride = 0;    // bytes
  // The slot that `out` and the views' own lie in, where it orders its writers and readers; null:
  // the pixels are there when decode() returns. A decoder in host memory needs none.
  BatchBuffer* slot = nullptr;
  std::span<const ClipView> more_views = {};  // besides crop, flip and out above
};

class ClipDecoder {
 public:
  virtual ~ClipDecoder() = default;
  // Fills every pixel of the clip; with a slot in a device's memory, in the order that the slot
  // gives it. Not thread-safe: one decoder a thread.
  // Throws Error(kData) naming file and frame when the content is bad (`out` is then undefined),
  // and Error(kIo) when the file cannot be read.
  virtual ClipCost decode(const ClipRequest& request) = 0;
};

class CpuClipDecoder : public ClipDecoder {
 public:
  // `env` reads the files and outlives the decoder. Keeps up to `contexts` codecs open for reuse.
  explicit CpuClipDecoder(Env* env, size_t contexts = 4) : frames_(env), most_contexts_(contexts) {}

  ClipCost decode(const ClipRequest& request) override;

  // Decodes `frames` (any order, repeats allowed) and calls `receive` once per distinct frame, in
  // presentation order. The frame is valid during the call. Errors as decode(), but damage that the
  // decoder patched up is only counted.
  using ReceiveFrame = ClipFrames::Receive;
  ClipCost decode_frames(const PacketTable& table, const std::string& path,
                         std::span<const int64_t> frames, const ReceiveFrame& receive,
                         LoopFilter loop_filter = LoopFilter::kExact);

 private:
  struct OpenDecoder {
    StreamParameters stream;
    LoopFilter loop_filter;
    std::unique_ptr<FrameDecoder> decoder;
  };
  FrameDecoder& decoder_for(const PacketTable& table, LoopFilter loop_filter);

  ClipFrames frames_;
  size_t most_contexts_;
  std::list<OpenDecoder> decoders_;                // newest first
  std::unique_ptr<FrameDecoder> alone_;            // the last one for a stream that allows no reuse
  std::vector<PixelConverter<float>> converters_;  // one a view: each keeps its tables
};

}  // namespace keiko::media
