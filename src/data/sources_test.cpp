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
  // Deep enough to overflow the stack of whoever walks it by recursion.
  const std::string deep = "{\"path\": \"x.mp4\", \"label\": " + std::string(2'000'000, '[') +
                           std::string(2'000'000, ']') + "}\n";
  EXPECT_NE(error_of([&] { find("h.jsonl", deep); }).find("label must be"), std::string::npos);
}

TEST_F(SourcesTest, TablesMayHaveMoreColumnsQuotesCommasAndAByteOrderMark) {
  const TempFolder folder;
  const auto read = [&](const std::string& name, const std::string& text) {
    publish(env, folder.path() + "/" + name, text);
    std::string all;
    for (const SourceVideo& v : read_video_list(env, folder.path() + "/" + name))
      all += v.path + "|" + v.label + ";";
    return all;
  };
  EXPECT_EQ(
      read("a.csv", "\xEF\xBB\xBFid,Path,fps,Label\r\n1,\"a, b.mp4\",25,\"say \"\"hi\"\"\"\r\n"),
      "a, b.mp4|say \"hi\";");
  EXPECT_EQ(read("b.tsv", "label\tx\tpath\n3\t\tmy video.mp4\n"), "my video.mp4|3;");
  EXPECT_EQ(read("c.csv", "path\na.mp4\nb.mp4\n"), "a.mp4|;b.mp4|;") << "a header of one column";
  EXPECT_EQ(read("d.csv", "a.mp4,3\nb c.mp4,4\n"), "a.mp4|3;b c.mp4|4;") << "rows, no header";
  EXPECT_EQ(read("e.tsv", "a.mp4\t3\n"), "a.mp4|3;");
  // VideoMAE's .csv: words; a comma belongs to the path when the file is there.
  publish(env, folder.path() + "/x,y.mp4", "");
  EXPECT_EQ(read("f.csv", "x,y.mp4 12\n"), "x,y.mp4|12;");
  EXPECT_EQ(read("g.txt", "# note\n\nsome dir/a b.mp4 7\r\n"), "some dir/a b.mp4|7;");
  publish(env, folder.path() + "/two words.mp4", "");
  EXPECT_EQ(read("h.txt", "two words.mp4\ntwo words.mp4 1\n"), "two words.mp4|;two words.mp4|1;");
  EXPECT_EQ(read("i.jsonl",
                 "{\"path\": \"a.mp4\", \"label\": 3, \"x\": [1]}\n{\"path\": "
                 "\"b.mp4\", \"label\": null}\n"),
            "a.mp4|3;b.mp4|;");
  EXPECT_NE(error_of([&] {
              read("j.csv", "label,youtube_id\nrun,abc\n");
            }).find("j.csv:1: no column is named path (columns: label, youtube_id)"),
            std::string::npos);
  EXPECT_NE(error_of([&] { read("k.csv", "path,label\na.mp4\n"); }).find("k.csv:2: 1 fields"),
            std::string::npos);
  EXPECT_NE(error_of([&] { read("l.csv", "path,label\n,3\n"); }).find("the path is empty"),
            std::string::npos);
}

}  // namespace
}  // namespace keiko::data
