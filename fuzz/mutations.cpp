#include "fuzz/mutations.h"

#include <algorithm>
#include <iterator>
#include <random>

namespace keiko::fuzz {
namespace {

// Not the standard distributions: those differ between libraries.
struct Draw {
  std::mt19937_64 bits;
  // From 0 to n - 1; 0 when n is 0.
  size_t below(size_t n) { return n == 0 ? 0 : size_t(bits() % n); }
  // Small numbers are likelier than large ones.
  size_t skewed_below(size_t n) { return below(below(n) + 1); }
};

// Boxes of MP4 and elements of Matroska whose numbers decide over memory, offsets and loops.
constexpr const char* kMarks[] = {
    "moov",
    "mvhd",
    "trak",
    "tkhd",
    "edts",
    "elst",
    "mdia",
    "mdhd",
    "hdlr",
    "minf",
    "stbl",
    "stsd",
    "stts",
    "ctts",
    "stss",
    "stsz",
    "stsc",
    "stco",
    "co64",
    "avc1",
    "avcC",
    "hev1",
    "hvcC",
    "hvc1",
    "vp09",
    "av01",
    "av1C",
    "mdat",
    "ftyp",
    "moof",
    "traf",
    "tfhd",
    "trun",
    "sidx",
    "mfra",
    "colr",
    "pasp",
    "sbgp",
    "sgpd",
    "dref",
    "cslg",
    "\x1A\x45\xDF\xA3",  // EBML
    "\x18\x53\x80\x67",  // Segment
    "\x11\x4D\x9B\x74",  // SeekHead
    "\x15\x49\xA9\x66",  // Info
    "\x16\x54\xAE\x6B",  // Tracks
    "\x1F\x43\xB6\x75",  // Cluster
    "\x1C\x53\xBB\x6B",  // Cues
    "\x63\xA2",          // CodecPrivate
    "\xE0",              // Video
    "\xB0",
    "\xBA",  // PixelWidth, PixelHeight
    "\xA3",
    "\xA0",  // SimpleBlock, BlockGroup
    "RIFF",
    "LIST",
    "avih",
    "strh",
    "strf",
    "movi",
    "idx1",
};

constexpr uint64_t kNasty[] = {0,
                               1,
                               2,
                               0x7f,
                               0x80,
                               0xff,
                               0x7fff,
                               0x8000,
                               0xffff,
                               0x10000,
                               0x7ffffff,
                               0x7fffffff,
                               0x80000000,
                               0xfffffffe,
                               0xffffffff,
                               0x100000000,
                               0x7fffffffffffffff,
                               0x8000000000000000,
                               0xffffffffffffffff};

void put(std::string& bytes, size_t at, uint64_t value, int width, bool big_endian) {
  for (int i = 0; i < width && at + size_t(i) < bytes.size(); ++i)
    bytes[at + size_t(i)] = char(value >> (8 * (big_endian ? width - 1 - i : i)));
}

void flip_bits(std::string& b, const std::string&, Draw& draw) {
  for (size_t n = 1 + draw.skewed_below(64); n-- > 0;)
    b[draw.below(b.size())] ^= char(1 << draw.below(8));
}
void replace_bytes(std::string& b, const std::string&, Draw& draw) {
  for (size_t n = 1 + draw.skewed_below(64); n-- > 0;)
    b[draw.below(b.size())] = char(draw.below(256));
}
void zero_block(std::string& b, const std::string&, Draw& draw) {
  const size_t at = draw.below(b.size());
  const size_t n = 1 + draw.skewed_below(std::min<size_t>(b.size() - at, 65536));
  std::fill_n(b.begin() + int64_t(at), std::min(n, b.size() - at), '\0');
}
void cut_tail(std::string& b, const std::string&, Draw& draw) {
  b.resize(1 + draw.below(b.size()));
}
void remove_block(std::string& b, const std::string&, Draw& draw) {
  b.erase(draw.below(b.size()), 1 + draw.skewed_below(4096));
}
void repeat_block(std::string& b, const std::string&, Draw& draw) {
  const std::string block = b.substr(draw.below(b.size()), 1 + draw.skewed_below(4096));
  b.insert(draw.below(b.size()), block);
}
void swap_blocks(std::string& b, const std::string&, Draw& draw) {
  const size_t n = std::min<size_t>(1 + draw.skewed_below(4096), b.size() / 2);
  const size_t at = draw.below(b.size() - 2 * n + 1);
  const size_t to = at + n + draw.below(b.size() - at - 2 * n + 1);
  std::swap_ranges(b.begin() + int64_t(at), b.begin() + int64_t(at + n), b.begin() + int64_t(to));
}
void splice(std::string& b, const std::string& other, Draw& draw) {
  b = b.substr(0, draw.below(b.size())) + other.substr(draw.below(other.size()));
}
void insert_noise(std::string& b, const std::string&, Draw& draw) {
  std::string noise(1 + draw.skewed_below(1024), '\0');
  for (char& c : noise) c = char(draw.below(256));
  b.insert(draw.below(b.size()), noise);
}
// A number near a header's mark becomes one that overflows, is empty, or is off by one.
void change_field(std::string& b, const std::string&, Draw& draw) {
  const std::string mark = kMarks[draw.below(std::size(kMarks))];
  size_t at = b.find(mark, draw.below(4) == 0 ? draw.below(b.size()) : 0);
  if (at == std::string::npos) at = draw.below(b.size());
  // From the size before the mark to some fields after it.
  at = std::min(b.size() - 1, at + draw.skewed_below(64));
  if (at >= 4 && draw.below(3) == 0) at -= 4;
  const int widths[] = {1, 2, 4, 8};
  const int width = widths[draw.below(4)];
  if (draw.below(4) == 0)
    b[at] = char(b[at] + (draw.below(2) == 0 ? 1 : -1));
  else
    put(b, at, kNasty[draw.below(std::size(kNasty))], width, draw.below(4) != 0);
}

struct Mutation {
  const char* name;
  void (*apply)(std::string& bytes, const std::string& other, Draw& draw);
};
constexpr Mutation kMutations[] = {
    {"flip_bits", flip_bits},       {"replace_bytes", replace_bytes},
    {"zero_block", zero_block},     {"cut_tail", cut_tail},
    {"remove_block", remove_block}, {"repeat_block", repeat_block},
    {"swap_blocks", swap_blocks},   {"splice", splice},
    {"insert_noise", insert_noise}, {"change_field", change_field},
    {"change_field", change_field}, {"change_field", change_field},
};

}  // namespace

std::string mutate(const std::string& whole, const std::string& other, uint64_t seed,
                   std::string* what) {
  Draw draw{std::mt19937_64(seed)};
  std::string bytes = whole;
  for (size_t n = 1 + draw.skewed_below(4); n-- > 0 && !bytes.empty();) {
    const Mutation& mutation = kMutations[draw.below(std::size(kMutations))];
    mutation.apply(bytes, other.empty() ? whole : other, draw);
    if (what != nullptr) *what += (what->empty() ? "" : ", ") + std::string(mutation.name);
  }
  return bytes;
}

}  // namespace keiko::fuzz
