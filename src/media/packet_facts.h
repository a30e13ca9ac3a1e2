// What the bytes of one packet say without decoding it: may decoding start here, does any other
// frame need it, and how many pictures will it show?
//
// Each codec has a reader that knows just enough of its headers. What a reader claims follows from
// the codec's specification; what it cannot know it leaves open, and the scan then finds out by
// decoding.

#pragma once
#include <cstdint>
#include <memory>
#include <span>

#include "media/packet_table.h"

namespace keiko::media {

struct PacketFacts {
  bool is_readable = false;  // the structure is as the codec's specification says
  int shown_frames = -1;     // pictures that it gives to be shown; -1: not known from the bytes
  // Frames that are not shown before this one do not depend on anything before it.
  bool is_random_access = false;
  // No other packet needs it; for HEVC only if no picture has a higher temporal id.
  bool is_unreferenced = false;
  int temporal_id = 0;    // HEVC: sub-layer, 0 is the lowest
  bool is_field = false;  // H.264: a picture made of two fields that are coded apart
  // H.264, HEVC: brings a parameter set that the stream's extradata does not hold. Decoding from a
  // later packet may then need it, and a decoder that has seen it decodes other streams wrongly.
  bool changes_parameters = false;
};

// Reads the packets of one stream in decode order: parameter sets are remembered. Not thread-safe.
class HeaderReader {
 public:
  virtual ~HeaderReader() = default;
  // Never throws and never reads outside `packet`, whatever it holds.
  virtual PacketFacts read(std::span<const uint8_t> packet) = 0;
  // True when, in a container that gives every packet its time, shown frames and random access may
  // be concluded from what read() says; false for codecs where old files break the rules.
  virtual bool is_conclusive() const = 0;
};

// The reader for the stream's codec, or null when there are no rules for it.
std::unique_ptr<HeaderReader> make_header_reader(const StreamParameters& stream);

// The readers, one file each.
std::unique_ptr<HeaderReader> make_h264_header_reader(
    const StreamParameters& stream);  // ITU-T H.264
std::unique_ptr<HeaderReader> make_hevc_header_reader(
    const StreamParameters& stream);                       // ITU-T H.265
std::unique_ptr<HeaderReader> make_vp8_header_reader();    // RFC 6386
std::unique_ptr<HeaderReader> make_vp9_header_reader();    // VP9 bitstream specification, v0.6
std::unique_ptr<HeaderReader> make_av1_header_reader();    // AV1 bitstream specification, errata 1
std::unique_ptr<HeaderReader> make_mpeg2_header_reader();  // ISO/IEC 11172-2, 13818-2
std::unique_ptr<HeaderReader> make_mpeg4_header_reader();  // ISO/IEC 14496-2

}  // namespace keiko::media
