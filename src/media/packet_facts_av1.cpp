// AV1: the sequence header, and the uncompressed frame header as far as refresh_frame_flags.
// Section numbers are those of the AV1 bitstream specification, version 1.0.0 with errata 1.

#include "media/bits.h"
#include "media/packet_facts.h"

namespace keiko::media {
namespace {

constexpr int kObuSequenceHeader = 1, kObuFrameHeader = 3, kObuFrame = 6;
constexpr uint32_t kKeyFrame = 0, kIntraOnly = 2, kSwitchFrame = 3;
constexpr uint32_t kSelect = 2;  // SELECT_SCREEN_CONTENT_TOOLS, SELECT_INTEGER_MV

struct SequenceHeader {
  bool is_known = false;
  bool is_reduced_still = false;
  bool has_frame_ids = false;
  int frame_id_bits = 0;
  uint32_t screen_content_tools = kSelect, integer_mv = kSelect;
  int order_hint_bits = 0;
  int operating_points = 1;
};

// 5.5
SequenceHeader read_sequence_header(BitReader& b) {
  SequenceHeader s;
  b.bits(3);  // seq_profile
  b.bit();    // still_picture
  s.is_reduced_still = b.bit();
  if (s.is_reduced_still) {
    b.bits(5);  // seq_level_idx
  } else {
    if (b.bit()) {  // timing_info_present_flag
      b.bits(32);
      b.bits(32);
      if (b.bit()) b.ue();  // equal_picture_interval, num_ticks_per_picture_minus_1
      // A decoder model adds fields to every frame header. It is for broadcasters; such a stream
      // stays unknown, and a trial decode tells.
      if (b.bit()) return s;
    }
    const bool has_display_delay = b.bit();
    s.operating_points = int(b.bits(5)) + 1;
    for (int i = 0; i < s.operating_points; ++i) {
      b.bits(12);                  // operating_point_idc
      if (b.bits(5) > 7) b.bit();  // seq_level_idx, seq_tier
      if (has_display_delay && b.bit()) b.bits(4);
    }
  }
  const int width_bits = int(b.bits(4)) + 1, height_bits = int(b.bits(4)) + 1;
  b.bits(width_bits);
  b.bits(height_bits);
  if (!s.is_reduced_still) s.has_frame_ids = b.bit();
  if (s.has_frame_ids) {
    const int delta = int(b.bits(4)) + 2;
    s.frame_id_bits = int(b.bits(3)) + delta + 1;
  }
  b.bits(3);  // use_128x128_superblock, enable_filter_intra, enable_intra_edge_filter
  if (!s.is_reduced_still) {
    b.bits(4);                       // interintra, masked compound, warped motion, dual filter
    const bool has_order = b.bit();  // enable_order_hint
    if (has_order) b.bits(2);        // jnt_comp, ref_frame_mvs
    s.screen_content_tools = b.bit() ? kSelect : b.bit();
    if (s.screen_content_tools > 0)
      s.integer_mv = b.bit() ? kSelect : b.bit();
    else
      s.integer_mv = kSelect;
    if (has_order) s.order_hint_bits = int(b.bits(3)) + 1;
  }
  s.is_known = !b.ended();
  return s;
}

struct FrameHeader {
  bool shows_existing = false, is_key = false, is_shown = false;
  bool refreshes_nothing = false;
};

// 5.9.2
FrameHeader read_frame_header(BitReader& b, const SequenceHeader& s) {
  FrameHeader f;
  if (s.is_reduced_still) {
    f.is_key = f.is_shown = true;
    return f;
  }
  f.shows_existing = b.bit();
  if (f.shows_existing) return f;
  const uint32_t type = b.bits(2);
  f.is_shown = b.bit();
  f.is_key = type == kKeyFrame;
  if (!f.is_shown) b.bit();  // showable_frame
  bool is_resilient = true;
  if (!(type == kSwitchFrame || (f.is_key && f.is_shown))) is_resilient = b.bit();
  b.bit();  // disable_cdf_update
  const bool screen = s.screen_content_tools == kSelect ? b.bit() : s.screen_content_tools;
  if (screen && s.integer_mv == kSelect) b.bit();  // force_integer_mv
  if (s.has_frame_ids) b.bits(s.frame_id_bits);
  if (type != kSwitchFrame) b.bit();  // frame_size_override_flag
  b.bits(s.order_hint_bits);
  const bool is_intra = type == kKeyFrame || type == kIntraOnly;
  if (!is_intra && !is_resilient) b.bits(3);                       // primary_ref_frame
  if (type == kSwitchFrame || (f.is_key && f.is_shown)) return f;  // refreshes every slot
  f.refreshes_nothing = b.bits(8) == 0 && !b.ended();
  return f;
}

class Av1Reader : public HeaderReader {
 public:
  PacketFacts read(std::span<const uint8_t> packet) override {
    PacketFacts facts;
    facts.shown_frames = 0;
    bool has_sequence_header = false, all_unreferenced = true, is_layered = false;
    int frames = 0;
    size_t at = 0;
    while (at < packet.size()) {  // 5.3
      const uint8_t header = packet[at++];
      const int type = header >> 3 & 15;
      if (header & 4) {  // obu_extension_flag
        if (at >= packet.size()) return PacketFacts();
        is_layered |= (packet[at++] >> 3 & 3) > 0;  // spatial_id
      }
      uint64_t size = packet.size() - at;
      if (header & 2) {  // obu_has_size_field, leb128
        size = 0;
        for (int i = 0; i < 8; ++i) {
          if (at >= packet.size()) return PacketFacts();
          const uint8_t byte = packet[at++];
          size |= uint64_t(byte & 127) << (7 * i);
          if (!(byte & 128)) break;
        }
      }
      if (size > packet.size() - at) return PacketFacts();
      BitReader bits(packet.subspan(at, size_t(size)));
      at += size_t(size);
      if (type == kObuSequenceHeader) {
        sequence_ = read_sequence_header(bits);
        has_sequence_header = true;
      }
      if (type != kObuFrameHeader && type != kObuFrame) continue;
      if (!sequence_.is_known) return PacketFacts();
      const FrameHeader frame = read_frame_header(bits, sequence_);
      facts.shown_frames += frame.shows_existing || frame.is_shown;
      if (frames++ == 0)
        facts.is_random_access = has_sequence_header && frame.is_key && frame.is_shown;
      all_unreferenced &= frame.refreshes_nothing;
    }
    facts.is_readable = frames > 0;
    facts.is_unreferenced = frames > 0 && all_unreferenced;
    // Of several spatial layers only the highest comes out of the decoder.
    if (is_layered || sequence_.operating_points > 1) facts.shown_frames = -1;
    return facts;
  }
  bool is_conclusive() const override { return true; }

 private:
  SequenceHeader sequence_;
};

}  // namespace

std::unique_ptr<HeaderReader> make_av1_header_reader() { return std::make_unique<Av1Reader>(); }

}  // namespace keiko::media
