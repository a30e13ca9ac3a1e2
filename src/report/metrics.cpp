#include "report/metrics.h"
#include "base/json_text.h"

#include <sstream>

namespace keiko::report {

JsonLines::JsonLines(Env* env, const std::string& path, int64_t length)
    : file_(env->append_to(path, length)), length_(length) {}

void JsonLines::write(const nlohmann::ordered_json& line) {
  const std::string text = json_text(line) + "\n";
  file_->append(text);
  length_ += int64_t(text.size());
}

void JsonLines::sync() { file_->sync(); }

std::vector<nlohmann::json> read_json_lines(Env* env, const std::string& path) {
  std::vector<nlohmann::json> lines;
  std::istringstream text(read_text(env, path));
  for (std::string line; std::getline(text, line);) {
    auto json = nlohmann::json::parse(line, nullptr, false);
    if (!json.is_discarded()) lines.push_back(std::move(json));
  }
  return lines;
}

}  // namespace keiko::report
