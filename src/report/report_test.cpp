#include <gtest/gtest.h>

#include "base/error.h"
#include "base/temp_folder.h"
#include "report/line_plot.h"
#include "report/metrics.h"
#include "report/picture.h"
#include "report/progress.h"
#include "report/run_page.h"
#include "report/tensorboard.h"

namespace keiko::report {
namespace {

TEST(TensorBoard, Crc32cGivesThePublishedKnownAnswers) {
  // RFC 3720, appendix B.4.
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aau);
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62a8ab43u);
  EXPECT_EQ(crc32c("123456789"), 0xe3069283u);
}

TEST(JsonLines, GoesOnFromARecordedLengthAndCutsTheRest) {
  const TempFolder folder;
  const std::string path = folder.path() + "/metrics.jsonl";
  int64_t length = 0;
  {
    JsonLines lines(default_env(), path, 0);
    lines.write({{"step", 1}});
    length = lines.length();
    lines.write({{"step", 2}});
  }
  JsonLines(default_env(), path, length).write({{"step", 3}});
  default_env()->append_to(path, default_env()->status(path).size)->append("{\"torn");
  const auto read = read_json_lines(default_env(), path);
  ASSERT_EQ(read.size(), 2u);
  EXPECT_EQ(read[0]["step"], 1);
  EXPECT_EQ(read[1]["step"], 3);
  EXPECT_THROW(JsonLines(default_env(), path, 10000), Error);
}

TEST(Picture, ArrangePutsPicturesInRows) {
  const std::vector<Picture> pictures = {Picture(2, 2, {255, 0, 0}), Picture(2, 2, {0, 255, 0}),
                                         Picture(2, 2, {0, 0, 255})};
  const Picture sheet = arrange(pictures, 2, 1);
  EXPECT_EQ(sheet.width, 7);
  EXPECT_EQ(sheet.height, 7);
  EXPECT_EQ(sheet.at(1, 1)[0], 255);
  EXPECT_EQ(sheet.at(4, 1)[1], 255);
  EXPECT_EQ(sheet.at(1, 4)[2], 255);
  EXPECT_EQ(sheet.at(0, 0)[0], 32);
}

TEST(Picture, PngStartsWithItsSignature) {
  const TempFolder folder;
  write_png(default_env(), folder.path() + "/a.png", enlarge(Picture(3, 2, {9, 8, 7}), 2));
  const std::string bytes = read_text(default_env(), folder.path() + "/a.png");
  EXPECT_EQ(bytes.substr(0, 8), "\x89PNG\r\n\x1a\n");
  EXPECT_EQ(uint8_t(bytes[19]), 6);  // width, big-endian, at byte 16
}

TEST(SharePlot, PlacesPointsByLogarithmAndKeepsMarkupOutOfText) {
  const std::string svg =
      share_plot("a < b & c", "", "ranks", {1, 10, 100}, {{"<line>", "#000", {0, 0.5, 2}}});
  EXPECT_NE(svg.find("a &lt; b &amp; c"), std::string::npos);
  EXPECT_EQ(svg.find("<line>"), std::string::npos);
  // Equal steps to the right; a share over 1 is drawn at the top.
  EXPECT_NE(svg.find("points=\"70.0,334.0 336.0,194.0 602.0,54.0\""), std::string::npos) << svg;
}

TEST(Progress, TextsReadWell) {
  EXPECT_EQ(duration_text(45), "45 s");
  EXPECT_EQ(duration_text(125), "2 min 05 s");
  EXPECT_EQ(duration_text(11520), "3 h 12 min");
  EXPECT_EQ(count_text(1234567), "1,234,567");
  EXPECT_EQ(count_text(999), "999");
  EXPECT_EQ(bytes_text(1.94e9), "1.9 GB");
}

TEST(RunPage, ShowsTheCurvesOfARun) {
  const TempFolder folder;
  publish(default_env(), folder.path() + "/recipe.yaml", "seed: 1 # <b>\n");
  JsonLines lines(default_env(), folder.path() + "/metrics.jsonl", 0);
  for (int s = 1; s < 10; ++s) lines.write({{"kind", "train"}, {"step", s}, {"loss", 1.0 / s}});
  lines.write({{"kind", "eval"}, {"step", 9}, {"loss", 0.5}, {"top1", 0.9}});
  write_run_page(default_env(), folder.path());
  const std::string page = read_text(default_env(), folder.path() + "/report.html");
  EXPECT_NE(page.find("<polyline"), std::string::npos);
  EXPECT_NE(page.find("top-1 accuracy"), std::string::npos);
  EXPECT_NE(page.find("&lt;b&gt;"), std::string::npos);
}

}  // namespace
}  // namespace keiko::report
