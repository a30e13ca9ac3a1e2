// metrics.jsonl: one JSON object a line, appended as a run goes on, cut back on resume.

#pragma once
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/env.h"

namespace keiko::report {

// A file of JSON lines that remembers how long it is. Not thread-safe.
class JsonLines {
 public:
  // Goes on after the first `length` bytes of `path` (0 starts afresh); what follows is cut off.
  // Throws Error(kData) when the file is shorter than that, Error(kIo).
  JsonLines(Env* env, const std::string& path, int64_t length);
  void write(const nlohmann::ordered_json& line);
  // Makes everything written durable: called before a checkpoint records the length.
  void sync();
  int64_t length() const { return length_; }

 private:
  std::unique_ptr<WritableFile> file_;
  int64_t length_;
};

// All lines of a file; a torn last line is left out. Throws Error(kIo).
std::vector<nlohmann::json> read_json_lines(Env* env, const std::string& path);

}  // namespace keiko::report
