// The shards of a pack: DIR/shard-NNNNN.tar with the members, .kix with their catalogue, and .json
// with what was done; and pack.kix, the catalogue over all of them.

#pragma once
#include <cstdint>
#include <functional>
#include <string>

#include "base/env.h"
#include "data/catalogue.h"
#include "data/pack.h"
#include "data/pack_plan.h"

namespace keiko::data {

struct ShardSummary {
  int64_t bytes = 0;  // of the tar file
  PackTotals totals;
  std::vector<SkippedItem> skipped;
};

// True when the shard's catalogue, the last of its files, is there.
bool shard_is_done(Env* env, const std::string& folder, int64_t shard);

// Joins the shard's parts, all of which must be recorded, publishes the three files, and removes
// the parts. Memory: 1 MiB, whatever the size of a part. `working`, unless empty, is called for
// each piece of that size. Throws Error(kData) when a part is not what its record says (its record
// is then removed, so that the next run makes it again), Error(kIo).
void write_shard(Env* env, const Catalogue& source, const PackPlan& plan, const std::string& folder,
                 int64_t shard, const std::function<void()>& working = {});

// Throws Error(kData) when it is damaged.
ShardSummary read_shard_summary(Env* env, const std::string& folder, int64_t shard);

// Publishes DIR/pack.kix from the shards' catalogues: the items keep their order.
void join_shards(Env* env, const Catalogue& source, const PackPlan& plan,
                 const std::string& folder);

// Throws Error(kIo) when the video's file is gone or changed since it was indexed.
void check_source(Env* env, const Video& video);

// What is wrong with a packed video's bytes or its tar header, in a sentence; empty when nothing.
std::string damage_of_member(Env* env, const Video& video);

}  // namespace keiko::data
