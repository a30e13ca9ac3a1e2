#include "data/path_match.h"

#include <algorithm>
#include <filesystem>
#include <span>
#include <string_view>
#include <unordered_map>

#include "base/hash.h"

namespace keiko::data {
namespace {

namespace fs = std::filesystem;

// Videos by a hash of a text: 64 bits tell a billion texts apart.
using ByHash = std::vector<std::pair<uint64_t, uint32_t>>;
using Found = std::span<const std::pair<uint64_t, uint32_t>>;

uint64_t hash_of(std::string_view text) { return xxh3(text); }

std::string_view name_of(std::string_view path) {
  return path.substr(path.find_last_of('/') + 1);  // npos + 1 is 0
}

Found find(const ByHash& all, std::string_view text) {
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

UnmatchedPaths match_paths(const std::string& list, const Catalogue& catalogue, size_t lines,
                           const std::function<const std::string&(size_t)>& path_of,
                           const std::function<void(size_t, uint32_t)>& give) {
  ByHash by_path, by_name;
  by_path.reserve(size_t(catalogue.video_count()));
  by_name.reserve(size_t(catalogue.video_count()));
  catalogue.each_summary([&](uint32_t index, const VideoSummary& s) {
    by_path.emplace_back(hash_of(s.file.path), index);
    by_name.emplace_back(hash_of(name_of(s.file.path)), index);
  });
  std::sort(by_path.begin(), by_path.end());
  std::sort(by_name.begin(), by_name.end());

  std::vector<bool> is_named(size_t(catalogue.video_count()));
  const auto give_all = [&](Found videos, size_t line) {
    for (const auto& [hash, video] : videos) {
      give(line, video);
      is_named[video] = true;
    }
    return !videos.empty();
  };

  const std::string list_folder = fs::weakly_canonical(parent_folder(list)).string();
  const std::string catalogue_folder =
      fs::weakly_canonical(parent_folder(catalogue.path())).string();
  std::vector<size_t> left;
  for (size_t line = 0; line < lines; ++line) {
    const std::string& path = path_of(line);
    if (give_all(find(by_path, join(list_folder, path)), line)) continue;
    if (path[0] != '/' && give_all(find(by_path, join(catalogue_folder, path)), line)) continue;
    left.push_back(line);
  }
  std::unordered_map<uint64_t, int> times_named;
  for (const size_t line : left) ++times_named[hash_of(name_of(path_of(line)))];
  UnmatchedPaths unmatched;
  for (const size_t line : left) {
    const std::string& path = path_of(line);
    const Found same_name = find(by_name, name_of(path));
    const bool is_unique = same_name.size() == 1 && times_named.at(hash_of(name_of(path))) == 1;
    if (is_unique && !is_named[same_name[0].second] && give_all(same_name, line)) continue;
    // Links: only what nothing else has matched pays for asking the file system.
    std::error_code ignored;
    const fs::path real = fs::weakly_canonical(join(list_folder, path), ignored);
    if (!ignored && give_all(find(by_path, real.string()), line)) continue;
    if (++unmatched.count <= int64_t(UnmatchedPaths::kMostNamed)) unmatched.first.push_back(path);
  }
  return unmatched;
}

}  // namespace keiko::data
