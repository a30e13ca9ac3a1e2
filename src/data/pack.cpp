#include "data/pack.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <exception>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "base/error.h"
#include "base/hash.h"
#include "base/json_text.h"
#include "base/machine.h"
#include "base/retry.h"
#include "data/catalogue.h"
#include "data/pack_shard.h"
#include "data/sign_of_life.h"

namespace keiko::data {
namespace {

using nlohmann::ordered_json;

constexpr int64_t kMostComparedItems = 64;  // items whose quality is measured

// Without its name on the disk a folder, and all work in it, is gone after a power cut.
void make_durable_folder(Env* env, const std::string& path) {
  env->make_folder(path);
  env->sync_folder(parent_folder(path));
}

std::string life_path(const std::string& folder, int64_t rank) {
  return fmt::format("{}/parts/rank-{:05}.alive", folder, rank);
}

void wait_a_little() { std::this_thread::sleep_for(std::chrono::milliseconds(200)); }

// Runs `work(i)` for i in [0, count) on `threads` threads. The first error stops all and is thrown.
void in_parallel(int threads, int64_t count, const std::function<void(int64_t)>& work) {
  std::atomic<int64_t> next{0};
  std::mutex mutex;
  std::exception_ptr error;
  auto loop = [&] {
    for (int64_t i; (i = next++) < count;) {
      try {
        work(i);
      } catch (...) {
        std::lock_guard lock(mutex);
        if (!error) error = std::current_exception();
        next = count;
      }
    }
  };
  std::vector<std::thread> others;
  for (int64_t t = 1; t < std::min<int64_t>(threads, count); ++t) others.emplace_back(loop);
  loop();
  for (std::thread& thread : others) thread.join();
  if (error) std::rethrow_exception(error);
}

// "shard-00012.tar", .json or .kix, perhaps with ".tmp" behind.
bool is_shard_file(std::string name) {
  if (name.ends_with(".tmp")) name.resize(name.size() - 4);
  const size_t dot = name.rfind('.');
  if (!name.starts_with("shard-") || dot == std::string::npos || dot < 11) return false;
  const std::string digits = name.substr(6, dot - 6), suffix = name.substr(dot);
  return digits.find_first_not_of("0123456789") == std::string::npos &&
         (suffix == ".tar" || suffix == ".json" || suffix == ".kix");
}

// Only what a pack is made of goes, and nothing when there is anything else, or no plan: tar shards
// of others look alike. The plan goes last, so that a stop on the way leaves a folder that
// --restart takes again.
void remove_pack(Env* env, const std::string& folder) {
  const std::vector<std::string> names = env->list(folder);
  if (names.empty()) return;
  for (const std::string& name : names)
    if (!is_shard_file(name) && name != "plan.json" && name != "plan.json.tmp" &&
        name != "pack.kix.tmp" && name != "skipped.jsonl.tmp" && name != "pack.kix" &&
        name != "skipped.jsonl" && name != "parts")
      fail(ErrorKind::kUsage,
           "--restart: {} holds {}, which is no part of a pack; move it away or choose another "
           "--out",
           folder, name);
  if (std::find(names.begin(), names.end(), "plan.json") == names.end())
    fail(ErrorKind::kUsage,
         "--restart: {} holds files but no plan.json, so it is no pack; choose another --out",
         folder);
  for (const std::string& name : names)
    if (name != "plan.json") remove_tree(env, folder + "/" + name);
  env->sync_folder(folder);
  env->remove(folder + "/plan.json");
  env->sync_folder(folder);
}

// Rank 0 writes the plan or finds it; the others wait for it.
PackPlan agree_on_plan(Env* env, const Catalogue& catalogue, const PackOptions& o) {
  const auto plan_exists = [&] { return env->status(o.out + "/plan.json").exists; };
  if (o.rank > 0) {
    for (const double start = monotonic_s(); !plan_exists(); wait_a_little())
      if (monotonic_s() - start > o.timeout_s)
        fail(ErrorKind::kIo,
             "{}: rank 0 has written no plan.json for {:.0f} s; start it too, with the same --out",
             o.out, o.timeout_s);
  } else {
    if (o.restart) {
      if (o.world_size > 1)
        fail(ErrorKind::kUsage,
             "--restart needs a run of one rank, or the others would meet half-removed work");
    }
    const FileStatus status = env->status(o.out);
    if (status.exists && !status.is_folder)
      fail(ErrorKind::kUsage, "--out {}: exists and is not a folder", o.out);
    if (o.restart && status.exists) remove_pack(env, o.out);
    make_durable_folder(env, o.out);
    if (!plan_exists()) {
      for (const std::string& name : env->list(o.out))
        if (!name.ends_with(".tmp"))
          fail(ErrorKind::kUsage, "--out {}: holds other files ({}); choose an empty folder", o.out,
               name);
      write_pack_plan(env, o.out, make_pack_plan(catalogue, o.choice));
    }
  }
  const PackPlan plan = read_pack_plan(env, o.out);
  check_same_plan(o.out, plan, catalogue, o.choice);
  return plan;
}

// One item with the same patience as the loader: a refused read is tried again.
PackPart make_patiently(Env* env, const Catalogue& catalogue, int64_t index, const PackPlan& plan,
                        const std::string& parts, const std::function<void()>& working) {
  const Item item = catalogue.item(index);
  const auto video = catalogue.video(item.video);
  const int64_t every = std::max<int64_t>(1, plan.item_count / kMostComparedItems);
  PackPart part;
  try {
    try_patiently([&] {
      check_source(env, *video);
      part = make_member(env, *video, item, index, plan.choice, parts, index % every == 0, working);
    });
  } catch (const Error& e) {
    if (e.kind() != ErrorKind::kData) throw;
    part = {};
    part.item = index;
    part.skipped = e.what();
  }
  return part;
}

int64_t most_bad(const PackOptions& o, const PackPlan& plan) {
  return int64_t(std::ceil(o.max_bad * double(plan.item_count) - 1e-9));
}

[[noreturn]] void too_much_bad(const PackOptions& o, const PackPlan& plan, int64_t bad,
                               const SkippedItem& last) {
  fail(ErrorKind::kTooMuchBad,
       "{} of {} items are bad, more than --max-bad {} allows ({}); the last: item {}: {}. Mend "
       "them, or give a larger --max-bad to leave them out",
       bad, plan.item_count, o.max_bad, most_bad(o, plan), last.item, last.reason);
}

// Does all shards of this rank.
void pack_own_shards(Env* env, const Catalogue& catalogue, const PackOptions& o,
                     const PackPlan& plan, const std::function<void(int64_t, int64_t)>& progress,
                     PackReport& report) {
  const std::string parts = o.out + "/parts";
  struct Own {
    int64_t shard;
    std::atomic<int64_t> missing;
    Own(int64_t s, int64_t n) : shard(s), missing(n) {}
  };
  std::vector<std::unique_ptr<Own>> shards;
  std::vector<std::pair<int64_t, Own*>> work;  // item, its shard
  int64_t total = 0;
  for (int64_t s = o.rank; s < plan.shard_count(); s += o.world_size) {
    const int64_t first = plan.first_items[size_t(s)], last = plan.last_item(s);
    total += last - first;
    if (shard_is_done(env, o.out, s)) {
      report.reused_items += last - first;
      continue;
    }
    shards.push_back(std::make_unique<Own>(s, last - first));
    for (int64_t i = first; i < last; ++i) work.emplace_back(i, shards.back().get());
  }
  if (!work.empty()) make_durable_folder(env, parts);
  SignOfLife life(env, life_path(o.out, o.rank), std::min(2.0, o.timeout_s / 4));
  std::function<void()> working;  // nobody waits for rank 0
  if (o.rank > 0) working = [&] { life.give(); };
  if (working && !work.empty()) working();
  std::mutex mutex;
  int64_t done = total - int64_t(work.size()), bad = 0;
  in_parallel(o.threads, int64_t(work.size()), [&](int64_t w) {
    const auto& [item, own] = work[size_t(w)];
    const std::string path = catalogue.video(catalogue.item(item).video)->file.path;
    const std::string name = member_name(item, path);
    PackPart part;
    const bool reused = read_part(env, parts, name, part);
    if (!reused) {
      part = make_patiently(env, catalogue, item, plan, parts, working);
      write_part(env, parts, name, part);
    }
    {
      std::lock_guard lock(mutex);
      report.reused_items += reused;
      bad += !part.skipped.empty();
      if (bad > most_bad(o, plan)) too_much_bad(o, plan, bad, {item, path, part.skipped});
      ++done;
      if (progress) progress(done, total);
    }
    if (--own->missing == 0) write_shard(env, catalogue, plan, o.out, own->shard, working);
  });
}

// The items that are left out so far, over all ranks, as their records say: those of finished
// shards and those under parts/. So rank 0 knows as soon as any rank that there are too many.
class LeftOut {
 public:
  LeftOut(Env* env, const PackOptions& o) : env_(env), folder_(o.out) {}

