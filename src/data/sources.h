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
// - *.csv, *.tsv: with a header row that names `path` and perhaps `label`, among other columns, in
//   any order; fields may be quoted. Or without a header: `path label` lines, as VideoMAE writes
//   them, or rows of a path and perhaps a label;
// - *.txt, *.list: `path label` lines, the label being the last word, or paths; paths may hold
//   spaces;
// - *.jsonl: {"path": ..., "label": ...} lines;
// - anything else: one video.
// Relative paths in a list are relative to the list. Throws Error(kUsage) when a source does not
// exist or a list line cannot be read (naming it), and Error(kData) when nothing at all was found.
std::vector<SourceVideo> find_videos(Env* env, const std::vector<std::string>& sources);

// The lines of one list, in any of its forms, with paths as they are written there. A file of
// another suffix counts as `path label` lines. Throws as find_videos.
std::vector<SourceVideo> read_video_list(Env* env, const std::string& path);

}  // namespace keiko::data
