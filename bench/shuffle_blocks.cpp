// What loader.shuffle_block saves: how often neighbours in the stream lie in the same shard, and
// what must be fetched a clip when files are read in chunks that a cache keeps for a while, as
// network file systems and object stores do.
//
//   shuffle_blocks [CLIPS] [CLIPS_A_SHARD] [BYTES_A_CLIP]
//
// The order is the one that training uses; the chunk cache is simulated (least recently used goes
// first). JSON on stdout.

#include <fmt/format.h>

#include <cstdio>
#include <list>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <unordered_map>

#include "data/order.h"

namespace keiko {
namespace {

// Keeps the last `capacity` keys that were used.
class RecentlyUsed {
 public:
  explicit RecentlyUsed(size_t capacity) : capacity_(capacity) {}
  // True when the key was there.
  bool use(uint64_t key) {
    const auto found = places_.find(key);
    if (found != places_.end()) {
      keys_.splice(keys_.begin(), keys_, found->second);
      return true;
    }
    keys_.push_front(key);
    places_[key] = keys_.begin();
    if (keys_.size() > capacity_) {
      places_.erase(keys_.back());
      keys_.pop_back();
    }
    return false;
  }

 private:
  size_t capacity_;
  std::list<uint64_t> keys_;
  std::unordered_map<uint64_t, std::list<uint64_t>::iterator> places_;
};

constexpr uint64_t kBatch = 256, kChunk = 4 << 20, kCache = 512 << 20, kOpenFiles = 32;

nlohmann::ordered_json measure(uint64_t clips, uint64_t per_shard, uint64_t clip_bytes,
                               uint64_t block) {
  const data::Order order({{clips, 1}}, 1, block);
  RecentlyUsed chunks(kCache / kChunk), files(kOpenFiles);
  uint64_t same = 0, fetched = 0, opens = 0, shards_of_batches = 0, blocks_of_batches = 0;
  uint64_t before = UINT64_MAX;
  std::set<uint64_t> shards, blocks;
  const uint64_t batches = clips / kBatch;
  for (uint64_t p = 0; p < batches * kBatch; ++p) {
    const uint64_t item = order.at(p).item, shard = item / per_shard;
    same += shard == before;
    before = shard;
    opens += !files.use(shard);
    const uint64_t first = item % per_shard * clip_bytes;
    for (uint64_t chunk = first / kChunk; chunk <= (first + clip_bytes - 1) / kChunk; ++chunk)
      fetched += chunks.use(shard << 20 | chunk) ? 0 : kChunk;
    shards.insert(shard);
    blocks.insert(item / block);
    if (p % kBatch != kBatch - 1) continue;
    shards_of_batches += shards.size();
    blocks_of_batches += blocks.size();
    shards.clear();
    blocks.clear();
  }
  const double n = double(batches * kBatch);
  return {{"shuffle_block", block},
          {"next_clip_in_same_shard", double(same) / n},
          {"shards_a_batch", double(shards_of_batches) / double(batches)},
          {"blocks_a_batch", double(blocks_of_batches) / double(batches)},
          {"opens_a_clip", double(opens) / n},
          {"bytes_fetched_over_needed", double(fetched) / n / double(clip_bytes)}};
}

}  // namespace
}  // namespace keiko

int main(int argc, char** argv) {
  const uint64_t clips = argc > 1 ? std::stoull(argv[1]) : 240000;
  const uint64_t per_shard = argc > 2 ? std::stoull(argv[2]) : 1000;
  const uint64_t clip_bytes = argc > 3 ? std::stoull(argv[3]) : 200000;
  nlohmann::ordered_json rows;
  for (uint64_t block : {1, 8, 32, 128, 512, 1000, 4000})
    rows.push_back(keiko::measure(clips, per_shard, clip_bytes, block));
  std::printf("%s\n", rows.dump(1).c_str());
  return 0;
}
