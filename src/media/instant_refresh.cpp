#include "media/instant_refresh.h"

#include "media/bits.h"
#include "media/nal.h"

namespace keiko::media {
namespace {

// H.264, table 7-1: coded slices, among them those of IDR pictures.
constexpr int kSliceFirst = 1, kIdrSlice = 5;
// H.265, table 7-1.
constexpr int kBlaWithLeading = 16, kBlaLast = 18, kIdrLast = 20, kCra = 21, kLastVcl = 31,
              kEndOfSequence = 36, kEndOfBitstream = 37;

bool is_h264_refresh(std::span<const uint8_t> packet, int length_size) {
  bool has_slices = false, all_idr = true;
  const bool is_whole = for_each_nal(packet, length_size, [&](std::span<const uint8_t> unit) {
    const int type = unit[0] & 31;
    if (type < kSliceFirst || type > kIdrSlice) return;
    has_slices = true;
    all_idr &= type == kIdrSlice;
  });
  return is_whole && has_slices && all_idr;
}

// Renames CRA to BLA in place. An end of sequence makes libavcodec open the hardware anew anyway.
bool make_hevc_refresh(std::vector<uint8_t>& packet, int length_size) {
  bool has_slices = false, all_refresh = true;
  const bool is_whole = for_each_nal(std::span<const uint8_t>(packet), length_size,
                                     [&](std::span<const uint8_t> unit) {
                                       const int type = unit[0] >> 1 & 63;
                                       if (type == kEndOfSequence || type == kEndOfBitstream)
                                         all_refresh = false;
                                       if (type > kLastVcl) return;
                                       has_slices = true;
                                       all_refresh &= type >= kBlaWithLeading && type <= kCra;
                                       if (type == kCra)
                                         packet[size_t(unit.data() - packet.data())] =
                                             uint8_t((unit[0] & 0x81) | kBlaWithLeading << 1);
                                     });
  static_assert(kBlaLast < kIdrLast && kIdrLast + 1 == kCra);
  return is_whole && has_slices && all_refresh;
}

bool vp9_may_be_hidden(std::span<const uint8_t> packet) {
  if (packet.empty() || (packet.back() & 0xe0) == 0xc0) return false;  // Annex B: a superframe
  BitReader bits(packet);
  if (bits.bits(2) != 2) return false;  // frame_marker
  const uint32_t low = bits.bit(), high = bits.bit();
  if (low + 2 * high == 3) bits.bit();  // reserved in profile 3
  if (bits.bit()) return true;          // show_existing_frame: brings nothing of its own
  bits.bit();                           // frame_type
  return bits.bit() && !bits.ended();   // show_frame
}

bool av1_may_be_hidden(std::span<const uint8_t> packet) {
  constexpr int kFrameHeader = 3, kFrame = 6;
  int frames = 0;
  bool all_shown = true;
  for (size_t at = 0; at < packet.size();) {  // 5.3
    const uint8_t header = packet[at++];
    if (header & 4) ++at;  // obu_extension_flag
    uint64_t size = packet.size() - std::min(at, packet.size());
    if (header & 2) {  // obu_has_size_field, leb128
      size = 0;
      for (int i = 0; i < 8; ++i) {
        if (at >= packet.size()) return false;
        const uint8_t byte = packet[at++];
        size |= uint64_t(byte & 127) << (7 * i);
        if (!(byte & 128)) break;
      }
    }
    if (at > packet.size() || size > packet.size() - at) return false;
    const int type = header >> 3 & 15;
    if (type == kFrameHeader || type == kFrame) {
      ++frames;
      BitReader bits(packet.subspan(at, size_t(size)));
      const bool shows_existing = bits.bit();
      bits.bits(2);  // frame_type
      all_shown &= shows_existing || bits.bit();
    }
    at += size_t(size);
  }
  return frames == 1 && all_shown;
}

}  // namespace

bool has_instant_refresh(const std::string& codec) { return codec == "h264" || codec == "hevc"; }

std::vector<uint8_t> as_instant_refresh(const StreamParameters& stream,
                                        std::span<const uint8_t> packet) {
  std::vector<uint8_t> copy;
  if (stream.codec == "h264" && is_h264_refresh(packet, nal_length_size(stream.extradata, 4)))
    copy.assign(packet.begin(), packet.end());
  if (stream.codec == "hevc") {
    copy.assign(packet.begin(), packet.end());
    if (!make_hevc_refresh(copy, nal_length_size(stream.extradata, 21))) copy.clear();
  }
  return copy;
}

bool may_be_hidden(const StreamParameters& stream, std::span<const uint8_t> packet) {
  if (stream.codec == "h264" || stream.codec == "hevc") return true;
  if (stream.codec == "vp9") return vp9_may_be_hidden(packet);
  if (stream.codec == "av1") return av1_may_be_hidden(packet);
  return false;
}

}  // namespace keiko::media
