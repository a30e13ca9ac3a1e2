// Packets that start a coded video sequence by themselves, whatever was decoded before them.
//
// At such a packet streams may be joined without telling the decoder: H.264 and HEVC define what
// becomes of the pictures before it. A HEVC picture with leading pictures (CRA) only does so when
// it is called a broken link, which is what H.265 has broken-link pictures (BLA) for.

#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "media/packet_table.h"

namespace keiko::media {

// Whether the codec (FFmpeg's name) has such packets: H.264 and HEVC. Decoders of others hold no
// pictures back, and key frames are all that they need.
bool has_instant_refresh(const std::string& codec);

// The packet, as it may follow any other packet without a flush: IDR pictures and BLA pictures as
// they are, CRA pictures named BLA. Empty when it holds anything else. `packet` is in the framing
// that the stream's extradata tells. Never throws; never reads outside `packet`.
std::vector<uint8_t> as_instant_refresh(const StreamParameters& stream,
                                        std::span<const uint8_t> packet);

// Whether no later packet can show a picture of this one, so that a decoder may be told to show
// nothing of it: false for AV1 and VP9 packets that bring pictures to be shown later, for packets
// that cannot be read, and for other codecs than H.264, HEVC, VP9 and AV1.
bool may_be_hidden(const StreamParameters& stream, std::span<const uint8_t> packet);

}  // namespace keiko::media
