// Members of a plain POSIX tar file (ustar), so that any tool takes a shard's videos out again.

#pragma once
#include <cstdint>
#include <span>
#include <string>

namespace keiko::data {

constexpr int64_t kTarBlock = 512;  // headers and contents begin at multiples of it

// The block before a member's content: a plain file, mode 0644, owner 0, time 0, so that the same
// members give the same bytes. Throws Error(kData) when the name has more than 100 bytes or the
// content more than 8 GiB, which the format cannot say.
std::string tar_header(const std::string& name, int64_t size);

// Zeros that fill the last block of a content of `size` bytes.
inline std::string tar_padding(int64_t size) {
  return std::string(size_t((kTarBlock - size % kTarBlock) % kTarBlock), '\0');
}

// The two empty blocks that end a tar file.
inline std::string tar_end() { return std::string(2 * kTarBlock, '\0'); }

}  // namespace keiko::data
