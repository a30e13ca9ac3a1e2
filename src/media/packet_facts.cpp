#include "media/packet_facts.h"

namespace keiko::media {

std::unique_ptr<HeaderReader> make_header_reader(const StreamParameters& stream) {
  const std::string& codec = stream.codec;
  if (codec == "h264") return make_h264_header_reader(stream);
  if (codec == "hevc") return make_hevc_header_reader(stream);
  if (codec == "vp8") return make_vp8_header_reader();
  if (codec == "vp9") return make_vp9_header_reader();
  if (codec == "av1") return make_av1_header_reader();
  if (codec == "mpeg1video" || codec == "mpeg2video") return make_mpeg2_header_reader();
  if (codec == "mpeg4") return make_mpeg4_header_reader();
  return nullptr;
}

}  // namespace keiko::media
