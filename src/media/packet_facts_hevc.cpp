#include <algorithm>

#include "media/bits.h"
#include "media/nal.h"
#include "media/packet_facts.h"

namespace keiko::media {
namespace {

// Table 7-1 of H.265.
constexpr int kRaslN = 8, kRaslR = 9, kBlaFirst = 16, kBlaLast = 18, kIdrWithRadl = 19,
              kIdrAlone = 20, kCra = 21, kLastSlice = 31, kVps = 32, kPps = 34, kEndOfSequence = 36,
              kEndOfBitstream = 37;

class HevcReader : public HeaderReader {
 public:
  explicit HevcReader(const StreamParameters& stream)
      : length_size_(nal_length_size(stream.extradata, 21)) {
    read_parameter_sets(stream.extradata);
  }

  PacketFacts read(std::span<const uint8_t> packet) override {
    PacketFacts facts;
    bool has_slices = false, all_start = true, all_unreferenced = true, all_rasl = true;
    bool is_irap = false, ends_sequence = false, restarts_here = false, drops_earlier = false;
    facts.is_readable = for_each_nal(packet, length_size_, [&](std::span<const uint8_t> unit) {
      if (unit.size() < 2) return;
      const int type = unit[0] >> 1 & 63;
      const int layer = (unit[0] & 1) << 5 | unit[1] >> 3;
      if (layer > 0) return;  // another view or quality: the decoder leaves it out
      facts.changes_parameters |= type >= kVps && type <= kPps && !known_.contains(unit);
      if (type == kPps) read_pps(unit);
      if (type == kEndOfSequence || type == kEndOfBitstream) {
        // Before the slices it ends what came before this packet; after them, this packet.
        (has_slices ? ends_sequence : after_end_) = true;
      }
      if (type > kLastSlice) return;
      has_slices = true;
      const bool is_idr = type == kIdrWithRadl || type == kIdrAlone;
      const bool is_bla = type >= kBlaFirst && type <= kBlaLast;
      all_start &= is_idr || is_bla || type == kCra;
      is_irap |= type >= kBlaFirst && type <= 23;
      // 7.3.6.1: the second bit of an IRAP's slice header, no_output_of_prior_pics_flag.
      drops_earlier |= type >= kBlaFirst && type <= 23 && unit.size() > 2 && (unit[2] & 0x40);
      restarts_here |= is_idr || is_bla;
      all_rasl &= type == kRaslN || type == kRaslR;
      // Sub-layer non-reference pictures have even types up to 14.
      all_unreferenced &= type <= 14 && type % 2 == 0;
      facts.temporal_id = std::max(facts.temporal_id, (unit[1] & 7) - 1);
    });
    facts.is_readable &= has_slices;
    if (facts.is_readable) {
      if (is_irap) no_rasl_output_ = restarts_here || after_end_;
      facts.is_random_access = all_start;
      facts.is_unreferenced = all_unreferenced;
      // 8.3.1 and C.5.2.2: pictures that refer to what lies before a broken link are not output.
      facts.shown_frames =
          may_hide_ || (drops_earlier && has_begun_) ? -1 : (all_rasl && no_rasl_output_ ? 0 : 1);
      after_end_ = false;
      has_begun_ = true;
    }
    if (ends_sequence) after_end_ = true;
    return facts;
  }
  bool is_conclusive() const override { return true; }

 private:
  void read_pps(std::span<const uint8_t> unit) {
    BitReader bits(unit.subspan(2));
    bits.ue();                // pps_pic_parameter_set_id
    bits.ue();                // pps_seq_parameter_set_id
    bits.bit();               // dependent_slice_segments_enabled_flag
    may_hide_ |= bits.bit();  // output_flag_present_flag: slices may say that nothing is shown
  }

  // hvcC: ISO/IEC 14496-15, 8.3.3.1: 22 bytes, a count of arrays, in each a count of units.
  void read_parameter_sets(std::span<const uint8_t> extradata) {
    if (length_size_ == 0) {
      for_each_nal(extradata, 0, [&](std::span<const uint8_t> unit) {
        known_.add(unit);
        if (unit.size() > 2 && (unit[0] >> 1 & 63) == kPps) read_pps(unit);
      });
      return;
    }
    size_t at = 22;
    const int arrays = at < extradata.size() ? extradata[at++] : 0;
    for (int i = 0; i < arrays && at + 3 <= extradata.size(); ++i) {
      const int type = extradata[at] & 63;
      const size_t count = size_t(extradata[at + 1]) << 8 | extradata[at + 2];
      at += 3;
      for_each_sized_unit(extradata, at, count, [&](std::span<const uint8_t> unit) {
        known_.add(unit);
        if (type == kPps && unit.size() > 2) read_pps(unit);
      });
    }
  }

  int length_size_;
  ParameterSets known_;
  bool may_hide_ = false;
  bool after_end_ = true;  // the next intra random-access picture begins a sequence
  bool no_rasl_output_ = true;
  bool has_begun_ = false;
};

}  // namespace

std::unique_ptr<HeaderReader> make_hevc_header_reader(const StreamParameters& stream) {
  return std::make_unique<HevcReader>(stream);
}

}  // namespace keiko::media
