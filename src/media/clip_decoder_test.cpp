#include "media/clip_decoder.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "base/error.h"
#include "base/rng.h"
#include "base/temp_folder.h"
#include "media/clip_encoder.h"

namespace keiko::media {
namespace {

// Passes reads on and counts what goes through.
class CountingEnv : public Env {
 public:
  int64_t opens = 0, reads = 0, bytes = 0;

  std::unique_ptr<ReadableFile> open(const std::string& path) override {
    ++opens;
    return std::make_unique<File>(*this, default_env()->open(path));
  }
  std::unique_ptr<WritableFile> create(const std::string& path) override {
    return default_env()->create(path);
  }
  std::unique_ptr<WritableFile> append_to(const std::string& path, int64_t length) override {
    return default_env()->append_to(path, length);
  }
  void rename(const std::string& from, const std::string& to) override {
    default_env()->rename(from, to);
  }
  void remove(const std::string& path) override { default_env()->remove(path); }
  void make_folder(const std::string& path) override { default_env()->make_folder(path); }
  void sync_folder(const std::string& path) override { default_env()->sync_folder(path); }
  FileStatus status(const std::string& path) override { return default_env()->status(path); }
  std::vector<std::string> list(const std::string& path) override {
    return default_env()->list(path);
  }

 private:
  class File : public ReadableFile {
   public:
    File(CountingEnv& env, std::unique_ptr<ReadableFile> file)
        : ReadableFile(file->path()), env_(env), file_(std::move(file)) {}
    int64_t size() const override { return file_->size(); }
    void read(int64_t offset, std::span<uint8_t> out) const override {
      ++env_.reads;
      env_.bytes += int64_t(out.size());
      file_->read(offset, out);
    }

