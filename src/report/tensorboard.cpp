#include "report/tensorboard.h"

#include <array>
#include <chrono>
#include <cstring>

#include <fmt/format.h>

#include "base/machine.h"
#include "report/event.pb.h"

namespace keiko::report {
namespace {

double unix_time_s() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

// TFRecord: "masked" so that a CRC of data that holds CRCs is not degenerate.
uint32_t masked_crc(const std::string& bytes) {
  const uint32_t crc = crc32c(bytes);
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
}

template <class T>
std::string bytes_of(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof(value)};
}

}  // namespace

uint32_t crc32c(const std::string& bytes) {
  static const std::array<uint32_t, 256> table = [] {
    std::array<uint32_t, 256> t{};
    for (uint32_t i = 0; i < 256; ++i) {
      uint32_t c = i;
      for (int bit = 0; bit < 8; ++bit) c = c & 1 ? c >> 1 ^ 0x82f63b78u : c >> 1;
      t[i] = c;
    }
    return t;
  }();
  uint32_t crc = ~0u;
  for (const char c : bytes) crc = crc >> 8 ^ table[(crc ^ uint8_t(c)) & 255];
  return ~crc;
}

TensorBoardWriter::TensorBoardWriter(Env* env, const std::string& folder) {
  env->make_folder(folder);
  const double now = unix_time_s();
  file_ = env->create(fmt::format("{}/events.out.tfevents.{:.6f}.{}", folder, now, host_name()));
  pb::Event event;
  event.set_wall_time(now);
  event.set_file_version("brain.Event:2");
  append_record(event.SerializeAsString());
}

void TensorBoardWriter::write(int64_t step,
                              const std::vector<std::pair<std::string, double>>& scalars) {
  pb::Event event;
  event.set_wall_time(unix_time_s());
  event.set_step(step);
  for (const auto& [tag, value] : scalars) {
    pb::Summary::Value* v = event.mutable_summary()->add_value();
    v->set_tag(tag);
    v->set_simple_value(float(value));
  }
  append_record(event.SerializeAsString());
}

void TensorBoardWriter::append_record(const std::string& record) {
  const std::string length = bytes_of(uint64_t(record.size()));
  file_->append(length + bytes_of(masked_crc(length)) + record + bytes_of(masked_crc(record)));
}

}  // namespace keiko::report
