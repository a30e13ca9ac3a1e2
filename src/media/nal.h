// The little that must be known of H.264 and HEVC packets: may decoding start here, and does any
// other frame need this one?

#pragma once
#include <cstdint>
#include <span>
#include <string>

namespace keiko::media {

struct NalSummary {
  bool is_readable = false;  // every NAL unit was found inside the packet
  bool has_slices = false;
  bool all_slices_idr = false;  // an instantaneous refresh: nothing before it is referred to
  bool all_slices_unreferenced = false;  // H.264: nal_ref_idc is 0 in every slice
};

// Splits a packet into NAL units: length-prefixed when `extradata` starts with configuration
// version 1 (avcC, hvcC: ISO/IEC 14496-15), else start codes (Annex B). `codec` is "h264" or
// "hevc".
NalSummary summarize_packet(const std::string& codec, std::span<const uint8_t> extradata,
                            std::span<const uint8_t> packet);

}  // namespace keiko::media
