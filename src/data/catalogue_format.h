// Sizes and numbers that the catalogue's reader and writer share; the layout is in docs/formats.md.

#pragma once
#include <cstdint>
#include <cstring>
#include <string>

namespace keiko::data {

constexpr char kCatalogueMagic[9] = "KEIKOKIX";
constexpr char kCatalogueEnd[9] = "KEIKOEND";
constexpr uint32_t kCatalogueVersion = 2;
constexpr int kSections = 6;  // description, items, videos, content hashes, paths, records
constexpr int64_t kHeaderSize = 64;
constexpr int64_t kTailSize = kSections * 24 + 32;
constexpr int64_t kItemSize = 48;
constexpr int64_t kVideoSize = 88;

// What a video's place in a catalogue and the head of a journal's record have in common, as it lies
// in both files. Flags: see docs/formats.md.
struct SummaryFields {
  uint32_t path_size, flags;
  int64_t frame_count;
  double duration_s, fps;
};
static_assert(sizeof(SummaryFields) == 32);

struct VideoSummary;
SummaryFields fields_of(const VideoSummary& summary, size_t path_size);
// Fills in what the fields say; they may hold anything.
void take_fields(const SummaryFields& fields, VideoSummary& summary);

// Values lie in the file as in memory: Keiko runs on little-endian machines.
template <class T>
void put(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(value));
}
template <class T>
T get(const uint8_t* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof(value));
  return value;
}

}  // namespace keiko::data
