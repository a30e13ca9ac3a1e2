#include "media/nal.h"

#include <cstddef>

namespace keiko::media {
namespace {

// Calls `visit` with the first two bytes of every NAL unit; false when a unit leaves the packet.
template <class Visit>
bool for_each_nal(std::span<const uint8_t> packet, int length_size, Visit visit) {
  if (length_size > 0) {
    size_t at = 0;
    while (at < packet.size()) {
      if (packet.size() - at < size_t(length_size)) return false;
      uint64_t length = 0;
      for (int i = 0; i < length_size; ++i) length = length << 8 | packet[at++];
      if (length > packet.size() - at) return false;
      if (length >= 2) visit(packet[at], packet[at + 1]);
      at += length;
    }
    return true;
  }
  for (size_t at = 0; at + 4 < packet.size(); ++at)
    if (packet[at] == 0 && packet[at + 1] == 0 && packet[at + 2] == 1) {
      visit(packet[at + 3], packet[at + 4]);
      at += 3;
    }
  return true;
}

int length_size_of(const std::string& codec, std::span<const uint8_t> extradata) {
  // avcC: ISO/IEC 14496-15 5.3.3.1.2, byte 4; hvcC: 8.3.3.1.2, byte 21.
  const size_t at = codec == "h264" ? 4 : 21;
  if (extradata.size() <= at || extradata[0] != 1) return 0;
  return (extradata[at] & 3) + 1;
}

}  // namespace

NalSummary summarize_packet(const std::string& codec, std::span<const uint8_t> extradata,
                            std::span<const uint8_t> packet) {
  NalSummary summary;
  bool all_idr = true, all_unreferenced = true;
  const bool is_h264 = codec == "h264";
  summary.is_readable =
      for_each_nal(packet, length_size_of(codec, extradata), [&](uint8_t first, uint8_t) {
        if (is_h264) {
          const int type = first & 31;  // H.264 table 7-1: 1 to 5 are slices, 5 is IDR
          if (type < 1 || type > 5) return;
          summary.has_slices = true;
          all_idr &= type == 5;
          all_unreferenced &= (first >> 5 & 3) == 0;
        } else {
          const int type = first >> 1 & 63;  // HEVC table 7-1: 0 to 31 are slices, 19 and 20 IDR
          if (type > 31) return;
          summary.has_slices = true;
          all_idr &= type == 19 || type == 20;
          all_unreferenced = false;
        }
      });
  summary.all_slices_idr = summary.has_slices && all_idr;
  summary.all_slices_unreferenced = summary.has_slices && all_unreferenced;
  return summary;
}

}  // namespace keiko::media
