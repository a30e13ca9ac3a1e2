#include "data/list_text.h"

#include <algorithm>
#include <filesystem>
#include <sstream>

namespace keiko::data {

std::string suffix_of(const std::string& path) {
  return lower_case(std::filesystem::path(path).extension().string());
}

std::string trim(const std::string& text) {
  const size_t from = text.find_first_not_of(" \t\r");
  if (from == std::string::npos) return "";
  return text.substr(from, text.find_last_not_of(" \t\r") - from + 1);
}

std::string lower_case(std::string text) {
  for (char& c : text)
    if (c >= 'A' && c <= 'Z') c = char(c - 'A' + 'a');
  return text;
}

std::vector<std::string> split_row(const std::string& line, char separator) {
  std::vector<std::string> fields(1);
  bool quoted = false;
  for (size_t i = 0; i < line.size(); ++i) {
    const char c = line[i];
    if (quoted && c == '"' && i + 1 < line.size() && line[i + 1] == '"') {
      fields.back() += '"';
      ++i;
    } else if (c == '"') {
      quoted = !quoted;
    } else if (c == separator && !quoted) {
      fields.emplace_back();
    } else {
      fields.back() += c;
    }
  }
  for (std::string& field : fields) field = trim(field);
  return fields;
}

void each_list_line(Env* env, const std::string& path, bool is_table,
                    const std::function<void(const std::string&, int64_t)>& visit) {
  std::string content = read_text(env, path);
  if (content.rfind("\xEF\xBB\xBF", 0) == 0) content.erase(0, 3);  // as spreadsheets write it
  std::istringstream text(std::move(content));
  int64_t number = 0;
  for (std::string raw; std::getline(text, raw);) {
    const std::string line = is_table ? raw.substr(0, raw.find_last_not_of('\r') + 1) : trim(raw);
    ++number;
    if (trim(line).empty() || line[0] == '#') continue;
    visit(line, number);
  }
}

}  // namespace keiko::data
