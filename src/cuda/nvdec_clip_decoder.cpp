#include "cuda/nvdec_clip_decoder.h"

#include <algorithm>
#include <optional>

extern "C" {
#include <libavutil/hwcontext.h>
#include <libavutil/pixdesc.h>
}

#include "base/error.h"
#include "base/log.h"
#include "base/machine.h"

namespace keiko::cuda {
namespace {

// Null: the request has none.
DeviceSlot* slot_of(const media::ClipRequest& request) {
  auto* slot = dynamic_cast<DeviceSlot*>(request.slot);
  if (request.slot != nullptr && slot == nullptr)
    fail(ErrorKind::kInternal, "{}: a GPU was to decode into memory that is not its own",
         *request.path);
  return slot;
}

}  // namespace

void NvdecTally::add_on_gpu() {
  const std::lock_guard lock(mutex_);
  ++counts_.on_gpu;
}

void NvdecTally::add_on_cpu(const std::string& reason, const std::string& path) {
  {
    const std::lock_guard lock(mutex_);
    if (counts_.on_cpu[reason]++ > 0) return;
  }
  spdlog::info("{}: {}; this video and others like it are decoded on the CPU", path, reason);
}

void NvdecTally::add_doubted(bool is_bad) {
  const std::lock_guard lock(mutex_);
  ++counts_.doubted;
  counts_.found_bad += is_bad;
}

NvdecTally::Counts NvdecTally::counts() const {
  const std::lock_guard lock(mutex_);
  return counts_;
}

media::FramePointer as_surface(const AVFrame& frame) {
  media::FramePointer surface(av_frame_clone(&frame));
  if (surface == nullptr) fail(ErrorKind::kIo, "out of memory for a reference to a frame");
  if (frame.hw_frames_ctx == nullptr) return surface;
  const auto* frames = reinterpret_cast<const AVHWFramesContext*>(frame.hw_frames_ctx->data);
  surface->format = frames->sw_format;
  const AVPixFmtDescriptor* d = av_pix_fmt_desc_get(frames->sw_format);
  // libavcodec crops pictures on hardware at the right and bottom only.
  for (int c = d->nb_components - 1; c >= 0; --c) {
    const AVComponentDescriptor& component = d->comp[c];
    const bool is_chroma = c == 1 || c == 2;
    // Components of one plane lie side by side: it moves once, with the first of them.
    if (c > 0 && d->comp[c - 1].plane == component.plane) continue;
    const size_t left = frame.crop_left >> (is_chroma ? d->log2_chroma_w : 0);
    const size_t top = frame.crop_top >> (is_chroma ? d->log2_chroma_h : 0);
    surface->data[component.plane] +=
        int64_t(top) * frame.linesize[component.plane] + int64_t(left) * component.step;
  }
  surface->width -= int(frame.crop_left);
  surface->height -= int(frame.crop_top);
  surface->crop_left = surface->crop_top = 0;
  return surface;
}

media::ClipCost NvdecClipDecoder::decode(const media::ClipRequest& request) {
  DeviceSlot* slot = slot_of(request);
  WorkQueue& queue = converter_->queue();
  if (slot != nullptr) slot->begin_writing(queue);
  try {
    const media::ClipCost cost = decode_somewhere(request);
    if (slot != nullptr)
      slot->end_writing(queue);
    else
      queue.mark()->wait();
    return cost;
  } catch (...) {
    queue.mark()->wait();  // who tries again may write these pixels in an order of its own
    throw;
  }
}

media::ClipCost NvdecClipDecoder::decode_somewhere(const media::ClipRequest& request) {
  const auto ask = [&](const std::string& codec, Chroma chroma, int bit_depth) {
    return device_.caps(codec, chroma, bit_depth);
  };
  std::string refusal = why_not_nvdec(request.table->stream, ask);
  if (refusal.empty()) {
    bool is_whole = false;
    try {
      const media::ClipCost cost = decode_on_gpu(request, refusal);
      is_whole = refusal.empty() && cost.complaints == 0;
      if (is_whole) {
        tally_.add_on_gpu();
        return cost;
      }
    } catch (const Error& e) {
      if (e.kind() != ErrorKind::kData) throw;
    }
  }
  if (!refusal.empty()) {
    tally_.add_on_cpu(refusal, *request.path);
    return decode_on_cpu(request, cpu_);
  }
  try {
    media::CpuClipDecoder clean(env_);
    const media::ClipCost cost = decode_on_cpu(request, clean);
    tally_.add_doubted(false);
    return cost;
  } catch (const Error& e) {
    if (e.kind() == ErrorKind::kData) tally_.add_doubted(true);
    throw;
  }
}

media::ClipCost NvdecClipDecoder::decode_on_gpu(const media::ClipRequest& request,
                                                std::string& refusal) {
  const media::PacketTable& table = *request.table;
  const NvdecSessionKey key = *nvdec_session_key(table.stream, kMapped);
  std::optional<NvdecSessionPool::Lease> lease;
  std::unique_ptr<NvdecSession> alone;  // for a stream that spoils a decoder for others
  const auto session = [&]() -> NvdecSession& { return alone ? *alone : **lease; };
  const auto next_decoder = [&]() -> media::FrameDecoder& {
    try {
      if (table.reuse_off.empty())
        lease.emplace(pool_.take(key, table.stream));
      else
        alone = open_nvdec_session(device_, table.stream, kMapped);
      return session().begin(table.stream);
    } catch (const Error& e) {
      if (e.kind() == ErrorKind::kData) refusal = e.what();
      throw;
    }
  };
  const double start = monotonic_s();
  double convert_s = 0;
  media::ClipViews views(request);
  media::ClipCost cost;
  try {
    cost = frames_.decode(
        table, *request.path, request.frames, next_decoder,
        [&](int64_t index, const AVFrame& frame) {
          const double before = monotonic_s();
          convert(request, index, frame, views, session());
          convert_s += monotonic_s() - before;
        },
        media::Unwanted::kHidden);
  } catch (...) {
    if (refusal.empty() && (lease || alone)) refusal = session().refusal();
    throw;
  }
  refusal = session().refusal();
  if (refusal.empty() && cost.complaints == 0 && lease) lease->keep();
  cost.convert_s = convert_s;
  cost.decode_s = monotonic_s() - start - convert_s;
  return cost;
}

void NvdecClipDecoder::convert(const media::ClipRequest& request, int64_t index,
                               const AVFrame& frame, media::ClipViews& views,
                               NvdecSession& session) {
  const AVPixelFormat wanted = device_.surface_format();
  if (wanted != AV_PIX_FMT_NONE && frame.format != wanted)
    fail(ErrorKind::kInternal, "{}: frame {} came out of the decoder as {}, not {}", *request.path,
         index, frame.format, int(wanted));
  const int64_t stride = request.channel_stride;
  media::FramePointer surface = as_surface(frame);
  try {
    views.place(
        index,
        [&](size_t view, const media::PixelGeometry& geometry, uint8_t* out) {
          converter_->convert(view, *surface, geometry, out, out + stride, out + 2 * stride,
                              request.size);
        },
        [&](uint8_t* to, const uint8_t* from, size_t bytes) { converter_->copy(to, from, bytes); });
  } catch (...) {
    converter_->queue().mark()->wait();  // other views may read the surface yet
    throw;
  }
  session.lent().keep(std::move(surface), converter_->queue().mark(), size_t(kMapped));
}

media::ClipCost NvdecClipDecoder::decode_on_cpu(const media::ClipRequest& request,
                                                media::CpuClipDecoder& cpu) {
  const size_t channel = request.frames.size() * size_t(request.size) * size_t(request.size);
  const media::ClipViews views(request);
  std::vector<media::ClipView> staged = views.all();
  uint8_t* memory = converter_->stage(staged.size() * 3 * channel);
  for (size_t v = 0; v < staged.size(); ++v) staged[v].out = memory + v * 3 * channel;
  media::ClipRequest host = request;
  host.slot = nullptr;
  host.out = staged[0].out;
  host.channel_stride = int64_t(channel);
  host.more_views = std::span(staged).subspan(1);
  media::ClipCost cost = cpu.decode(host);
  const double start = monotonic_s();
  for (size_t v = 0; v < staged.size(); ++v)
    for (size_t c = 0; c < 3; ++c)
      converter_->upload(views.all()[v].out + int64_t(c) * request.channel_stride,
                         staged[v].out + c * channel, channel);
  cost.convert_s += monotonic_s() - start;
  return cost;
}

}  // namespace keiko::cuda
