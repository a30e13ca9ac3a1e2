#include "data/index.h"

#include <gtest/gtest.h>

#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <map>
#include <mutex>
#include <thread>

#include "base/fault_env.h"
#include "data/catalogue.h"
#include "data/flaky_env.h"
#include "data/small_set.h"
#include "data/sources.h"

namespace keiko::data {
namespace {

class IndexTest : public SmallSet {};

TEST_F(IndexTest, IndexingAgainReusesWhatDidNotChange) {
  const std::string out = path("again.kix");
  IndexOptions o{{path("test")}, out, 2, false};
  EXPECT_EQ(build_catalogue(env, o, {}).reused, 0);
  EXPECT_EQ(build_catalogue(env, o, {}).reused, 8);
  EXPECT_EQ(Catalogue::open(env, out)->generation(), 2u);
  std::filesystem::last_write_time(path("test/east/000000.mp4"),
                                   std::filesystem::file_time_type::clock::now());
  EXPECT_EQ(build_catalogue(env, o, {}).reused, 7);
  EXPECT_FALSE(env->status(out + ".journal").exists);
}

TEST_F(IndexTest, AnInterruptedIndexGoesOnFromItsJournal) {
  const std::string out = path("stopped.kix");
  IndexOptions o{{path("test")}, out, 1, false};
  // Stop it by throwing from the progress callback of the fifth file.
  EXPECT_THROW(build_catalogue(env, o,
                               [](int64_t done, int64_t) {
                                 if (done == 5) throw std::runtime_error("stop");
                               }),
               std::runtime_error);
  EXPECT_FALSE(env->status(out).exists);
  // A torn tail, as a kill would leave it.
  env->append_to(out + ".journal", env->status(out + ".journal").size)->append("torn");
  const IndexReport report = build_catalogue(env, o, {});
  EXPECT_EQ(report.reused, 5);
  EXPECT_EQ(report.videos, 8);
}

TEST_F(IndexTest, BadFilesAreSkippedByNameAndAloneAreAnError) {
  const TempFolder folder;
  EXPECT_NE(error_of([&] {
              build_catalogue(env, {{folder.path()}, folder.path() + "/x.kix", 1, false}, {});
            }).find("no video found"),
            std::string::npos);
  publish(env, folder.path() + "/text.mp4", "hello");
  publish(env, folder.path() + "/zero.mp4", "");
  EXPECT_NE(error_of([&] {
              build_catalogue(env, {{folder.path()}, folder.path() + "/x.kix", 1, false}, {});
            }).find("none of 2 files could be indexed"),
            std::string::npos);
  std::filesystem::copy(path("test/east/000000.mp4"), folder.path() + "/good ünïcode name.mp4");
  const IndexReport report =
      build_catalogue(env, {{folder.path()}, folder.path() + "/x.kix", 1, false}, {});
  EXPECT_EQ(report.videos, 1);
  ASSERT_EQ(report.skipped.size(), 2u);
  EXPECT_NE(report.skipped[0].reason.find("text.mp4"), std::string::npos);
  EXPECT_NE(report.skipped[1].reason.find("the file is empty"), std::string::npos);
}

TEST_F(IndexTest, MissingAndRepeatedFilesAreCountedAndNamed) {
  const TempFolder folder;
  const std::string f = folder.path();
  for (const char* name : {"a.mp4", "b.mp4"})
    std::filesystem::copy(path("test/east/000000.mp4"), f + "/" + name);
  std::filesystem::copy(path("test/west/000004.mp4"), f + "/c.mp4");
  publish(env, f + "/list.txt",
          "a.mp4 1\nb.mp4 2\nc.mp4 2\ngone.mp4 2\n./a.mp4 3\n" + f + "/a.mp4 1\n");
  const IndexReport report = build_catalogue(env, {{f + "/list.txt"}, f + "/x.kix", 2, false}, {});
  EXPECT_EQ(report.videos, 3);
  EXPECT_EQ(report.items, 5);
  EXPECT_EQ(report.missing, 1);
  ASSERT_EQ(report.skipped.size(), 1u);
  EXPECT_EQ(report.skipped[0].reason, f + "/gone.mp4: no such file");
  EXPECT_EQ(report.duplicate_paths, 2);
  EXPECT_EQ(report.first_duplicate_paths, (std::vector<std::string>{f + "/./a.mp4", f + "/a.mp4"}));
  EXPECT_EQ(report.duplicate_contents, 1);
  ASSERT_EQ(report.first_duplicate_contents.size(), 1u);
  EXPECT_EQ(report.first_duplicate_contents[0], std::pair(f + "/b.mp4", f + "/a.mp4"));
  // A file that was named three times is one video and three items, each with its own label.
  const auto c = Catalogue::open(env, f + "/x.kix");
  EXPECT_EQ(c->video_count(), 3);
  std::vector<std::pair<uint32_t, std::string>> items;
  c->each_item([&](int64_t, const Item& item) {
    items.emplace_back(item.video, c->class_names()[size_t(item.label)]);
  });
  EXPECT_EQ(items, (std::vector<std::pair<uint32_t, std::string>>{
                       {0, "1"}, {1, "2"}, {2, "2"}, {0, "3"}, {0, "1"}}));
}

TEST_F(IndexTest, AnOlderVersionOrADamagedRecordIsScannedAgain) {
  const std::string out = path("older.kix");
  const IndexOptions o{{path("test")}, out, 2, false};
  build_catalogue(env, o, {});
  const uint64_t hash = Catalogue::open(env, out)->hash();
  std::string bytes = read_text(env, out);
  bytes[8] = 1;
  publish(env, out, bytes);
  EXPECT_EQ(build_catalogue(env, o, {}).reused, 0);
  EXPECT_EQ(Catalogue::open(env, out)->hash(), hash);
  bytes = read_text(env, out);
  bytes[64 + 500] = char(bytes[64 + 500] ^ 1);  // in the first record
  publish(env, out, bytes);
  EXPECT_EQ(build_catalogue(env, o, {}).reused, 7);
  EXPECT_EQ(Catalogue::open(env, out)->hash(), hash);
}

bool is_video(const std::string& path) { return path.ends_with(".mp4"); }

TEST_F(IndexTest, AFlakyFileSystemChangesNothing) {
  const std::string out = path("flaky.kix");
  const IndexOptions o{{path("test")}, out, 8, true};
  build_catalogue(env, o, {});
  const uint64_t hash = Catalogue::open(env, out)->hash();
  env->remove(out);
  // Three reads of every video fail, each further into the work: in the header, among the packets,
  // and while the sampled hash is taken or frames are decoded. Others are slow.
  std::mutex mutex;
  std::map<std::string, int> reads;
  FlakyEnv flaky(env, [&](const std::string& p, int64_t) {
    if (!is_video(p)) return FlakyEnv::kNone;
    std::lock_guard lock(mutex);
    const int n = reads[p]++;
    if (n == 0 || n == 6 || n == 30) return FlakyEnv::kEio;
    return n % 16 == 3 ? FlakyEnv::kSlow : FlakyEnv::kNone;
  });
  const IndexReport report = build_catalogue(&flaky, o, {});
  EXPECT_EQ(report.videos, 8);
  EXPECT_TRUE(report.skipped.empty());
  EXPECT_EQ(flaky.failures, 3 * 8);
  EXPECT_EQ(Catalogue::open(env, out)->hash(), hash);
  // Nor does a catalogue of before that is hard to read: at opening, listing and copying.
  FlakyEnv again(env, [&, n = 0](const std::string& p, int64_t) mutable {
    if (p != out) return FlakyEnv::kNone;
    ++n;
    return n == 1 || n == 4 || n == 12 ? FlakyEnv::kEio : FlakyEnv::kNone;
  });
  EXPECT_EQ(build_catalogue(&again, o, {}).reused, 8);
  EXPECT_EQ(again.failures, 3);
  EXPECT_EQ(Catalogue::open(env, out)->hash(), hash);
}

TEST_F(IndexTest, AFileThatCannotBeReadEndsTheRunByNameAndTheNextGoesOn) {
  const std::string out = path("broken.kix");
  IndexOptions o{{path("test")}, out, 1, false};
  build_catalogue(env, o, {});
  const uint64_t hash = Catalogue::open(env, out)->hash();
  env->remove(out);
  const std::string bad = path("test/west/000004.mp4");
  FlakyEnv flaky(env, [&](const std::string& p, int64_t) {
    return p == bad ? FlakyEnv::kEio : FlakyEnv::kNone;
  });
  std::string message;
  try {
    build_catalogue(&flaky, o, {});
    ADD_FAILURE() << "no error";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kIo);
    message = e.what();
  }
  EXPECT_EQ(message.find(bad + ": cannot read"), 0u) << message;
  EXPECT_EQ(flaky.failures, 4);
  EXPECT_FALSE(env->status(out).exists);
  const IndexReport report = build_catalogue(env, o, {});
  EXPECT_EQ(report.videos, 8);
  EXPECT_GE(report.reused, 4);
  EXPECT_EQ(Catalogue::open(env, out)->hash(), hash);
}

TEST_F(IndexTest, AFileThatAnotherRankCannotReadEndsRankZeroByName) {
  const std::string out = path("broken-rank.kix");
  const std::string bad = find_videos(env, {path("test")})[1].path;  // rank 1's
  std::string messages[2];
  std::vector<std::thread> ranks;
  for (int64_t rank : {0, 1})
    ranks.emplace_back([&, rank] {
      FlakyEnv flaky(env, [&](const std::string& p, int64_t) {
        return p == bad ? FlakyEnv::kEio : FlakyEnv::kNone;
      });
      messages[rank] = error_of([&] {
        build_catalogue(&flaky, {{path("test")}, out, 1, false, rank, 2, 60}, {});
      });
    });
  for (std::thread& rank : ranks) rank.join();
  for (const std::string& message : messages)
    EXPECT_NE(message.find(bad + ": cannot read"), std::string::npos) << message;
  EXPECT_EQ(build_catalogue(env, {{path("test")}, out, 1, false}, {}).videos, 8);
}

// What one rank alone makes of the test clips.
uint64_t hash_of_one_rank(const std::string& sources, const std::string& out) {
  build_catalogue(env, {{sources}, out, 1, false}, {});
  return Catalogue::open(env, out)->hash();
}

// Names beside `out` that only a run in progress needs.
std::vector<std::string> leftovers(const std::string& out) {
  std::vector<std::string> names;
  for (const std::string& name : env->list(parent_folder(out)))
    if (name.rfind(std::filesystem::path(out).filename().string() + ".", 0) == 0)
      names.push_back(name);
  return names;
}

TEST_F(IndexTest, AnyNumberOfRanksMakesTheCatalogueOfOne) {
  const std::string out = path("ranks.kix");
  const uint64_t hash = hash_of_one_rank(path("train"), path("one.kix"));
  for (int64_t world : {2, 3, 5}) {
    env->remove(out);
    std::vector<IndexReport> reports(static_cast<size_t>(world));
    std::vector<std::thread> ranks;
    for (int64_t rank = 0; rank < world; ++rank)
      ranks.emplace_back([&, rank] {
        // Rank 0 comes last: the others must wait for it.
        if (rank == 0) std::this_thread::sleep_for(std::chrono::milliseconds(300));
        IndexOptions o{{path("train")}, out, 1, false, rank, world, 60};
        reports[size_t(rank)] = build_catalogue(env, o, {});
      });
    for (std::thread& rank : ranks) rank.join();
    EXPECT_EQ(Catalogue::open(env, out)->hash(), hash) << world << " ranks";
    EXPECT_EQ(leftovers(out), std::vector<std::string>());
    EXPECT_EQ(reports[0].videos, 24);
    EXPECT_EQ(reports[0].reused, 0);
    for (int64_t rank = 1; rank < world; ++rank) {
      EXPECT_FALSE(reports[size_t(rank)].is_published);
      EXPECT_NEAR(double(reports[size_t(rank)].videos), 24.0 / double(world), 1);
    }
  }
}

TEST_F(IndexTest, BadFilesOfAllRanksAreReportedByRank0) {
  const TempFolder folder;
  publish(env, folder.path() + "/a.mp4", "no video");
  publish(env, folder.path() + "/b.mp4", "nor is this");
  std::filesystem::copy(path("test/east/000000.mp4"), folder.path() + "/c.mp4");
  const std::string out = folder.path() + "/x.kix";
  std::vector<IndexReport> reports(2);
  std::vector<std::thread> ranks;
  for (int64_t rank : {0, 1})
    ranks.emplace_back([&, rank] {
      reports[size_t(rank)] =
          build_catalogue(env, {{folder.path()}, out, 1, false, rank, 2, 60}, {});
    });
  for (std::thread& rank : ranks) rank.join();
  ASSERT_EQ(reports[0].skipped.size(), 2u);
  EXPECT_NE(reports[0].skipped[0].reason.find("a.mp4"), std::string::npos);
  EXPECT_NE(reports[0].skipped[1].reason.find("b.mp4"), std::string::npos);
}

TEST_F(IndexTest, ADeadRankEndsTheRunByName) {
  const std::string out = path("dead.kix");
  const std::string message = error_of([&] {
    build_catalogue(env, {{path("test")}, out, 1, false, 0, 3, 0.5}, {});
  });
  EXPECT_NE(message.find("rank 1, 2 of 3 has made no progress"), std::string::npos) << message;
  const std::string other = error_of([&] {
    env->remove(out + ".journal-run");
    build_catalogue(env, {{path("test")}, out, 1, false, 2, 3, 0.5}, {});
  });
  EXPECT_NE(other.find("rank 0 of 3 has not started"), std::string::npos) << other;
  // Nothing of it is lost.
  EXPECT_GE(build_catalogue(env, {{path("test")}, out, 1, false}, {}).reused, 4);
}

// One rank in a process of its own; loses power before its n-th change of the disk, unless n is 0.
pid_t start_rank(const IndexOptions& options, int64_t stop_at) {
  const pid_t child = ::fork();
  if (child != 0) return child;
  FaultEnv faulty(env);
  if (stop_at > 0) faulty.stop_at(stop_at);
  try {
    build_catalogue(&faulty, options, {});
  } catch (const std::exception&) {
    ::_exit(1);
  }
  ::_exit(0);
}

TEST_F(IndexTest, ARunGoesOnAfterAnyRankWasKilledAnywhereWithAnyNumberOfRanks) {
  const uint64_t hash = hash_of_one_rank(path("train"), path("one.kix"));
  const std::string out = path("killed.kix");
  int killed = 0;
  for (int64_t victim : {0, 1})
    for (int64_t at = 2; at <= 26; at += 6) {
      SCOPED_TRACE(fmt::format("rank {} loses power before operation {}", victim, at));
      std::vector<pid_t> ranks;
      for (int64_t rank : {0, 1})
        ranks.push_back(
            start_rank({{path("train")}, out, 1, false, rank, 2, 1}, rank == victim ? at : 0));
      for (size_t rank = 0; rank < 2; ++rank) {
        int status = 0;
        ASSERT_EQ(::waitpid(ranks[rank], &status, 0), ranks[rank]);
        killed += WEXITSTATUS(status) == FaultEnv::kPowerCutExit;
      }
      // Started again with another number of ranks, over whatever lies there.
      const int64_t world = 1 + at / 2 % 3;
      std::vector<std::thread> again;
      for (int64_t rank = 0; rank < world; ++rank)
        again.emplace_back([&, rank] {
          build_catalogue(env, {{path("train")}, out, 1, false, rank, world, 60}, {});
        });
      for (std::thread& rank : again) rank.join();
      EXPECT_EQ(Catalogue::open(env, out)->hash(), hash);
      EXPECT_EQ(leftovers(out), std::vector<std::string>());
      env->remove(out);
    }
  EXPECT_GE(killed, 8);
}

}  // namespace
}  // namespace keiko::data
