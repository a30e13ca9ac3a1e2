#include <gtest/gtest.h>

#include "base/env.h"
#include "base/error.h"
#include "base/temp_folder.h"
#include "media/clip_encoder.h"
#include "media/packet_table.h"

namespace keiko::media {
namespace {

std::string clip_bytes() {
  std::vector<uint8_t> luma(32 * 32 * 20, 77);
  for (size_t i = 0; i < luma.size(); ++i) luma[i] = uint8_t(i * 7 / 32);
  const auto bytes = encode_mp4(luma, {});
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::string error_of(const std::string& path) {
  try {
    scan_video(path);
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

TEST(ScanVideo, SaysWhatIsWrongWithAFile) {
  const TempFolder folder;
  const std::string path = folder.path() + "/x.mp4";
  publish(default_env(), path, "");
  EXPECT_EQ(error_of(path), path + ": the file is empty");
  publish(default_env(), path, "this is a text file, not a video\n");
  EXPECT_NE(error_of(path).find("not a video that FFmpeg can open"), std::string::npos);
  EXPECT_NE(error_of(folder.path() + "/missing.mp4").find("No such file"), std::string::npos);
}

TEST(ScanVideo, ATornFileIsAnErrorOrShorterNeverACrash) {
  const TempFolder folder;
  const std::string whole = clip_bytes();
  const std::string path = folder.path() + "/torn.mp4";
  for (size_t length = 0; length < whole.size(); length += 1 + whole.size() / 97) {
    publish(default_env(), path, whole.substr(0, length));
    try {
      EXPECT_LE(scan_video(path).frame_count(), 20);
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find(path), std::string::npos) << e.what();
    }
  }
}

TEST(ScanVideo, NeverOpensWhatAFileRefersTo) {
  const TempFolder folder;
  publish(default_env(), folder.path() + "/real.mp4", clip_bytes());
  const std::string playlist = folder.path() + "/list.mp4";
  publish(default_env(), playlist, "ffconcat version 1.0\nfile real.mp4\n");
  EXPECT_NE(error_of(playlist).find("not a video"), std::string::npos) << error_of(playlist);
  publish(default_env(), playlist, "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nreal.mp4\n");
  EXPECT_NE(error_of(playlist).find("not a video"), std::string::npos) << error_of(playlist);
}

}  // namespace
}  // namespace keiko::media
