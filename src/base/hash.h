// xxh3 fingerprints of bytes and files: for noticing damage and change, not for security.

#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/env.h"

struct XXH3_state_s;

namespace keiko {

uint64_t xxh3(std::span<const uint8_t> bytes);
uint64_t xxh3(std::string_view text);

// True when the bytes have the fingerprint that was written beside them. Readers ask this rather
// than compare by themselves: the fuzz build takes every checksum for right, or mutated bytes would
// never get past it.
bool checksum_holds(std::span<const uint8_t> bytes, uint64_t expected);
bool checksum_holds(std::string_view text, uint64_t expected);

// Sixteen lower-case hexadecimal digits.
std::string hex64(uint64_t value);

// The fingerprint of bytes that come piece by piece: that of all of them in one. Not thread-safe.
class RunningXxh3 {
 public:
  RunningXxh3();
  ~RunningXxh3();
  RunningXxh3(const RunningXxh3&) = delete;
  RunningXxh3& operator=(const RunningXxh3&) = delete;
  void add(std::span<const uint8_t> bytes);
  uint64_t value() const;

 private:
  XXH3_state_s* state_;
};

// Fingerprint of a whole file, read once in order. Throws Error(kIo).
uint64_t xxh3_of_file(const std::string& path, Env* env = default_env());

// Fingerprint of a file's size and its first, middle and last 64 KiB: enough to notice that a video
// is another one without reading gigabytes. Throws Error(kIo).
uint64_t sampled_xxh3_of_file(const std::string& path, Env* env = default_env());

}  // namespace keiko
