// Reads a header bit by bit. Past the end it gives zeros and remembers that it did.

#pragma once
#include <cstdint>
#include <span>

namespace keiko::media {

class BitReader {
 public:
  explicit BitReader(std::span<const uint8_t> bytes) : bytes_(bytes) {}

  // The next `count` bits, most significant first; 0 <= count <= 32.
  uint32_t bits(int count) {
    uint32_t value = 0;
    for (int i = 0; i < count; ++i) value = value << 1 | bit();
    return value;
  }
  uint32_t bit() {
    if (at_ >= bytes_.size() * 8) {
      ended_ = true;
      return 0;
    }
    const uint32_t value = bytes_[at_ / 8] >> (7 - at_ % 8) & 1;
    ++at_;
    return value;
  }
  // Exponential-Golomb code, H.264 and H.265 clause 9.1 and 9.2 (ue(v)).
  uint32_t ue() {
    int zeros = 0;
    while (zeros < 32 && !ended_ && bit() == 0) ++zeros;
    return zeros >= 32 ? UINT32_MAX : (uint32_t(1) << zeros) - 1 + bits(zeros);
  }
  bool ended() const { return ended_; }

 private:
  std::span<const uint8_t> bytes_;
  size_t at_ = 0;
  bool ended_ = false;
};

}  // namespace keiko::media
