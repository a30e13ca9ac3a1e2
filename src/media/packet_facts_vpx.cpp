// VP8 and VP9. Neither has droppable packets: a frame that refreshes no slot still changes the
// entropy contexts or motion vectors that the next frame starts from.

#include <vector>

#include "media/bits.h"
#include "media/packet_facts.h"

namespace keiko::media {
namespace {

class Vp8Reader : public HeaderReader {
 public:
  PacketFacts read(std::span<const uint8_t> packet) override {
    PacketFacts facts;
    if (packet.size() < 3) return facts;
    facts.is_readable = true;
    facts.is_random_access = (packet[0] & 1) == 0;  // RFC 6386, 9.1: key frame
    facts.shown_frames = packet[0] >> 4 & 1;        // show_frame
    return facts;
  }
  bool is_conclusive() const override { return true; }
};

class Vp9Reader : public HeaderReader {
 public:
  PacketFacts read(std::span<const uint8_t> packet) override {
    PacketFacts facts;
    const std::vector<std::span<const uint8_t>> frames = split(packet);
    if (frames.empty()) return facts;
    facts.shown_frames = 0;
    for (size_t i = 0; i < frames.size(); ++i) {
      BitReader bits(frames[i]);
      if (bits.bits(2) != 2) return PacketFacts();  // frame_marker
      const uint32_t low = bits.bit(), high = bits.bit();
      if (low + 2 * high == 3) bits.bit();  // reserved in profile 3
      if (bits.bit()) {                     // show_existing_frame
        ++facts.shown_frames;
        continue;
      }
      const bool is_key = bits.bit() == 0;
      const bool is_shown = bits.bit();
      facts.shown_frames += is_shown;
      if (i == 0) facts.is_random_access = is_key;
    }
    facts.is_readable = true;
    return facts;
  }
  bool is_conclusive() const override { return true; }

 private:
  // Annex B: a superframe ends with its index, whose first and last byte are the same marker.
  static std::vector<std::span<const uint8_t>> split(std::span<const uint8_t> packet) {
    if (packet.empty()) return {};
    const uint8_t marker = packet.back();
    if ((marker & 0xe0) != 0xc0) return {packet};
    const size_t frames = (marker & 7) + 1, size_bytes = (marker >> 3 & 3) + 1;
    const size_t index = 2 + size_bytes * frames;
    if (packet.size() < index || packet[packet.size() - index] != marker) return {packet};
    std::vector<std::span<const uint8_t>> parts;
    size_t at = 0, entry = packet.size() - index + 1;
    for (size_t f = 0; f < frames; ++f) {
      size_t size = 0;
      for (size_t b = 0; b < size_bytes; ++b) size |= size_t(packet[entry++]) << (8 * b);
      if (size > packet.size() - index - at) return {};
      if (size > 0) parts.push_back(packet.subspan(at, size));
      at += size;
    }
    return parts;
  }
};

}  // namespace

std::unique_ptr<HeaderReader> make_vp8_header_reader() { return std::make_unique<Vp8Reader>(); }
std::unique_ptr<HeaderReader> make_vp9_header_reader() { return std::make_unique<Vp9Reader>(); }

}  // namespace keiko::media
