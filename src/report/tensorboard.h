// Scalars in the event files that TensorBoard opens: TFRecord framing around protobuf events.

#pragma once
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/env.h"

namespace keiko::report {

// Not thread-safe.
class TensorBoardWriter {
 public:
  // Creates `folder`/events.out.tfevents.TIME.HOST. Each start of a run makes a new file;
  // TensorBoard joins them by step. Throws Error(kIo).
  TensorBoardWriter(Env* env, const std::string& folder);
  // Appends one event. Tags are the field's: "train/loss", "eval/top1".
  void write(int64_t step, const std::vector<std::pair<std::string, double>>& scalars);

 private:
  void append_record(const std::string& record);
  std::unique_ptr<WritableFile> file_;
};

// CRC-32C (Castagnoli), as TFRecord masks it; public for its known-answer test.
uint32_t crc32c(const std::string& bytes);

}  // namespace keiko::report
