#include "media/trial.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/rng.h"
#include "base/temp_folder.h"
#include "media/clip_decoder.h"
#include "media/clip_encoder.h"

namespace keiko::media {
namespace {

// 60 frames of moving stripes and noise, a key frame every 15.
std::string make_clip(const std::string& path) {
  Rng rng(1, Stream::kSynth, 0);
  std::vector<uint8_t> luma(32 * 32 * 60);
  for (size_t i = 0; i < luma.size(); ++i)
    luma[i] = uint8_t(i / 32 + i % 32 * 3 + i / 1024 * 5 + rng.below(20));
  EncoderOptions options;
  options.keyframe_interval = 15;
  const auto bytes = encode_mp4(luma, options);
  const std::string text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  publish(default_env(), path, text);
  return text;
}

TEST(Trial, AShortcutThatChangesPixelsIsTakenBack) {
  const TempFolder folder;
  const std::string path = folder.path() + "/x.mp4";
  make_clip(path);
  const PacketTable scanned = scan_video(path);
  const Sighting truth = watch_decoder(default_env(), path, scanned);
  ASSERT_EQ(truth.packet, scanned.frame_packet);

  PacketTable honest = scanned;
  EXPECT_TRUE(try_shortcuts(default_env(), path, truth, honest));
  EXPECT_EQ(honest.flags, scanned.flags);
  EXPECT_TRUE(honest.skipping);

  // Claims that are not true: every packet is a random-access point, none is needed.
  PacketTable lying = scanned;
  for (uint8_t& flags : lying.flags) flags |= kRandomAccess;
  EXPECT_FALSE(try_shortcuts(default_env(), path, truth, lying));
  for (size_t p = 0; p < lying.flags.size(); ++p)
    EXPECT_EQ(lying.flags[p] & kRandomAccess, scanned.flags[p] & kRandomAccess) << "packet " << p;

  lying = scanned;
  for (uint8_t& flags : lying.flags)
    if (!(flags & kRandomAccess)) flags |= kDroppable;
  EXPECT_FALSE(try_shortcuts(default_env(), path, truth, lying));
  EXPECT_FALSE(lying.skipping);
  EXPECT_NE(lying.skipping_off.find("without the droppable packets frame"), std::string::npos);
  for (uint8_t flags : lying.flags) EXPECT_FALSE(flags & kDroppable);
}

TEST(Trial, DamageInsideAPacketIsFoundByVerifyingAndByDecodingTheClip) {
  const TempFolder folder;
  const std::string path = folder.path() + "/x.mp4";
  std::string text = make_clip(path);
  PacketTable table = scan_video(path);
  verify_video(default_env(), path, table);

  // Packet 20 keeps its NAL header (4 bytes of length, 1 of type); its slice becomes zeros.
  for (uint32_t i = 5; i < table.size[20]; ++i) text[size_t(table.position[20]) + i] = 0;
  publish(default_env(), path, text);
  PacketTable damaged = scan_video(path);
  try {
    verify_video(default_env(), path, damaged);
    FAIL() << "the damage was not seen";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kData);
    EXPECT_NE(std::string(e.what()).find("complained"), std::string::npos) << e.what();
  }

  std::vector<uint8_t> out(3 * 2 * 16 * 16);
  ClipRequest request;
  request.table = &damaged;
  request.path = &path;
  request.crop = {0, 0, 32, 32};
  request.size = 16;
  request.out = out.data();
  request.channel_stride = 2 * 16 * 16;
  CpuClipDecoder decoder(default_env());
  int refused = 0, patched = 0;
  for (int64_t frame = 0; frame + 1 < damaged.frame_count(); ++frame) {
    const int64_t frames[2] = {frame, frame + 1};
    request.frames = frames;
    request.allow_concealed = false;
    bool is_refused = false;
    try {
      decoder.decode(request);
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::kData);
      is_refused = true;
    }
    refused += is_refused;
    // Other GOPs are not concerned; and the recipe may say that patched pictures will do.
    if (frame < 14 || frame >= 30) {
      EXPECT_FALSE(is_refused) << "frame " << frame;
    }
    // The recipe may say that patched pictures will do; one that never came out will not.
    request.allow_concealed = true;
    try {
      EXPECT_EQ(decoder.decode(request).complaints > 0, is_refused) << "frame " << frame;
      patched += is_refused;
    } catch (const Error& e) {
      EXPECT_TRUE(is_refused) << e.what();
      EXPECT_NE(std::string(e.what()).find("did not come out"), std::string::npos) << e.what();
    }
  }
  EXPECT_GT(patched, 0);
  EXPECT_GT(refused, 0);
}

}  // namespace
}  // namespace keiko::media
