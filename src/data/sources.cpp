#include "data/sources.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "base/error.h"

namespace keiko::data {
namespace {

namespace fs = std::filesystem;

std::string suffix_of(const std::string& path) {
  std::string suffix = fs::path(path).extension().string();
  std::transform(suffix.begin(), suffix.end(), suffix.begin(), ::tolower);
  return suffix;
}

bool looks_like_video(const std::string& path) {
  static const std::set<std::string> kSuffixes = {
      ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi",  ".ts",   ".mts", ".m2ts", ".mpg", ".mpeg",
      ".flv", ".wmv", ".3gp", ".ogv", ".ivf",  ".h264", ".hevc", ".obu", ".vob",  ".gif", ".mxf"};
  return kSuffixes.contains(suffix_of(path));
}

// `seen` holds the real paths of folders visited: links may lead in circles.
void walk(Env* env, const std::string& folder, const std::string& label, int depth,
          std::set<std::string>& seen, std::vector<SourceVideo>& out) {
  std::error_code code;
  if (!seen.insert(fs::canonical(folder, code).string()).second || code) return;
  for (const std::string& name : env->list(folder)) {
    const std::string path = folder + "/" + name;
    if (fs::is_directory(path, code))
      walk(env, path, depth == 0 ? name : label, depth + 1, seen, out);
    else if (looks_like_video(name))
      out.push_back({path, label});
  }
}

std::string trim(const std::string& text) {
  const size_t from = text.find_first_not_of(" \t\r");
  if (from == std::string::npos) return "";
  return text.substr(from, text.find_last_not_of(" \t\r") - from + 1);
}

// One CSV row: fields may be quoted, quotes doubled inside (RFC 4180).
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

SourceVideo split_path_label(Env* env, const std::string& line, const std::string& folder) {
  const auto exists = [&](const std::string& path) {
    return env->status(fs::path(path).is_absolute() ? path : folder + "/" + path).exists;
  };
  const size_t space = line.find_last_of(" \t");
  // A path with spaces and no label is told apart by being there.
  if (space == std::string::npos || (exists(line) && !exists(trim(line.substr(0, space)))))
    return {line, ""};
  return {trim(line.substr(0, space)), line.substr(space + 1)};
}

void read_list(Env* env, const std::string& path, std::vector<SourceVideo>& out) {
  const std::string suffix = suffix_of(path), folder = parent_folder(path);
  std::istringstream text(read_text(env, path));
  const char separator = suffix == ".tsv" ? '\t' : ',';
  bool is_first_row = true;
  int path_column = -1, label_column = -1, line_number = 0;
  for (std::string raw; std::getline(text, raw);) {
    // In a table, tabs and spaces at the end are fields.
    const bool is_table = suffix == ".csv" || suffix == ".tsv";
    const std::string line = is_table ? raw.substr(0, raw.find_last_not_of('\r') + 1) : trim(raw);
    ++line_number;
    if (trim(line).empty() || line[0] == '#') continue;
    SourceVideo video;
    if (suffix == ".jsonl") {
      const auto json = nlohmann::json::parse(line, nullptr, false);
      if (!json.is_object() || !json.contains("path") || !json["path"].is_string())
        fail(ErrorKind::kUsage, "{}:{}: not a JSON object with a path: {}", path, line_number,
             line);
      video.path = json["path"];
      if (json.contains("label"))
        video.label =
            json["label"].is_string() ? json["label"].get<std::string>() : json["label"].dump();
    } else if (is_table) {
      const auto fields = split_row(line, separator);
      if (is_first_row) {
        is_first_row = false;
        for (size_t i = 0; i < fields.size(); ++i) {
          if (fields[i] == "path") path_column = int(i);
          if (fields[i] == "label") label_column = int(i);
        }
        if (path_column >= 0) continue;
      }
      if (path_column < 0) {
        video = split_path_label(env, trim(line), folder);
      } else {
        if (int(fields.size()) <= std::max(path_column, label_column))
          fail(ErrorKind::kUsage, "{}:{}: {} fields, fewer than the header: {}", path, line_number,
               fields.size(), line);
        video.path = fields[size_t(path_column)];
        if (label_column >= 0) video.label = fields[size_t(label_column)];
      }
    } else {
      video = split_path_label(env, line, folder);
    }
    if (fs::path(video.path).is_relative()) video.path = folder + "/" + video.path;
    out.push_back(std::move(video));
  }
}

}  // namespace

std::vector<SourceVideo> find_videos(Env* env, const std::vector<std::string>& sources) {
  static const std::set<std::string> kLists = {".csv", ".tsv", ".txt", ".list", ".jsonl"};
  std::vector<SourceVideo> videos;
  for (const std::string& source : sources) {
    const FileStatus status = env->status(source);
    if (!status.exists) fail(ErrorKind::kUsage, "{}: no such file or folder", source);
    std::string path = source;
    while (path.size() > 1 && path.back() == '/') path.pop_back();
    std::set<std::string> seen;
    if (status.is_folder)
      walk(env, path, "", 0, seen, videos);
    else if (kLists.contains(suffix_of(source)))
      read_list(env, source, videos);
    else
      videos.push_back({source, ""});
  }
  if (videos.empty()) {
    std::string all;
    for (const std::string& source : sources) all += (all.empty() ? "" : ", ") + source;
    fail(ErrorKind::kData, "{}: no video found; name a folder, video files, or a list of paths",
         all);
  }
  return videos;
}

}  // namespace keiko::data
