#include "data/index.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "data/catalogue.h"
#include "data/small_set.h"

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

}  // namespace
}  // namespace keiko::data
