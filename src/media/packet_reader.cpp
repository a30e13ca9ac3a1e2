#include "media/packet_reader.h"

#include <algorithm>
#include <unordered_map>

#include "base/error.h"
#include "media/decode_plan.h"
#include "media/frame_decoder.h"

namespace keiko::media {

PacketReader::PacketReader(Env* env, const PacketTable& table, const std::string& path)
    : table_(table), path_(path) {
  if (table.direct_read)
    file_ = env->open(path);
  else
    demuxer_ = std::make_unique<Demuxer>(env, path, table.stream.stream_index);
}

std::span<const uint8_t> PacketReader::get(uint32_t ordinal) {
  if (file_) {
    bytes_.resize(table_.size[ordinal]);
    file_->read(table_.position[ordinal], bytes_);
    return bytes_;
  }
  for (; next_ <= ordinal; ++next_) {
    packet_ = demuxer_->next();
    if (packet_ == nullptr)
      fail(ErrorKind::kData, "{}: ends before packet {}; it changed since it was indexed", path_,
           ordinal);
  }
  return {packet_->data, size_t(packet_->size)};
}

void decode_in_order(Env* env, const PacketTable& table, const std::string& path,
                     std::span<const int64_t> frames, Damage damage,
                     const std::function<void(int64_t, const AVFrame&)>& receive) {
  const DecodePlan plan = plan_decode(table, frames);
  const auto missing = [&](size_t place) {
    fail(ErrorKind::kData, "{}: frame {} (packet {}) did not come out of the {} decoder", path,
         frames[place], table.frame_packet[size_t(frames[place])], table.stream.codec);
  };
  struct Wanted {
    uint32_t packet, turn;  // the turn-th frame that comes from this packet
    size_t place;           // in `frames`
  };
  std::vector<Wanted> wanted;
  for (size_t i = 0; i < frames.size(); ++i) {
    const size_t f = size_t(frames[i]);
    wanted.push_back(
        {table.frame_packet[f], table.frame_turn.empty() ? 0 : table.frame_turn[f], i});
  }
  const auto before = [](const Wanted& a, const Wanted& b) {
    return std::pair(a.packet, a.turn) < std::pair(b.packet, b.turn);
  };
  std::sort(wanted.begin(), wanted.end(), before);
  std::unordered_map<uint32_t, uint32_t> turns;  // frames that came from a packet so far
  size_t next = 0;                               // the place in `frames` that must come now
  const auto take = [&](uint32_t ordinal, const AVFrame& frame) {
    const uint32_t turn = table.frame_turn.empty() ? 0 : turns[ordinal]++;
    const auto found =
        std::lower_bound(wanted.begin(), wanted.end(), Wanted{ordinal, turn, 0}, before);
    if (found == wanted.end() || found->packet != ordinal || found->turn != turn ||
        found->place < next)
      return;
    if (found->place > next) missing(next);
    receive(frames[next++], frame);
  };
  PacketReader reader(env, table, path);
  auto decoder = std::make_unique<FrameDecoder>(table.stream);
  int64_t complaints = 0;  // of decoders left behind
  size_t restart = 0;
  for (size_t i = 0; i < plan.packets.size() && next < frames.size(); ++i) {
    if (restart < plan.restarts.size() && plan.restarts[restart] == i) {
      if (i > 0) {
        decoder->drain(take);
        if (table.reuse_off.empty()) {
          decoder->restart();
        } else {
          complaints += decoder->complaints();
          decoder = std::make_unique<FrameDecoder>(table.stream);
        }
      }
      ++restart;
    }
    const uint32_t p = plan.packets[i];
    const std::span<const uint8_t> bytes = reader.get(p);
    decoder->feed(bytes, p, (table.flags[p] & kDiscard) != 0, take, reader.demuxed());
  }
  if (next < frames.size()) decoder->drain(take);
  if (next < frames.size()) missing(next);
  complaints += decoder->complaints();
  if (damage == Damage::kRefuse && complaints > 0)
    fail(ErrorKind::kData, "{}: damaged; the {} decoder complained of {} of {} packets", path,
         table.stream.codec, complaints, plan.packets.size());
}

}  // namespace keiko::media
