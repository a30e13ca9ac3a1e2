// NAL units, as H.264 and HEVC packets hold them.

#pragma once
#include <cstddef>
#include <cstdint>
#include <set>
#include <span>

#include "base/hash.h"

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

// The parameter sets (VPS, SPS, PPS) that a stream's extradata holds, by fingerprint.
class ParameterSets {
 public:
  void add(std::span<const uint8_t> unit) { units_.insert(fingerprint(unit)); }
  bool contains(std::span<const uint8_t> unit) const { return units_.contains(fingerprint(unit)); }

 private:
  // Zeros behind a unit belong to the byte stream, not to the unit.
  static uint64_t fingerprint(std::span<const uint8_t> unit) {
    while (!unit.empty() && unit.back() == 0) unit = unit.first(unit.size() - 1);
    return xxh3(unit);
  }
  std::set<uint64_t> units_;
};

// Calls `visit(unit)` for every one of `count` units, each behind two bytes of length, from `at`
// on; `at` ends behind them. As in avcC and hvcC.
template <class Visit>
void for_each_sized_unit(std::span<const uint8_t> bytes, size_t& at, size_t count, Visit visit) {
  for (; count > 0 && bytes.size() >= 2 && at <= bytes.size() - 2; --count) {
    const size_t size = size_t(bytes[at]) << 8 | bytes[at + 1];
    at += 2;
    if (size > bytes.size() - at) {
      at = bytes.size();
      return;
    }
    if (size > 0) visit(bytes.subspan(at, size));
    at += size;
  }
}

}  // namespace keiko::media
