#include "media/packet_reader.h"

#include "base/error.h"
#include "media/decode_plan.h"
#include "media/frame_decoder.h"

namespace keiko::media {

PacketReader::PacketReader(Env* env, const PacketTable& table, const std::string& path)
    : table_(table) {
  if (table.direct_read)
    file_ = env->open(path);
  else
    demuxed_ = std::make_unique<DemuxedPackets>(env, table, path);
}

PacketSource::Packet PacketReader::get(uint32_t ordinal) {
  if (demuxed_) return demuxed_->get(ordinal);
  bytes_.resize(table_.size[ordinal]);
  file_->read(table_.position[ordinal], bytes_);
  return {bytes_, nullptr};
}

void decode_in_order(Env* env, const PacketTable& table, const std::string& path,
                     std::span<const int64_t> frames, Damage damage,
                     const std::function<void(int64_t, const AVFrame&)>& receive) {
  const DecodePlan plan = plan_decode(table, frames);
  const auto missing = [&](size_t place) {
    fail(ErrorKind::kData, "{}: frame {} (packet {}) did not come out of the {} decoder", path,
         frames[place], table.frame_packet[size_t(frames[place])], table.stream.codec);
  };
  WantedFrames wanted(table, plan.frames);
  size_t next = 0;  // the place in `frames` that must come now
  PacketReader reader(env, table, path);
  std::unique_ptr<FrameDecoder> decoder;
  const FedPlan fed = feed_plan(
      table, plan, reader,
      [&]() -> FrameDecoder& {
        decoder = std::make_unique<FrameDecoder>(table.stream);
        return *decoder;
      },
      [&](uint32_t ordinal, const AVFrame& frame) {
        const int64_t place = wanted.place_of(ordinal);
        if (place < int64_t(next)) return;
        if (place > int64_t(next)) missing(next);
        receive(frames[next++], frame);
      },
      [&] { return next == frames.size(); });
  if (next < frames.size()) missing(next);
  if (damage == Damage::kRefuse && fed.complaints > 0)
    fail(ErrorKind::kData, "{}: damaged; the {} decoder complained of {} of {} packets", path,
         table.stream.codec, fed.complaints, plan.packets.size());
}

}  // namespace keiko::media
