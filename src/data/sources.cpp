#include "data/sources.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "data/list_text.h"

namespace keiko::data {
namespace {

namespace fs = std::filesystem;

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

// The columns of a table whose first row names them.
struct Header {
  int path = -1, label = -1;  // -1: there is none
};

Header read_header(const std::vector<std::string>& fields, const std::string& place) {
  Header header;
  for (size_t i = 0; i < fields.size(); ++i) {
    const std::string name = lower_case(fields[i]);
    if (name == "path") header.path = int(i);
    if (name == "label") header.label = int(i);
  }
  if (header.label >= 0 && header.path < 0) {
    std::string all;
    for (const std::string& field : fields) all += (all.empty() ? "" : ", ") + field;
    fail(ErrorKind::kUsage, "{}: no column is named path (columns: {})", place, all);
  }
  return header;
}

SourceVideo read_json_line(const std::string& line, const std::string& place) {
  const auto json = nlohmann::json::parse(line, nullptr, false);
  if (!json.is_object() || !json.contains("path") || !json["path"].is_string())
    fail(ErrorKind::kUsage, "{}: not a JSON object with a path: {}", place, line);
  SourceVideo video{json["path"], ""};
  if (json.contains("label") && !json["label"].is_null()) {
    const auto& label = json["label"];
    // A list or an object is no class name, and printing a deep one would overflow the stack.
    if (label.is_structured())
      fail(ErrorKind::kUsage, "{}: label must be a word or a number", place);
    video.label = label.is_string() ? label.get<std::string>() : label.dump();
  }
  return video;
}

}  // namespace

std::vector<SourceVideo> read_video_list(Env* env, const std::string& path) {
  const std::string suffix = suffix_of(path), folder = parent_folder(path);
  const bool is_table = suffix == ".csv" || suffix == ".tsv";
  const char separator = suffix == ".tsv" ? '\t' : ',';
  std::vector<SourceVideo> videos;
  Header header;
  bool is_first_row = true;
  each_list_line(env, path, is_table, [&](const std::string& line, int64_t number) {
    const std::string place = fmt::format("{}:{}", path, number);
    if (suffix == ".jsonl") {
      videos.push_back(read_json_line(line, place));
      return;
    }
    if (!is_table) {
      videos.push_back(split_path_label(env, line, folder));
      return;
    }
    const auto fields = split_row(line, separator);
    if (is_first_row) header = read_header(fields, place);
    const bool is_header = is_first_row && header.path >= 0;
    is_first_row = false;
    if (is_header) return;
    if (header.path < 0) {
      // A row of two fields; or, as VideoMAE writes its .csv, words, where a path may hold commas.
      SourceVideo words = split_path_label(env, trim(line), folder);
      const bool are_fields =
          fields.size() == 2 &&
          !env->status(fs::path(words.path).is_absolute() ? words.path : folder + "/" + words.path)
               .exists;
      videos.push_back(are_fields ? SourceVideo{fields[0], fields[1]} : std::move(words));
      return;
    }
    if (int(fields.size()) <= std::max(header.path, header.label))
      fail(ErrorKind::kUsage, "{}: {} fields, fewer than the header: {}", place, fields.size(),
           line);
    if (fields[size_t(header.path)].empty())
      fail(ErrorKind::kUsage, "{}: the path is empty: {}", place, line);
    videos.push_back({fields[size_t(header.path)],
                      header.label >= 0 ? fields[size_t(header.label)] : std::string()});
  });
  return videos;
}

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
      for (SourceVideo& video : read_video_list(env, source)) {
        if (fs::path(video.path).is_relative())
          video.path = parent_folder(source) + "/" + video.path;
        videos.push_back(std::move(video));
      }
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
