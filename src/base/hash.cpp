#include "base/hash.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <vector>

namespace keiko {

uint64_t xxh3(std::span<const uint8_t> bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }
uint64_t xxh3(std::string_view text) { return XXH3_64bits(text.data(), text.size()); }

bool checksum_holds([[maybe_unused]] std::span<const uint8_t> bytes,
                    [[maybe_unused]] uint64_t expected) {
#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
  return true;
#else
  return xxh3(bytes) == expected;
#endif
}
bool checksum_holds(std::string_view text, uint64_t expected) {
  return checksum_holds({reinterpret_cast<const uint8_t*>(text.data()), text.size()}, expected);
}

std::string hex64(uint64_t value) { return fmt::format("{:016x}", value); }

RunningXxh3::RunningXxh3() : state_(XXH3_createState()) { XXH3_64bits_reset(state_); }
RunningXxh3::~RunningXxh3() { XXH3_freeState(state_); }
void RunningXxh3::add(std::span<const uint8_t> bytes) {
  XXH3_64bits_update(state_, bytes.data(), bytes.size());
}
uint64_t RunningXxh3::value() const { return XXH3_64bits_digest(state_); }

uint64_t xxh3_of_file(const std::string& path, Env* env) {
  const auto file = env->open(path);
  RunningXxh3 hash;
  std::vector<uint8_t> buffer(1 << 20);
  for (int64_t at = 0; at < file->size();) {
    const int64_t n = std::min<int64_t>(int64_t(buffer.size()), file->size() - at);
    const std::span<uint8_t> piece(buffer.data(), size_t(n));
    file->read(at, piece);
    hash.add(piece);
    at += n;
  }
  return hash.value();
}

uint64_t sampled_xxh3_of_file(const std::string& path, Env* env) {
  constexpr int64_t kSample = 64 << 10;
  const auto file = env->open(path);
  const int64_t size = file->size();
  std::vector<uint8_t> bytes(8);
  for (int i = 0; i < 8; ++i) bytes[i] = uint8_t(uint64_t(size) >> (8 * i));
  for (int64_t at : {int64_t{0}, size / 2, size - kSample}) {
    at = std::max<int64_t>(at, 0);
    const int64_t n = std::min(kSample, size - at);
    const size_t old = bytes.size();
    bytes.resize(old + n);
    file->read(at, {bytes.data() + old, size_t(n)});
  }
  return xxh3(bytes);
}

}  // namespace keiko
