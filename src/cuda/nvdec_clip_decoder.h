// A ClipDecoder that decodes on the GPU, from the same index and plan as the CPU path.
//
// Wanted surfaces go through the pixel kernels into the slot; no frame visits host memory, and the
// host waits for kernels only where a decoder has no more surfaces to lend, or clips are so short
// that the kernels of three crops ago still read their tables. What the GPU does not take is
// decoded on the CPU, and so is everything that a GPU decoder complains of: whether a sample is bad
// is decided by its content alone, so a clean CPU decoder has the last word.

#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "cuda/device_slot.h"
#include "cuda/nvdec_frame_decoder.h"
#include "cuda/nvdec_session_pool.h"
#include "media/clip_decoder.h"
#include "media/clip_views.h"

namespace keiko::cuda {

// From surfaces to slots: work of a queue of its own, done in the order in which it was given, and
// later. Used by one thread. Its work is done before it goes.
class SurfaceConverter {
 public:
  virtual ~SurfaceConverter() = default;
  // The queue that all its work goes to. Lives as long as the converter.
  virtual WorkQueue& queue() = 0;
  // Starts to make pixels as media::PixelConverter does. `surface` has a format in memory (NV12,
  // P016, ...) and lies where the device put it; it stays until the queue has done this. `view`:
  // which of a clip's views this is, from 0 on; each has a geometry of its own, so tables can be
  // kept.
  virtual void convert(size_t view, const AVFrame& surface, const media::PixelGeometry& geometry,
                       uint8_t* red, uint8_t* green, uint8_t* blue, int64_t row_stride) = 0;
  // Starts to copy from one place in a slot to another.
  virtual void copy(uint8_t* to, const uint8_t* from, size_t bytes) = 0;
  // Host memory for upload(), valid until the next call. Waits until nothing is copied out of it
  // any more.
  virtual uint8_t* stage(size_t bytes) = 0;
  // Starts to copy from memory that stage() gave last to a slot.
  virtual void upload(uint8_t* to, const uint8_t* from, size_t bytes) = 0;
};

// What was decoded where, over all decoders of a run. Thread-safe.
class NvdecTally {
 public:
  struct Counts {
    int64_t on_gpu = 0;                     // clips
    std::map<std::string, int64_t> on_cpu;  // clips by the reason why
    int64_t doubted = 0;    // clips that a GPU decoder complained of, or did not give whole
    int64_t found_bad = 0;  // those of them that the CPU found bad, too
  };
  void add_on_gpu();
  // Logs the reason with the first video that it concerns.
  void add_on_cpu(const std::string& reason, const std::string& path);
  void add_doubted(bool is_bad);
  Counts counts() const;

 private:
  mutable std::mutex mutex_;
  Counts counts_;
};

// The surface of a frame as a frame in memory: its own format, and without what a GPU's decoder
// leaves at the left and top for others to crop. A frame in memory is only referred to. Shares the
// pixels of `frame`. Throws Error(kIo) when out of memory.
media::FramePointer as_surface(const AVFrame& frame);

class NvdecClipDecoder : public media::ClipDecoder {
 public:
  // Surfaces that one clip keeps from the decoder at a time, so that kernels run beside decoding.
  static constexpr int kMapped = 4;

  // All must outlive the decoder but `converter`, which it takes. `pool` opens its sessions on
  // `device` with kMapped surfaces (open_nvdec_session). One decoder a thread; they share device,
  // pool and tally.
  NvdecClipDecoder(Env* env, const NvdecDevice& device, NvdecSessionPool& pool,
                   std::unique_ptr<SurfaceConverter> converter, NvdecTally& tally)
      : env_(env),
        device_(device),
        pool_(pool),
        converter_(std::move(converter)),
        tally_(tally),
        frames_(env),
        cpu_(env) {}

  // As ClipDecoder, into memory that the converter can write. With ClipRequest::slot, a DeviceSlot,
  // the pixels are there in the order that the slot gives its readers; without one, and where it
  // throws, all work is done when it returns. ClipRequest::loop_filter concerns the CPU alone:
  // hardware always filters as the standard says. Damage that the hardware does not report is a
  // picture like any other. Throws Error(kInternal) for a slot of another kind.
  media::ClipCost decode(const media::ClipRequest& request) override;

 private:
  media::ClipCost decode_somewhere(const media::ClipRequest& request);
  media::ClipCost decode_on_gpu(const media::ClipRequest& request, std::string& refusal);
  media::ClipCost decode_on_cpu(const media::ClipRequest& request, media::CpuClipDecoder& cpu);
  void convert(const media::ClipRequest& request, int64_t index, const AVFrame& frame,
               media::ClipViews& views, NvdecSession& session);

  Env* env_;
  const NvdecDevice& device_;
  NvdecSessionPool& pool_;
  std::unique_ptr<SurfaceConverter> converter_;
  NvdecTally& tally_;
  media::ClipFrames frames_;
  media::CpuClipDecoder cpu_;
};

}  // namespace keiko::cuda
