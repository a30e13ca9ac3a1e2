// MPEG-1, MPEG-2 and MPEG-4 part 2: B pictures are never referred to. Where decoding may start is
// left to the container's key flag and to a trial.

#include "media/packet_facts.h"

namespace keiko::media {
namespace {

// Calls `visit(code, rest)` for every start code 00 00 01 `code`, `rest` being what follows it.
template <class Visit>
void for_each_start_code(std::span<const uint8_t> packet, Visit visit) {
  for (size_t at = 0; at + 3 < packet.size(); ++at)
    if (packet[at] == 0 && packet[at + 1] == 0 && packet[at + 2] == 1) {
      visit(packet[at + 3], packet.subspan(at + 4));
      at += 3;
    }
}

class Mpeg2Reader : public HeaderReader {
 public:
  PacketFacts read(std::span<const uint8_t> packet) override {
    PacketFacts facts;
    int pictures = 0;
    bool all_b = true;
    for_each_start_code(packet, [&](uint8_t code, std::span<const uint8_t> rest) {
      if (code != 0x00 || rest.size() < 2) return;  // picture_start_code
      ++pictures;
      all_b &= (rest[1] >> 3 & 7) == 3;  // picture_coding_type, after 10 bits of temporal_reference
    });
    facts.is_readable = pictures > 0;
    facts.is_unreferenced = pictures > 0 && all_b;
    return facts;
  }
  bool is_conclusive() const override { return false; }
};

class Mpeg4Reader : public HeaderReader {
 public:
  PacketFacts read(std::span<const uint8_t> packet) override {
    PacketFacts facts;
    int pictures = 0;
    bool is_b = false;
    for_each_start_code(packet, [&](uint8_t code, std::span<const uint8_t> rest) {
      if (code != 0xb6 || rest.empty()) return;  // vop_start_code
      ++pictures;
      is_b = rest[0] >> 6 == 2;  // vop_coding_type
    });
    facts.is_readable = pictures > 0;
    // Two pictures in a packet are a trick of old AVI files ("packed bitstream").
    facts.is_unreferenced = pictures == 1 && is_b;
    return facts;
  }
  bool is_conclusive() const override { return false; }
};

}  // namespace

std::unique_ptr<HeaderReader> make_mpeg2_header_reader() { return std::make_unique<Mpeg2Reader>(); }
std::unique_ptr<HeaderReader> make_mpeg4_header_reader() { return std::make_unique<Mpeg4Reader>(); }

}  // namespace keiko::media