  void look_at_shard(int64_t shard) {
    if (!shards_.insert(shard).second) return;
    for (const SkippedItem& s : read_shard_summary(env_, folder_, shard).skipped)
      items_[s.item] = s;
  }
  void look_at_parts() {
    const std::string parts = folder_ + "/parts";
    if (!env_->status(parts).exists) return;
    for (const std::string& file : env_->list(parts)) {
      if (!file.ends_with(".json") || records_.contains(file)) continue;
      PackPart part;
      try {
        if (!read_part(env_, parts, file.substr(0, file.size() - 5), part)) continue;
      } catch (const Error& e) {
        if (e.kind() != ErrorKind::kIo) throw;
        continue;  // its shard was finished between the two looks
      }
      records_.insert(file);
      if (!part.skipped.empty()) items_[part.item] = {part.item, "", part.skipped};
    }
  }
  const std::map<int64_t, SkippedItem>& items() const { return items_; }

 private:
  Env* env_;
  std::string folder_;
  std::set<int64_t> shards_;
  std::set<std::string> records_;
  std::map<int64_t, SkippedItem> items_;
};

// Rank 0: until every shard is there, a rank gives no sign of life, or too much is bad.
void wait_for_others(Env* env, const PackOptions& o, const PackPlan& plan) {
  LeftOut left_out(env, o);
  std::map<int64_t, LifeWatch> watches;
  for (int64_t r = 1; r < o.world_size; ++r)
    watches.emplace(r, LifeWatch(env, life_path(o.out, r)));
  while (true) {
    std::vector<int64_t> missing, late;
    for (int64_t s = 0; s < plan.shard_count(); ++s) {
      if (shard_is_done(env, o.out, s)) {
        left_out.look_at_shard(s);
        continue;
      }
      missing.push_back(s);
      const auto watch = watches.find(s % o.world_size);
      if (watch != watches.end() && watch->second.silence_s() > o.timeout_s) late.push_back(s);
    }
    left_out.look_at_parts();
    const auto& bad = left_out.items();
    if (int64_t(bad.size()) > most_bad(o, plan))
      too_much_bad(o, plan, int64_t(bad.size()), bad.rbegin()->second);
    if (missing.empty()) return;
    if (!late.empty()) {
      std::string names;
      for (size_t i = 0; i < std::min<size_t>(8, late.size()); ++i)
        names += fmt::format("{}{} (rank {})", i == 0 ? "" : ", ", late[i], late[i] % o.world_size);
      fail(ErrorKind::kIo,
           "{}: no progress for {:.0f} s; {} of {} shards are missing: {}. Start the same command "
           "again, with any number of ranks: it goes on from here",
           o.out, o.timeout_s, missing.size(), plan.shard_count(), names);
    }
    wait_a_little();
  }
}

}  // namespace

PackReport make_pack(Env* env, const PackOptions& o,
                     const std::function<void(int64_t, int64_t)>& progress) {
  const auto catalogue = Catalogue::open(env, o.catalogue);
  if (catalogue->item_count() == 0)
    fail(ErrorKind::kData, "{}: the catalogue has no items", o.catalogue);
  const PackPlan plan = agree_on_plan(env, *catalogue, o);
  PackReport report;
  pack_own_shards(env, *catalogue, o, plan, progress, report);
  if (o.rank == 0) wait_for_others(env, o, plan);
  std::string skipped;
  for (int64_t s = o.rank; s < plan.shard_count(); s += o.rank == 0 ? 1 : o.world_size) {
    const ShardSummary shard = read_shard_summary(env, o.out, s);
    ++report.shards;
    report.shard_bytes += shard.bytes;
    report.totals.add(shard.totals);
    for (const SkippedItem& item : shard.skipped) {
      report.skipped.push_back(item);
      skipped += json_text(ordered_json{
                     {"item", item.item}, {"path", item.path}, {"reason", item.reason}}) +
                 "\n";
    }
  }
  if (o.rank > 0) return report;
  publish(env, o.out + "/skipped.jsonl", skipped);
  if (int64_t(report.skipped.size()) > most_bad(o, plan))
    too_much_bad(o, plan, int64_t(report.skipped.size()), report.skipped.back());
  if (report.totals.items == 0)
    fail(ErrorKind::kData, "{}: none of {} items could be packed; see skipped.jsonl there", o.out,
         plan.item_count);
  if (!env->status(o.out + "/pack.kix").exists) join_shards(env, *catalogue, plan, o.out);
  remove_tree(env, o.out + "/parts");
  report.is_whole = true;
  return report;
}

std::vector<std::string> check_pack(Env* env, const std::string& path, int threads,
                                    const std::function<void(int64_t, int64_t)>& progress) {
  const auto catalogue = Catalogue::open(env, path);
  std::vector<std::string> damage(size_t(catalogue->video_count()));
  std::mutex mutex;
  int64_t done = 0;
  in_parallel(threads, catalogue->video_count(), [&](int64_t i) {
    damage[size_t(i)] = damage_of_member(env, *catalogue->video(uint32_t(i)));
    std::lock_guard lock(mutex);
    if (progress) progress(++done, catalogue->video_count());
  });
  std::erase(damage, "");
  return damage;
}

}  // namespace keiko::data
