// Makes a training set for fast random clips from a catalogue: every item a small video file made
// to be decoded in pieces, many of them in a tar shard, with a catalogue over all shards.
//
// Work is planned first (pack_plan.h), then done item by item: a finished item is a file of its own
// under DIR/parts until its shard is written, so that a stop at any moment loses only what was in
// work. Shards and catalogues are published whole, pack.kix last. Files: docs/formats.md.

#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/env.h"
#include "data/pack_member.h"
#include "data/pack_plan.h"

namespace keiko::data {

struct PackOptions {
  std::string catalogue;  // NAME.kix
  std::string out;        // folder
  PackChoice choice;
  // What follows changes no byte of the result.
  int threads = 1;         // items in work side by side
  double max_bad = 0.01;   // share of the items that may be left out; rounded up to whole items
  bool restart = false;    // throw away what is there
  int64_t rank = 0;        // this process among `world_size`, which share the folder
  int64_t world_size = 1;  // shard s is done by rank s % world_size
  double timeout_s = 600;  // without a sign of life of a rank that work is missing of
};

struct SkippedItem {
  int64_t item = 0;
  std::string path, reason;
};

struct PackReport {
  bool is_whole = false;  // rank 0 only: pack.kix is there
  int64_t shards = 0;     // rank 0: all; others: their own
  int64_t shard_bytes = 0;
  int64_t reused_items = 0;  // made by an earlier run
  PackTotals totals;
  std::vector<SkippedItem> skipped;
};

// `progress(done, total)` counts items of this rank; called from one thread at a time; may be
// empty. Throws Error(kUsage) when `out` was begun with other options, Error(kTooMuchBad) when more
// items are bad than `max_bad` allows (everything but pack.kix is then there; rank 0 counts those
// of all ranks, so it ends so too when another rank did), Error(kIo) when a file cannot be read or
// written (a later run goes on from there), or when other ranks stop working.
PackReport make_pack(Env* env, const PackOptions& options,
                     const std::function<void(int64_t done, int64_t total)>& progress);

// Reads every member of a finished pack and compares it with its recorded hash and its tar header.
// Returns one sentence for each member that is damaged. `path`: the pack's folder or catalogue.
// Throws Error(kIo) when a shard cannot be read at all.
std::vector<std::string> check_pack(Env* env, const std::string& path, int threads,
                                    const std::function<void(int64_t, int64_t)>& progress);

}  // namespace keiko::data
