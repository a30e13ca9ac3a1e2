#include "data/labels.h"

#include <unordered_map>

#include "base/error.h"
#include "data/index.h"
#include "data/sources.h"

namespace keiko::data {

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

  labels.of_video.assign(size_t(catalogue.video_count()), -1);
  labels.unmatched = match_paths(
      list, catalogue, lines.size(),
      [&](size_t line) -> const std::string& { return lines[line].path; },
      [&](size_t line, uint32_t video) {
        const int32_t label = class_of.at(lines[line].label);
        int32_t& old = labels.of_video[video];
        if (old >= 0 && old != label)
          fail(ErrorKind::kUsage, "data.labels: {} gives {} two labels, {} and {}", list,
               catalogue.summary(video).file.path, labels.class_names[size_t(old)],
               lines[line].label);
        old = label;
      });
  if (labels.unmatched.count == labels.lines)
    fail(ErrorKind::kUsage, "data.labels: none of the {} paths in {} is a video of {}, such as {}",
         labels.lines, list, catalogue.path(), labels.unmatched.first[0]);
  return labels;
}

}  // namespace keiko::data
