// A video's packets and frames from front to back, one at a time: for work that passes over whole
// videos, where reading all bytes of a plan at once would need memory for all of them.

#pragma once
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/env.h"
#include "media/ffmpeg.h"
#include "media/packet_table.h"
#include "media/plan_feeder.h"

namespace keiko::media {

// Not thread-safe. `table` and `path` outlive the reader.
class PacketReader : public PacketSource {
 public:
  // Opens the file: directly when the table allows it, through libavformat otherwise.
  PacketReader(Env* env, const PacketTable& table, const std::string& path);
  Packet get(uint32_t ordinal) override;

 private:
  const PacketTable& table_;
  std::unique_ptr<ReadableFile> file_;
  std::unique_ptr<DemuxedPackets> demuxed_;
  std::vector<uint8_t> bytes_;
};

// What to do with pictures that the decoder concealed and packets that it refused.
enum class Damage { kRefuse, kAccept };

// Decodes `frames` (presentation indices, ascending, unique) in one pass with memory for a few
// frames. `receive` gets each once, in order, valid during the call. Throws Error(kData) naming the
// frame that does not come out or, with kRefuse, that is damaged; Error(kIo).
void decode_in_order(Env* env, const PacketTable& table, const std::string& path,
                     std::span<const int64_t> frames, Damage damage,
                     const std::function<void(int64_t index, const AVFrame& frame)>& receive);

}  // namespace keiko::media
