#include "data/sources.h"

#include <gtest/gtest.h>

#include "data/small_set.h"

namespace keiko::data {
namespace {

class SourcesTest : public SmallSet {};

TEST_F(SourcesTest, ListsOfPathsAreReadInEveryForm) {
  const TempFolder folder;
  const std::string video = path("test/east/000000.mp4");
  auto find = [&](const std::string& name, const std::string& text) {
    publish(env, folder.path() + "/" + name, text);
    const auto found = find_videos(env, {folder.path() + "/" + name});
    return found.at(0).path + "|" + found.at(0).label;
  };
  EXPECT_EQ(find("a.csv", "path,label\n\"" + video + "\",wave\n"), video + "|wave");
  EXPECT_EQ(find("b.csv", video + " 7\n"), video + "|7");
  EXPECT_EQ(find("c.tsv", "label\tpath\nwave\t" + video + "\n"), video + "|wave");
  EXPECT_EQ(find("d.txt", "# comment\n/some path/with spaces.mp4 3\n"),
            "/some path/with spaces.mp4|3");
  EXPECT_EQ(find("e.txt", video + "\n"), video + "|");
  EXPECT_EQ(find("f.jsonl", "{\"path\": \"x.mp4\", \"label\": \"run\"}\n"),
            folder.path() + "/x.mp4|run");
  EXPECT_NE(error_of([&] { find("g.jsonl", "{\"pth\": 1}\n"); }).find("g.jsonl:1"),
            std::string::npos);
}

}  // namespace
}  // namespace keiko::data
