#include "data/labels.h"

#include <algorithm>
#include <filesystem>
#include <span>
#include <unordered_map>

#include "base/error.h"
#include "base/hash.h"
#include "data/index.h"
#include "data/sources.h"

namespace keiko::data {
namespace {

namespace fs = std::filesystem;

// Videos by a hash of a text: 64 bits tell a billion texts apart.
using ByHash = std::vector<std::pair<uint64_t, uint32_t>>;

uint64_t hash_of(std::string_view text) { return xxh3(text); }

std::string_view name_of(std::string_view path) {
  return path.substr(path.find_last_of('/') + 1);  // npos + 1 is 0
}

std::span<const std::pair<uint64_t, uint32_t>> find(const ByHash& all, std::string_view text) {
  const uint64_t hash = hash_of(text);
  const auto low = std::lower_bound(all.begin(), all.end(), std::pair(hash, uint32_t{0}));
  auto high = low;
  while (high != all.end() && high->first == hash) ++high;
  return {low, high};
}

// `path`, or `folder/path` when it is relative, without dots and double slashes.
std::string join(const std::string& folder, const std::string& path) {
  const std::string joined = path.rfind('/', 0) == 0 ? path : folder + "/" + path;
  // Most have neither, and making a path normal takes longer than finding it.
  if (joined.find("/.") == std::string::npos && joined.find("//") == std::string::npos)
    return joined;
  return fs::path(joined).lexically_normal().string();
}

}  // namespace

Labels read_labels(Env* env, const std::string& list, const Catalogue& catalogue) {
  if (!env->status(list).exists)
    fail(ErrorKind::kUsage, "data.labels: {} does not exist; give a list of paths and labels",
         list);
  std::vector<SourceVideo> lines = read_video_list(env, list);
  std::erase_if(lines, [](const SourceVideo& line) { return line.label.empty(); });
  if (lines.empty())
    fail(ErrorKind::kUsage, "data.labels: {} holds no label; a line is a path and its label", list);

  Labels labels;
  labels.lines = int64_t(lines.size());
  std::vector<std::string> names;
  for (const SourceVideo& line : lines) names.push_back(line.label);
  labels.class_names = sort_class_names(names);
  std::unordered_map<std::string, int32_t> class_of;
  for (size_t i = 0; i < labels.class_names.size(); ++i)
    class_of[labels.class_names[i]] = int32_t(i);

  ByHash by_path, by_name;
  by_path.reserve(size_t(catalogue.video_count()));
  by_name.reserve(size_t(catalogue.video_count()));
  catalogue.each_summary([&](uint32_t index, const VideoSummary& s) {
    by_path.emplace_back(hash_of(s.file.path), index);
    by_name.emplace_back(hash_of(name_of(s.file.path)), index);
  });
  std::sort(by_path.begin(), by_path.end());
  std::sort(by_name.begin(), by_name.end());

  labels.of_video.assign(size_t(catalogue.video_count()), -1);
  const auto give = [&](std::span<const std::pair<uint64_t, uint32_t>> videos,
                        const SourceVideo& line) {
    const int32_t label = class_of.at(line.label);
    for (const auto& [hash, video] : videos) {
      int32_t& old = labels.of_video[video];
      if (old >= 0 && old != label)
        fail(ErrorKind::kUsage, "data.labels: {} gives {} two labels, {} and {}", list,
             catalogue.summary(video).file.path, labels.class_names[size_t(old)], line.label);
      old = label;
    }
    return !videos.empty();
  };

  const std::string list_folder = fs::weakly_canonical(parent_folder(list)).string();
  const std::string catalogue_folder =
      fs::weakly_canonical(parent_folder(catalogue.path())).string();
  std::vector<const SourceVideo*> left;
  for (const SourceVideo& line : lines) {
    if (give(find(by_path, join(list_folder, line.path)), line)) continue;
    if (line.path[0] != '/' && give(find(by_path, join(catalogue_folder, line.path)), line))
      continue;
    left.push_back(&line);
  }
  std::unordered_map<uint64_t, int> times_named;
  for (const SourceVideo* line : left) ++times_named[hash_of(name_of(line->path))];
  for (const SourceVideo* line : left) {
    const auto same_name = find(by_name, name_of(line->path));
    const bool is_unique =
        same_name.size() == 1 && times_named.at(hash_of(name_of(line->path))) == 1;
    if (is_unique && labels.of_video[same_name[0].second] < 0 && give(same_name, *line)) continue;
    // Links: only what nothing else has matched pays for asking the file system.
    std::error_code ignored;
    const fs::path real = fs::weakly_canonical(join(list_folder, line->path), ignored);
    if (!ignored && give(find(by_path, real.string()), *line)) continue;
    if (++labels.unmatched <= int64_t(Labels::kMostNamed))
      labels.first_unmatched.push_back(line->path);
  }
  if (labels.unmatched == labels.lines)
    fail(ErrorKind::kUsage, "data.labels: none of the {} paths in {} is a video of {}, such as {}",
         labels.lines, list, catalogue.path(), labels.first_unmatched[0]);
  return labels;
}

}  // namespace keiko::data
