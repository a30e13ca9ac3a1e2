#include "media/packet_facts.h"

namespace keiko::media {

std::unique_ptr<PacketReader> make_packet_reader(const StreamParameters& stream) {
  const std::string& codec = stream.codec;
  if (codec == "h264") return make_h264_reader(stream);
  if (codec == "hevc") return make_hevc_reader(stream);
  if (codec == "vp8") return make_vp8_reader();
  if (codec == "vp9") return make_vp9_reader();
  if (codec == "av1") return make_av1_reader();
  if (codec == "mpeg1video" || codec == "mpeg2video") return make_mpeg2_reader();
  if (codec == "mpeg4") return make_mpeg4_reader();
  return nullptr;
}

}  // namespace keiko::media
