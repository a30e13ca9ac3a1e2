#include "media/trial.h"

#include <algorithm>
#include <list>
#include <unordered_map>

#include "base/error.h"
#include "media/demux.h"
#include "media/frame_decoder.h"

namespace keiko::media {
namespace {

// A decoder that began at one random-access point, and the frames that it owes.
struct Challenger {
  uint32_t start = 0;
  std::unique_ptr<FrameDecoder> decoder;
  std::unordered_multimap<uint32_t, uint32_t> owed;  // packet -> frame
};

// Which packets a round leaves out.
enum class Drops { kNone, kEven, kOdd };

bool is_dropped(const PacketTable& table, uint32_t packet, Drops drops) {
  if (drops == Drops::kNone || !(table.flags[packet] & kDroppable)) return false;
  return packet % 2 == (drops == Drops::kEven ? 0 : 1);
}

struct Verdict {
  std::vector<uint32_t> bad_starts;  // random-access points whose frames differ, ascending
  int64_t first_bad_frame = -1;
};

// Every challenger gets the packets from its point on until all its frames have come out.
Verdict try_round(Env* env, const std::string& path, const Sighting& truth,
                  const PacketTable& table, Drops drops) {
  std::unordered_map<uint32_t, std::vector<uint32_t>> frames_of;  // start -> frames
  for (uint32_t f = 0; f < table.frame_packet.size(); ++f)
    if (!is_dropped(table, table.frame_packet[f], drops))
      frames_of[table.frame_start[f]].push_back(f);
  Verdict verdict;
  std::list<Challenger> active;
  auto blame = [&](const Challenger& c, uint32_t frame) {
    if (verdict.bad_starts.empty() || verdict.bad_starts.back() != c.start)
      verdict.bad_starts.push_back(c.start);
    if (verdict.first_bad_frame < 0 || frame < verdict.first_bad_frame)
      verdict.first_bad_frame = frame;
  };
  auto judge = [&](Challenger& c) {
    return [&](uint32_t packet, const AVFrame& frame) {
      // Frames of one packet come out in order: the earliest that is still owed.
      auto [from, to] = c.owed.equal_range(packet);
      if (from == to) return;
      auto earliest = std::min_element(
          from, to, [](const auto& a, const auto& b) { return a.second < b.second; });
      if (frame_hash(frame) != truth.hash[earliest->second]) blame(c, earliest->second);
      c.owed.erase(earliest);
    };
  };
  Demuxer demuxer(env, path, table.stream.stream_index);
  for (uint32_t ordinal = 0; ordinal < table.size.size(); ++ordinal) {
    const AVPacket* packet = demuxer.next();
    if (packet == nullptr) break;
    if (const auto found = frames_of.find(ordinal); found != frames_of.end()) {
      Challenger c{ordinal, std::make_unique<FrameDecoder>(table.stream), {}};
      for (uint32_t f : found->second) c.owed.emplace(table.frame_packet[f], f);
      active.push_back(std::move(c));
    }
    if (is_dropped(table, ordinal, drops)) continue;
    for (auto c = active.begin(); c != active.end();) {
      c->decoder->feed({packet->data, size_t(packet->size)}, ordinal,
                       (packet->flags & AV_PKT_FLAG_DISCARD) != 0, judge(*c), packet);
      c = c->owed.empty() ? active.erase(c) : std::next(c);
    }
  }
  for (Challenger& c : active) {
    c.decoder->drain(judge(c));
    for (const auto& [packet, frame] : c.owed) blame(c, frame);
  }
  std::sort(verdict.bad_starts.begin(), verdict.bad_starts.end());
  verdict.bad_starts.erase(std::unique(verdict.bad_starts.begin(), verdict.bad_starts.end()),
                           verdict.bad_starts.end());
  return verdict;
}

void stop_skipping(PacketTable& table, std::string reason) {
  table.skipping = false;
  table.skipping_off = std::move(reason);
  for (uint8_t& flags : table.flags) flags &= uint8_t(~kDroppable);
}

}  // namespace

Sighting watch_decoder(Env* env, const std::string& path, const PacketTable& table) {
  Sighting sighting;
  FrameDecoder decoder(table.stream, LoopFilter::kExact, FrameDecoder::Shows::kAsAPlayer);
  Demuxer demuxer(env, path, table.stream.stream_index);
  auto note = [&](uint32_t packet, const AVFrame& frame) {
    sighting.packet.push_back(packet);
    sighting.hash.push_back(frame_hash(frame));
  };
  for (uint32_t ordinal = 0; ordinal < table.size.size(); ++ordinal) {
    const AVPacket* packet = demuxer.next();
    if (packet == nullptr) break;
    decoder.feed({packet->data, size_t(packet->size)}, ordinal,
                 (packet->flags & AV_PKT_FLAG_DISCARD) != 0, note, packet);
  }
  decoder.drain(note);
  sighting.is_numbered = !decoder.lost_an_ordinal();
  sighting.complaints = decoder.complaints();
  return sighting;
}

bool try_shortcuts(Env* env, const std::string& path, const Sighting& truth, PacketTable& table) {
  bool held = true;
  PacketTable trial = table;
  trial.mapped_by_decoding = true;  // so that frame_start is filled
  complete_table(trial);
  // Frames of a point that failed start from an earlier one, which must be tried in its turn.
  constexpr int kMostRounds = 4;
  for (int round = 0;; ++round) {
    const Verdict verdict = try_round(env, path, truth, trial, Drops::kNone);
    const bool only_first = verdict.bad_starts.empty() ||
                            (verdict.bad_starts.size() == 1 && verdict.bad_starts[0] == 0);
    if (only_first && verdict.bad_starts.empty()) break;
    held = false;
    if (only_first)
      fail(ErrorKind::kData, "{}: frame {} decodes differently from one time to the next", path,
           verdict.first_bad_frame);
    for (uint32_t p = 0; p < trial.flags.size(); ++p) {
      const bool is_bad =
          std::binary_search(verdict.bad_starts.begin(), verdict.bad_starts.end(), p);
      if (p > 0 && (is_bad || round + 1 >= kMostRounds)) trial.flags[p] &= uint8_t(~kRandomAccess);
    }
    complete_table(trial);
  }
  if (trial.skipping) {
    for (Drops drops : {Drops::kEven, Drops::kOdd}) {
      const Verdict verdict = try_round(env, path, truth, trial, drops);
      if (verdict.bad_starts.empty()) continue;
      held = false;
      stop_skipping(trial, fmt::format("without the droppable packets frame {} changes",
                                       verdict.first_bad_frame));
      break;
    }
  }
  table.flags = trial.flags;
  table.skipping = trial.skipping;
  table.skipping_off = trial.skipping_off;
  complete_table(table);
  return held;
}

void verify_video(Env* env, const std::string& path, PacketTable& table) {
  if (table.corrupt_packets > 0)
    fail(ErrorKind::kData, "{}: {} damaged packets", path, table.corrupt_packets);
  const Sighting seen = watch_decoder(env, path, table);
  if (seen.complaints > 0)
    fail(ErrorKind::kData, "{}: the {} decoder complained {} times: damaged pictures", path,
         table.stream.codec, seen.complaints);
  if (seen.packet != table.frame_packet)
    fail(ErrorKind::kData,
         "{}: {} frames were expected and {} came out of the decoder, or in another order", path,
         table.frame_packet.size(), seen.packet.size());
  try_shortcuts(env, path, seen, table);
}

}  // namespace keiko::media