   private:
    CountingEnv& env_;
    std::unique_ptr<ReadableFile> file_;
  };
};

// Decodes `clips` random clips of 16 frames at stride 4 and checks what each cost.
void expect_cheap(const std::string& path, int clips) {
  SCOPED_TRACE(path);
  const PacketTable table = scan_video(path);
  ASSERT_TRUE(table.direct_read) << table.direct_read_off;
  CountingEnv env;
  CpuClipDecoder decoder(&env);
  constexpr int kSize = 32;
  std::vector<uint8_t> out(3 * 16 * kSize * kSize);
  ClipRequest request;
  request.table = &table;
  request.path = &path;
  const double side = std::min(table.stream.display_width(), table.stream.display_height());
  request.crop = {0, 0, side, side};
  request.size = kSize;
  request.out = out.data();
  request.channel_stride = 16 * kSize * kSize;
  Rng rng(3, Stream::kClip, 0);
  for (int c = 0; c < clips; ++c) {
    const int64_t start = int64_t(rng.below(uint64_t(table.frame_count())));
    std::vector<int64_t> frames;
    for (int64_t t = 0; t < 16; ++t)
      frames.push_back(std::min(start + 4 * t, table.frame_count() - 1));
    request.frames = frames;
    const DecodePlan plan = plan_decode(table, frames);
    const int64_t reads = env.reads, bytes = env.bytes;
    const ClipCost cost = decoder.decode(request);
    EXPECT_EQ(cost.opens, 0) << "a container was opened";
    EXPECT_EQ(cost.reads, env.reads - reads);
    EXPECT_EQ(cost.bytes, env.bytes - bytes);
    EXPECT_EQ(cost.reads, int64_t(plan.reads.size()));
    EXPECT_LE(cost.reads, 2) << "reads were not coalesced";
    EXPECT_EQ(cost.packets_decoded, int64_t(plan.packets.size()));
    EXPECT_EQ(cost.packets_dropped, plan.dropped);
    EXPECT_EQ(cost.complaints, 0);
  }
  EXPECT_EQ(env.opens, 1) << "the file stays open";
}

TEST(ClipDecoder, OpensNoContainerAndReadsOnceOrTwiceAClip) {
  const TempFolder folder;
  Rng rng(1, Stream::kSynth, 0);
  std::vector<uint8_t> luma(64 * 64 * 120);
  for (size_t i = 0; i < luma.size(); ++i)
    luma[i] = uint8_t(i / 64 + i % 64 * 3 + i / 4096 * 5 + rng.below(20));
  EncoderOptions options;
  options.width = options.height = 64;
  const auto bytes = encode_mp4(luma, options);
  const std::string path = folder.path() + "/x.mp4";
  publish(default_env(), path, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  expect_cheap(path, 20);
}

TEST(ClipDecoder, RealVideosCostNoMore) {
  const char* media = std::getenv("KEIKO_TEST_MEDIA");
  if (media == nullptr) GTEST_SKIP() << "KEIKO_TEST_MEDIA is not set: real videos are NOT tested";
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(std::string(media) + "/real")) {
    expect_cheap(entry.path().string(), 4);
    ++files;
  }
  EXPECT_GT(files, 0);
}

TEST(ClipDecoder, AFileThatFailsIsOpenedAgain) {
  const TempFolder folder;
  const std::string path = folder.path() + "/x.mp4";
  std::vector<uint8_t> luma(32 * 32 * 20);
  for (size_t i = 0; i < luma.size(); ++i) luma[i] = uint8_t(i * 7);
  const auto bytes = encode_mp4(luma, {});
  const std::string text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  publish(default_env(), path, text);
  const PacketTable table = scan_video(path);
  CountingEnv env;
  CpuClipDecoder decoder(&env);
  const int64_t frames[1] = {12};
  int seen = 0;
  const auto count = [&](int64_t, const AVFrame&) { ++seen; };
  // Torn in place: the open handle sees it, the clip fails by name, and later reads start afresh.
  std::filesystem::resize_file(path, 100);
  EXPECT_THROW(decoder.decode_frames(table, path, frames, count), Error);
  publish(default_env(), path, text);
  decoder.decode_frames(table, path, frames, count);
  EXPECT_EQ(seen, 1);
  EXPECT_EQ(env.opens, 2);
}

TEST(ClipDecoder, ViewsOfOneDecodeEqualClipsDecodedApart) {
  const TempFolder folder;
  const std::string path = folder.path() + "/x.mp4";
  std::vector<uint8_t> luma(32 * 32 * 20);
  for (size_t i = 0; i < luma.size(); ++i) luma[i] = uint8_t(i * 7 + i / 300);
  const auto bytes = encode_mp4(luma, {});
  publish(default_env(), path, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  const PacketTable table = scan_video(path);
  const std::vector<int64_t> frames = {3, 7, 7, 2};
  constexpr int kSize = 16;
  constexpr size_t kClip = 3 * 4 * kSize * kSize;
  ClipRequest request;
  request.table = &table;
  request.path = &path;
  request.frames = frames;
  request.size = kSize;
  request.channel_stride = 4 * kSize * kSize;
  std::vector<std::vector<uint8_t>> together(3, std::vector<uint8_t>(kClip)), apart = together;
  const CropRect crops[3] = {{0, 0, 32, 32}, {4, 6, 20, 20}, {1.5, 2.5, 9, 12}};
  CpuClipDecoder decoder(default_env());
  for (int v = 0; v < 3; ++v) {
    request.crop = crops[v];
    request.flip = v == 1;
    request.out = apart[size_t(v)].data();
    decoder.decode(request);
  }
  const ClipView more[2] = {{crops[1], true, together[1].data()},
                            {crops[2], false, together[2].data()}};
  request.crop = crops[0];
  request.flip = false;
  request.out = together[0].data();
  request.more_views = more;
  const ClipCost cost = decoder.decode(request);
  EXPECT_EQ(together, apart);
  EXPECT_NE(together[0], together[1]);
  request.more_views = {};
  EXPECT_EQ(decoder.decode(request).packets_decoded, cost.packets_decoded);
}

}  // namespace
}  // namespace keiko::media
