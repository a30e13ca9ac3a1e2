#include "media/frame_decoder.h"
#include "media/nal.h"
#include "media/packet_facts.h"

namespace keiko::media {
namespace {

class H264Reader : public HeaderReader {
 public:
  explicit H264Reader(const StreamParameters& stream)
      : length_size_(nal_length_size(stream.extradata, 4)),
        // Lossless 4:4:4 by an old x264 is decoded differently once its version has been seen,
        // which stands in the first packet alone.
        is_lossless_capable_(stream.profile >= 244),
        context_(make_codec_context(stream)),
        parser_(av_parser_init(AV_CODEC_ID_H264), av_parser_close) {
    if (parser_) parser_->flags |= PARSER_FLAG_COMPLETE_FRAMES;
    read_parameter_sets(stream.extradata);
  }

  PacketFacts read(std::span<const uint8_t> packet) override {
    PacketFacts facts;
    bool has_slices = false, all_idr = true, all_unreferenced = true;
    facts.is_readable = for_each_nal(packet, length_size_, [&](std::span<const uint8_t> unit) {
      const int type = unit[0] & 31;  // table 7-1: 1 to 5 are slices, 5 is IDR
      facts.changes_parameters |= is_parameter_set(type) && !known_.contains(unit);
      if (type < 1 || type > 5) return;
      has_slices = true;
      all_idr &= type == 5;
      all_unreferenced &= (unit[0] >> 5 & 3) == 0;  // nal_ref_idc
    });
    facts.is_readable &= has_slices;
    if (!facts.is_readable) return facts;
    facts.shown_frames = 1;
    facts.is_random_access = all_idr;
    facts.is_unreferenced = all_unreferenced;
    if (parser_) {  // knows the parameter sets, so it can tell fields from frames
      uint8_t* out = nullptr;
      int out_size = 0;
      av_parser_parse2(parser_.get(), context_.get(), &out, &out_size, packet.data(),
                       int(packet.size()), AV_NOPTS_VALUE, AV_NOPTS_VALUE, -1);
      facts.is_field = parser_->picture_structure == AV_PICTURE_STRUCTURE_TOP_FIELD ||
                       parser_->picture_structure == AV_PICTURE_STRUCTURE_BOTTOM_FIELD;
    }
    return facts;
  }
  bool is_conclusive() const override { return !is_lossless_capable_; }

 private:
  static bool is_parameter_set(int type) { return type == 7 || type == 8 || type == 13; }

  // avcC: ISO/IEC 14496-15, 5.3.3.1: five bytes, then the sequence and the picture parameter sets.
  void read_parameter_sets(std::span<const uint8_t> extradata) {
    const auto add = [&](std::span<const uint8_t> unit) { known_.add(unit); };
    if (length_size_ == 0) {
      for_each_nal(extradata, 0, add);
      return;
    }
    size_t at = 6;
    if (extradata.size() > 5) for_each_sized_unit(extradata, at, extradata[5] & 31, add);
    if (at < extradata.size()) {
      const size_t count = extradata[at++];
      for_each_sized_unit(extradata, at, count, add);
    }
  }

  int length_size_;
  ParameterSets known_;
  bool is_lossless_capable_;
  CodecPointer context_;
  std::unique_ptr<AVCodecParserContext, decltype(&av_parser_close)> parser_;
};

}  // namespace

std::unique_ptr<HeaderReader> make_h264_header_reader(const StreamParameters& stream) {
  return std::make_unique<H264Reader>(stream);
}

}  // namespace keiko::media
