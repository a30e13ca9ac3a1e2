// What the disk does to a video that is being written, and what a long film costs.

#include "media/video_writer.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "base/error.h"
#include "base/fault_env.h"
#include "base/machine.h"
#include "base/temp_folder.h"
#include "media/limits.h"
#include "media/packet_table.h"
#include "media/remux.h"

namespace keiko::media {
namespace {

Env* const env = default_env();

// A disk that keeps nothing but the size of what is written to it.
class SizeEnv : public Env {
 public:
  int64_t size = 0, overwritten = 0;

  std::unique_ptr<WritableFile> create(const std::string&) override {
    size = 0;
    return std::make_unique<File>(this);
  }
  std::unique_ptr<WritableFile> append_to(const std::string& path, int64_t) override {
    return create(path);
  }
  void rename(const std::string&, const std::string&) override {}
  void remove(const std::string&) override {}
  void make_folder(const std::string&) override {}
  void sync_folder(const std::string&) override {}
  std::unique_ptr<ReadableFile> open(const std::string& path) override { return env->open(path); }
  FileStatus status(const std::string&) override { return {}; }
  std::vector<std::string> list(const std::string&) override { return {}; }

 private:
  class File : public WritableFile {
   public:
    explicit File(SizeEnv* disk) : disk_(disk) {}
    void append(std::span<const uint8_t> bytes) override { disk_->size += int64_t(bytes.size()); }
    void overwrite(int64_t offset, std::span<const uint8_t> bytes) override {
      EXPECT_LE(offset + int64_t(bytes.size()), disk_->size);
      disk_->overwritten += int64_t(bytes.size());
    }
    void sync() override {}

   private:
    SizeEnv* disk_;
  };
};

TEST(VideoWriter, AFilmOfGigabytesNeedsMemoryForAFewPackets) {
  limit_ffmpeg();
  AVCodecParameters stream{};
  stream.codec_type = AVMEDIA_TYPE_VIDEO;
  stream.codec_id = AV_CODEC_ID_MPEG4;
  stream.width = stream.height = 64;
  constexpr int64_t kPackets = 320;
  constexpr int kPacketBytes = 8 << 20;
  for (const char* container : {"mp4", "matroska"}) {
    SizeEnv disk;
    const int64_t before = resident_bytes();
    int64_t most = 0;
    VideoWriter writer(&disk, "/film", container, stream, {1, 25}, 0);
    const PacketPointer packet(av_packet_alloc());
    for (int64_t i = 0; i < kPackets; ++i) {
      ASSERT_EQ(av_new_packet(packet.get(), kPacketBytes), 0);
      std::memset(packet->data, int(i), kPacketBytes);
      packet->pts = packet->dts = i;
      packet->duration = 1;
      packet->flags = AV_PKT_FLAG_KEY;
      writer.write(*packet);
      most = std::max(most, resident_bytes() - before);
    }
    const int64_t size = writer.finish();
    EXPECT_EQ(size, disk.size);
    EXPECT_GT(disk.size, kPackets * kPacketBytes);
    EXPECT_GT(disk.overwritten, 0) << "the sizes in the header were filled in afterwards";
    EXPECT_LT(most, int64_t{96} << 20) << container;
  }
}

TEST(VideoWriter, ADiskThatIsFullAnywhereIsNoFaultOfTheVideoAndLeavesNothing) {
  const TempFolder folder;
  const std::string source = folder.path() + "/source.mp4";
  const std::string command =
      "ffmpeg -v error -y -f lavfi -i testsrc2=s=320x180:d=2:r=25 -pix_fmt yuv420p "
      "-c:v libx264 -crf 1 " +
      source;
  ASSERT_EQ(std::system(command.c_str()), 0) << command;
  const PacketTable table = scan_video(source);
  FaultEnv counting(env);
  cut_video(&counting, table, source, 0, table.frame_count(), folder.path() + "/whole");
  ASSERT_GT(counting.operations(), 6);
  env->make_folder(folder.path() + "/full");
  const std::string stem = folder.path() + "/full/cut";
  for (int64_t from = 1; from <= counting.operations() - 2; ++from) {  // the last two need no space
    FaultEnv full(env);
    full.fill_disk_at(from);
    try {
      cut_video(&full, table, source, 0, table.frame_count(), stem);
      ADD_FAILURE() << "no error from operation " << from << " on";
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::kIo) << e.what();
      EXPECT_EQ(std::string(e.what()).find(stem + ".mp4.tmp: cannot "), 0u) << e.what();
      EXPECT_NE(std::string(e.what()).find("No space left on device"), std::string::npos);
    }
    EXPECT_EQ(env->list(folder.path() + "/full"), std::vector<std::string>());
  }
}

TEST(VideoWriter, PacketsThatTheContainerRefusesAreTheVideosFault) {
  const TempFolder folder;
  AVCodecParameters stream{};
  stream.codec_type = AVMEDIA_TYPE_VIDEO;
  stream.codec_id = AV_CODEC_ID_MPEG4;
  stream.width = stream.height = 64;
  {
    VideoWriter writer(env, folder.path() + "/f.mp4", "mp4", stream, {1, 25}, 0);
    const PacketPointer packet(av_packet_alloc());
    for (const int64_t time : {5, 4}) {
      ASSERT_EQ(av_new_packet(packet.get(), 10), 0);
      packet->pts = packet->dts = time;
      try {
        writer.write(*packet);
        EXPECT_EQ(time, 5) << "time goes back";
      } catch (const Error& e) {
        EXPECT_EQ(time, 4);
        EXPECT_EQ(e.kind(), ErrorKind::kData) << e.what();
      }
    }
  }
  EXPECT_EQ(env->list(folder.path()), std::vector<std::string>());
}

}  // namespace
}  // namespace keiko::media
