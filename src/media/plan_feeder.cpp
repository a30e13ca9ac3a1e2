#include "media/plan_feeder.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "media/instant_refresh.h"

namespace keiko::media {
namespace {

// The turn that a frame has among those of its packet.
uint32_t turn_of(const PacketTable& table, uint32_t frame) {
  return table.frame_turn.empty() ? 0 : table.frame_turn[frame];
}

}  // namespace

PacketSource::Packet DemuxedPackets::get(uint32_t ordinal) {
  for (; next_ <= ordinal; ++next_) {
    packet_ = demuxer_.next();
    if (packet_ == nullptr)
      fail(ErrorKind::kData, "{}: ends before packet {}; it changed since it was indexed", path_,
           ordinal);
    bytes_ += packet_->size;
  }
  return {{packet_->data, size_t(packet_->size)}, packet_};
}

WantedFrames::WantedFrames(const PacketTable& table, std::span<const uint32_t> frames)
    : table_(table) {
  wanted_.reserve(frames.size());
  for (size_t i = 0; i < frames.size(); ++i)
    wanted_.push_back({table.frame_packet[frames[i]], turn_of(table, frames[i]), int64_t(i)});
  std::sort(wanted_.begin(), wanted_.end(), [](const Wanted& a, const Wanted& b) {
    return std::pair(a.packet, a.turn) < std::pair(b.packet, b.turn);
  });
}

int64_t WantedFrames::place_of(uint32_t ordinal) {
  const uint32_t turn = table_.frame_turn.empty() ? 0 : turns_[ordinal]++;
  const std::pair key(ordinal, turn);
  const auto found = std::lower_bound(
      wanted_.begin(), wanted_.end(), key,
      [](const Wanted& w, const auto& k) { return std::pair(w.packet, w.turn) < k; });
  if (found == wanted_.end() || std::pair(found->packet, found->turn) != key) return -1;
  return found->place;
}

FedPlan feed_plan(const PacketTable& table, const DecodePlan& plan, PacketSource& source,
                  const std::function<FrameDecoder&()>& next_decoder,
                  const FrameDecoder::Receive& take, const std::function<bool()>& is_done,
                  Unwanted unwanted) {
  // Where frames were seen, not concluded, a packet may be half a picture: the other half shows it.
  const bool hides = unwanted == Unwanted::kHidden && !table.mapped_by_decoding;
  std::vector<uint32_t> shown;
  if (hides)
    for (uint32_t frame : plan.frames) shown.push_back(table.frame_packet[frame]);
  std::sort(shown.begin(), shown.end());
  FrameDecoder* decoder = &next_decoder();
  FedPlan fed;
  fed.complaints = -decoder->complaints();
  size_t restart = 0;
  for (size_t i = 0; i < plan.packets.size() && !is_done(); ++i) {
    if (restart < plan.restarts.size() && plan.restarts[restart] == i) {
      ++restart;
      if (i > 0) {
        decoder->drain(take);
        if (table.reuse_off.empty()) {
          decoder->restart();
        } else {
          fed.complaints += decoder->complaints();
          decoder = &next_decoder();
          fed.complaints -= decoder->complaints();
        }
      }
    }
    const uint32_t ordinal = plan.packets[i];
    const PacketSource::Packet packet = source.get(ordinal);
    const bool discard = (table.flags[ordinal] & kDiscard) ||
                         (hides && !std::binary_search(shown.begin(), shown.end(), ordinal) &&
                          may_be_hidden(table.stream, packet.bytes));
    decoder->feed(packet.bytes, ordinal, discard, take, packet.demuxed);
    ++fed.packets;
  }
  if (!is_done()) decoder->drain(take);
  fed.complaints += decoder->complaints();
  return fed;
}

}  // namespace keiko::media
