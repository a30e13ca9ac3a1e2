// Several ranks make one pack: the same bytes as one, and none waits for ever or gives up too soon.

#include <gtest/gtest.h>

#include <thread>

#include "base/error.h"
#include "base/machine.h"
#include "base/temp_folder.h"
#include "data/flaky_env.h"
#include "data/pack.h"
#include "data/pack_set.h"

namespace keiko::data {
namespace {

TEST_F(Pack, ThreadsAndRanksChangeNoByte) {
  const TempFolder folder;
  make_pack(env, options(folder.path() + "/one"), {});
  PackOptions o = options(folder.path() + "/threads");
  o.threads = 4;
  make_pack(env, o, {});
  std::vector<std::thread> ranks;
  for (int64_t rank : {2, 1, 0})
    ranks.emplace_back([&, rank] {
      PackOptions own = options(folder.path() + "/ranks");
      own.rank = rank;
      own.world_size = 3;
      own.timeout_s = 60;
      const PackReport report = make_pack(env, own, {});
      EXPECT_EQ(report.is_whole, rank == 0);
      if (rank == 0) {
        EXPECT_EQ(report.totals.items, 12);
      }
    });
  for (std::thread& rank : ranks) rank.join();
  const auto one = content(folder.path() + "/one");
  for (const char* name : {"/threads", "/ranks"}) {
    const auto other = content(folder.path() + name);
    EXPECT_EQ(names_of(one), names_of(other));
    EXPECT_TRUE(one == other) << name;
  }
}

TEST_F(Pack, RankZeroNamesTheShardsOfARankThatNeverCame) {
  const TempFolder folder;
  PackOptions o = options(folder.path() + "/pack");
  o.world_size = 2;
  o.timeout_s = 0.5;
  const std::string message = error_of([&] { make_pack(env, o, {}); });
  EXPECT_NE(message.find("no progress"), std::string::npos) << message;
  EXPECT_NE(message.find("1 (rank 1)"), std::string::npos) << message;
  o.rank = 1;
  o.out = folder.path() + "/other";
  EXPECT_NE(error_of([&] { make_pack(env, o, {}); }).find("rank 0 has written no plan.json"),
            std::string::npos);
  // Another number of ranks goes on with what is there.
  o = options(folder.path() + "/pack");
  EXPECT_GT(make_pack(env, o, {}).reused_items, 0);
}

// The kind of error that ends a rank's part of a pack; -1 when it does not.
int kind_of_end(Env* disk, const PackOptions& o) {
  try {
    make_pack(disk, o, {});
  } catch (const Error& e) {
    return int(e.kind());
  }
  return -1;
}

TEST_F(Pack, ARankThatWorksOnOneFilmForLongIsWaitedFor) {
  const TempFolder folder;
  const PackPlan plan =
      make_pack_plan(*Catalogue::open(env, source()), options(folder.path()).choice);
  ASSERT_GT(plan.shard_count(), 1);
  const auto catalogue = Catalogue::open(env, source());
  const Item film = catalogue->item(plan.first_items[1]);  // the first item of rank 1
  const std::string path = catalogue->video(film.video)->file.path;
  // Each of its 24 packets takes longer to come than an eighth of what rank 0 waits.
  FlakyEnv slow(
      env,
      [&](const std::string& p, int64_t) { return p == path ? FlakyEnv::kSlow : FlakyEnv::kNone; },
      120);
  int kinds[2] = {};
  std::vector<std::thread> ranks;
  for (int64_t rank : {0, 1})
    ranks.emplace_back([&, rank] {
      PackOptions o = options(folder.path() + "/pack");
      o.rank = rank;
      o.world_size = 2;
      o.timeout_s = 1;
      kinds[rank] = kind_of_end(rank == 1 ? static_cast<Env*>(&slow) : env, o);
    });
  for (std::thread& rank : ranks) rank.join();
  EXPECT_EQ(kinds[0], -1);
  EXPECT_EQ(kinds[1], -1);
  EXPECT_GT(slow.reads, 24);
  EXPECT_FALSE(env->status(folder.path() + "/pack/parts").exists);
}

TEST_F(Pack, TooMuchBadDataOfAnotherRankEndsRankZeroWithTheSameError) {
  const TempFolder folder;
  const auto whole = Catalogue::open(env, source());
  const PackPlan plan = make_pack_plan(*whole, options("").choice);
  ASSERT_GT(plan.shard_count(), 1);
  // One video of rank 1 has zeros for packets.
  CatalogueWriter writer(env, folder.path() + "/v.kix");
  for (int64_t i = 0; i < whole->item_count(); ++i) {
    Item item = whole->item(i);
    Video video = *whole->video(item.video);
    if (i == plan.first_items[1]) {
      std::string bytes = read_text(env, video.file.path);
      for (size_t p = 5; p < 9; ++p)
        bytes.replace(size_t(video.table.position[p]) + 5, video.table.size[p] - 5,
                      std::string(video.table.size[p] - 5, '\x7f'));
      video.file.path = folder.path() + "/bad.mp4";
      publish(env, video.file.path, bytes);
      video.file.mtime_ns = env->status(video.file.path).mtime_ns;
    }
    item.video = writer.add_video(video);
    writer.add_item(item);
  }
  writer.set_class_names(whole->class_names());
  writer.publish();
  const auto run = [&](int64_t rank) {
    PackOptions o = options(folder.path() + "/pack");
    o.catalogue = folder.path() + "/v.kix";
    o.max_bad = 0;
    o.rank = rank;
    o.world_size = 2;
    o.timeout_s = 60;
    return kind_of_end(env, o);
  };
  const double start = monotonic_s();
  int kinds[2] = {};
  std::vector<std::thread> ranks;
  for (int64_t rank : {0, 1}) ranks.emplace_back([&, rank] { kinds[rank] = run(rank); });
  for (std::thread& rank : ranks) rank.join();
  EXPECT_EQ(kinds[0], int(ErrorKind::kTooMuchBad));
  EXPECT_EQ(kinds[1], int(ErrorKind::kTooMuchBad));
  // Also when the other rank is gone before rank 0 comes.
  EXPECT_EQ(run(0), int(ErrorKind::kTooMuchBad));
  EXPECT_LT(monotonic_s() - start, 30);
}

}  // namespace
}  // namespace keiko::data
