#include "data/overlap.h"

#include <fmt/ranges.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <unordered_set>

namespace keiko::data {
namespace {

void note(Overlap& overlap, const Catalogue& catalogue, uint32_t video) {
  if (++overlap.count <= int64_t(Overlap::kMostNamed))
    overlap.first_paths.push_back(catalogue.summary(video).file.path);
}

}  // namespace

Overlap find_overlap(const Catalogue& first, const Catalogue& second) {
  std::vector<uint64_t> known = first.content_hashes();
  std::sort(known.begin(), known.end());
  const std::vector<uint64_t> hashes = second.content_hashes();
  Overlap overlap;
  for (size_t i = 0; i < hashes.size(); ++i)
    if (std::binary_search(known.begin(), known.end(), hashes[i]))
      note(overlap, second, uint32_t(i));
  return overlap;
}

Overlap find_overlap(const Dataset& first, const Dataset& second) {
  std::vector<uint64_t> known;
  first.each_video_in_use(
      [&](const Catalogue&, uint32_t, uint64_t hash) { known.push_back(hash); });
  std::sort(known.begin(), known.end());
  Overlap overlap;
  // A video counts once, whatever the number of its items.
  std::unordered_set<uint64_t> counted;
  second.each_video_in_use([&](const Catalogue& catalogue, uint32_t video, uint64_t hash) {
    if (std::binary_search(known.begin(), known.end(), hash) && counted.insert(hash).second)
      note(overlap, catalogue, video);
  });
  return overlap;
}

void warn_of_overlap(const Dataset& training, const Dataset& evaluation) {
  const Overlap overlap = find_overlap(training, evaluation);
  if (overlap.count > 0)
    spdlog::warn("{} videos of eval.data are in the training data too, such as {}", overlap.count,
                 fmt::join(overlap.first_paths, ", "));
}

}  // namespace keiko::data
