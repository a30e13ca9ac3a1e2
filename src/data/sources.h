// Which video files a command line names: folders, single files, and lists of paths with labels.

#pragma once
#include <string>
#include <vector>

#include "base/env.h"

namespace keiko::data {

struct SourceVideo {
  std::string path;
  std::string label;  // class name, or "" for none
};

// Expands sources, in order:
// - a folder: every file with a video's suffix below it, sorted; when the folder's videos lie in
//   subfolders, the first subfolder is the class;
// - *.csv, *.tsv: with a header row that names `path` and perhaps `label`; or, as VideoMAE writes
//   them, `path label` lines without a header;
// - *.txt, *.list: `path label` lines, the label being the last word, or paths; paths may hold
//   spaces;
// - *.jsonl: {"path": ..., "label": ...} lines;
// - anything else: one video.
// Relative paths in a list are relative to the list. Throws Error(kUsage) when a source does not
// exist or a list line cannot be read (naming it), and Error(kData) when nothing at all was found.
std::vector<SourceVideo> find_videos(Env* env, const std::vector<std::string>& sources);

}  // namespace keiko::data
