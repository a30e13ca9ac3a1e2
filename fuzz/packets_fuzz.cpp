// Arbitrary packets under arbitrary extradata: the readers that know a codec's headers.
//
// Input: a byte that chooses the codec, a byte that tells how long the extradata is, the extradata,
// and then packets, each behind one byte of length.

#include <iterator>

#include "fuzz/target.h"
#include "media/packet_facts.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr const char* kCodecs[] = {"h264", "hevc",       "vp8",        "vp9",
                                     "av1",  "mpeg2video", "mpeg1video", "mpeg4"};
  std::span<const uint8_t> rest(data, size);
  if (rest.size() < 2) return 0;
  keiko::media::StreamParameters stream;
  stream.codec = kCodecs[rest[0] % std::size(kCodecs)];
  const size_t extradata_size = std::min<size_t>(rest[1], rest.size() - 2);
  stream.extradata.assign(rest.begin() + 2, rest.begin() + 2 + int64_t(extradata_size));
  rest = rest.subspan(2 + extradata_size);
  const auto reader = keiko::media::make_header_reader(stream);
  if (reader == nullptr) return 0;
  while (!rest.empty()) {
    const size_t packet_size = std::min<size_t>(rest[0], rest.size() - 1);
    // Exactly as long as it is, so that a read behind it is noticed.
    const std::vector<uint8_t> packet(rest.begin() + 1, rest.begin() + 1 + int64_t(packet_size));
    const auto facts = reader->read(packet);
    keiko::fuzz::require(facts.shown_frames >= -1, "a packet shows no less than nothing");
    keiko::fuzz::require(facts.temporal_id >= 0 && facts.temporal_id < 8,
                         "temporal ids are those of the codec");
    rest = rest.subspan(1 + packet_size);
  }
  return 0;
}
