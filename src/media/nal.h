// NAL units, as H.264 and HEVC packets hold them.

#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

namespace keiko::media {

// Calls `visit(unit)` for every NAL unit of the packet, without its length or start code.
// `length_size`: bytes of the length before each unit (1 to 4), or 0 for start codes (Annex B).
// Returns false when a unit leaves the packet.
template <class Visit>
bool for_each_nal(std::span<const uint8_t> packet, int length_size, Visit visit) {
  if (length_size > 0) {
    size_t at = 0;
    while (at < packet.size()) {
      if (packet.size() - at < size_t(length_size)) return false;
      uint64_t length = 0;
      for (int i = 0; i < length_size; ++i) length = length << 8 | packet[at++];
      if (length > packet.size() - at) return false;
      if (length > 0) visit(packet.subspan(at, size_t(length)));
      at += size_t(length);
    }
    return true;
  }
  size_t start = SIZE_MAX;
  for (size_t at = 0; at + 2 < packet.size(); ++at) {
    if (packet[at] != 0 || packet[at + 1] != 0 || packet[at + 2] != 1) continue;
    if (start != SIZE_MAX && at > start) visit(packet.subspan(start, at - start));
    start = at + 3;
    at += 2;
  }
  if (start == SIZE_MAX) return false;
  if (start < packet.size()) visit(packet.subspan(start));
  return true;
}

// Length size from the decoder configuration record that containers keep (avcC, hvcC: ISO/IEC
// 14496-15, 5.3.3.1 and 8.3.3.1); `at` is the byte that holds it. 0: Annex B.
inline int nal_length_size(std::span<const uint8_t> extradata, size_t at) {
  if (extradata.size() <= at || extradata[0] != 1) return 0;
  return (extradata[at] & 3) + 1;
}

}  // namespace keiko::media
