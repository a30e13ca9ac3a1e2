// Packs of clips that the test writes itself: what is in them, that a stop changes nothing, and
// what happens when a disk is full or a video is bad.

#include "data/pack.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/fault_env.h"
#include "base/hash.h"
#include "base/temp_folder.h"
#include "data/dataset.h"
#include "data/loader.h"
#include "data/pack_measure.h"
#include "data/pack_set.h"
#include "data/tar.h"
#include "media/clip_decoder.h"

namespace keiko::data {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> md5s(const Catalogue& c, int64_t index) {
  const Item item = c.item(index);
  const auto video = c.video(item.video);
  std::vector<int64_t> frames;
  for (int64_t i = 0; i < item.frame_count; ++i) frames.push_back(item.first_frame + i);
  std::vector<std::string> found;
  media::CpuClipDecoder(env).decode_frames(
      video->table, video->file.path, frames,
      [&](int64_t, const AVFrame& frame) { found.push_back(media::raw_md5(frame)); });
  return found;
}

TEST_F(Pack, HoldsEveryItemInOrderWithItsLabelAndIsFastToRead) {
  const TempFolder folder;
  const std::string out = folder.path() + "/pack";
  const PackReport report = make_pack(env, options(out), {});
  EXPECT_TRUE(report.is_whole);
  EXPECT_GT(report.shards, 2);
  EXPECT_EQ(report.totals.items, 12);
  EXPECT_EQ(report.totals.source_frames, 12 * 24);
  EXPECT_EQ(report.totals.packed_frames, 12 * 24);
  EXPECT_EQ(report.totals.quality.items, 12);
  EXPECT_GT(report.totals.quality.similarity / double(report.totals.quality.frames), 0.97);
  const auto before = Catalogue::open(env, source()), after = Catalogue::open(env, out);
  ASSERT_EQ(after->item_count(), 12);
  EXPECT_EQ(after->class_names(), before->class_names());
  for (int64_t i = 0; i < 12; ++i) {
    const Item item = after->item(i);
    EXPECT_EQ(item.label, before->item(i).label);
    EXPECT_EQ(item.frame_count, 24);
    const auto video = after->video(item.video);
    EXPECT_TRUE(video->table.direct_read);
    EXPECT_TRUE(video->table.skipping);
    EXPECT_EQ(std::stoll(video->file.member.name), i);
    EXPECT_EQ(video->table.frame_pts, before->video(before->item(i).video)->table.frame_pts);
    EXPECT_EQ(md5s(*after, i).size(), 24u);
  }
  EXPECT_TRUE(check_pack(env, out, 2, {}).empty());
  EXPECT_FALSE(env->status(out + "/parts").exists);
}

TEST_F(Pack, MembersTakenOutOfTheTarAreTheVideosThatTheCatalogueDescribes) {
  const TempFolder folder;
  const std::string out = folder.path() + "/pack";
  make_pack(env, options(out), {});
  const auto c = Catalogue::open(env, out + "/pack.kix");
  ASSERT_EQ(
      std::system(("cd " + folder.path() + " && for f in pack/*.tar; do tar xf $f; done").c_str()),
      0);
  for (int64_t i = 0; i < c->item_count(); ++i) {
    const auto video = c->video(c->item(i).video);
    const std::string path = folder.path() + "/" + video->file.member.name;
    EXPECT_EQ(xxh3_of_file(path), video->file.member.hash);
    const media::PacketTable own = media::scan_video(path);
    EXPECT_EQ(own.stream, video->table.stream);
    EXPECT_EQ(own.frame_packet, video->table.frame_packet);
    for (size_t p = 0; p < own.position.size(); ++p)
      EXPECT_EQ(own.position[p] + video->file.member.offset, video->table.position[p]);
  }
}

TEST_F(Pack, ExactPacksShowTheSourcesFramesBitByBit) {
  const TempFolder folder;
  const std::string out = folder.path() + "/pack";
  const PackReport report = make_pack(env, options(out, "exact"), {});
  EXPECT_EQ(report.totals.items, 12);
  const auto before = Catalogue::open(env, source()), after = Catalogue::open(env, out);
  for (int64_t i = 0; i < 12; ++i) EXPECT_EQ(md5s(*before, i), md5s(*after, i)) << "item " << i;
}

TEST_F(Pack, ItemsThatAreStretchesOfOneVideoArePackedByThemselves) {
  const TempFolder folder;
  const auto whole = Catalogue::open(env, source());
  CatalogueWriter writer(env, folder.path() + "/windows.kix");
  const uint32_t v = writer.add_video(*whole->video(0));
  for (const auto& [first, count] : {std::pair<int64_t, int64_t>{3, 5}, {8, 16}, {23, 1}})
    writer.add_item({v, -1, first, count});
  writer.publish();
  for (const char* purpose : {"exact", "speed"}) {
    PackOptions o = options(folder.path() + "/" + purpose, purpose);
    o.catalogue = folder.path() + "/windows.kix";
    EXPECT_EQ(make_pack(env, o, {}).totals.packed_frames, 22);
    const auto before = Catalogue::open(env, o.catalogue), after = Catalogue::open(env, o.out);
    ASSERT_EQ(after->item_count(), 3);
    for (int64_t i = 0; i < 3; ++i) {
      EXPECT_EQ(after->item(i).frame_count, before->item(i).frame_count);
      if (std::string(purpose) == "exact") {
        EXPECT_EQ(md5s(*before, i), md5s(*after, i)) << "item " << i;
      }
    }
  }
}

TEST_F(Pack, TrainingReadsItUnderItsFolderOrItsCatalogue) {
  const TempFolder folder;
  const std::string out = folder.path() + "/pack";
  make_pack(env, options(out), {});
  ClipOptions clip;
  clip.num_frames = 8;
  clip.size = 32;
  clip.sampling_rate = 2;
  uint64_t hashes[2];
  int which = 0;
  for (const std::string& path : {out, out + "/pack.kix"}) {
    const Dataset dataset(env, {{path}}, clip, {}, 1, 1);
    Loader loader(
        env, dataset,
        [](int64_t s) {
          return Slice{s * 4, s * 4 + 4};
        },
        0, true, 1, 1, [] { return std::make_unique<media::CpuClipDecoder>(env); });
    const Batch& batch = loader.next();
    EXPECT_EQ(batch.cost.opens, 0);
    hashes[which++] = xxh3(std::span<const uint8_t>(batch.video));
  }
  EXPECT_EQ(hashes[0], hashes[1]);
  env->remove(out + "/pack.kix");
  EXPECT_NE(error_of([&] { Catalogue::open(env, out); }).find("a folder without pack.kix"),
            std::string::npos);
}

// The process loses power at one operation after another; then the same command runs again.
TEST_F(Pack, APowerCutAnywhereLosesOnlyWhatWasInWork) {
  const TempFolder folder;
  PackOptions plain = options(folder.path() + "/plain");
  FaultEnv counter(env);
  make_pack(&counter, plain, {});
  const auto wanted = content(plain.out);
  ASSERT_GT(counter.operations(), 100);
  const int64_t step = counter.operations() / 23 + 1;
  for (int64_t at = 1; at < counter.operations(); at += step) {
    SCOPED_TRACE("operation " + std::to_string(at));
    const PackOptions o = options(folder.path() + "/cut" + std::to_string(at));
    const pid_t child = ::fork();
    if (child == 0) {
      FaultEnv fault(env);
      fault.stop_at(at);
      make_pack(&fault, o, {});
      ::_exit(0);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    EXPECT_EQ(WEXITSTATUS(status), FaultEnv::kPowerCutExit);
    const PackReport report = make_pack(env, o, {});
    // All but the item in work, and the shard in work, are taken over.
    if (at > counter.operations() / 2) {
      EXPECT_GE(report.reused_items, 3);
    }
    EXPECT_TRUE(content(o.out) == wanted);
    EXPECT_TRUE(check_pack(env, o.out, 1, {}).empty());
  }
}

TEST_F(Pack, AFullDiskIsNamedAndLosesNothing) {
  const TempFolder folder;
  PackOptions plain = options(folder.path() + "/plain");
  FaultEnv counter(env);
  make_pack(&counter, plain, {});
  for (const int64_t at : {int64_t{3}, counter.operations() / 2, counter.operations() - 4}) {
    const PackOptions o = options(folder.path() + "/full" + std::to_string(at));
    FaultEnv fault(env);
    fault.fill_disk_at(at);
    const std::string message = error_of([&] { make_pack(&fault, o, {}); });
    EXPECT_NE(message.find("space"), std::string::npos) << message;
    EXPECT_NE(message.find(o.out), std::string::npos) << message;
    make_pack(env, o, {});
    EXPECT_TRUE(content(o.out) == content(plain.out));
  }
}

TEST_F(Pack, OtherOptionsAreRefusedWithTheDifferenceUnlessRestarted) {
  const TempFolder folder;
  PackOptions o = options(folder.path() + "/pack");
  make_pack(env, o, {});
  EXPECT_EQ(make_pack(env, o, {}).reused_items, 12);
  o.choice.crf = 30;
  o.choice.gop = 8;
  const std::string message = error_of([&] { make_pack(env, o, {}); });
  EXPECT_NE(message.find("--crf was 18, is 30; --gop was 16, is 8"), std::string::npos) << message;
  o.restart = true;
  EXPECT_EQ(make_pack(env, o, {}).reused_items, 0);
}

TEST_F(Pack, AFolderWithOtherFilesIsLeftAlone) {
  const TempFolder folder;
  publish(env, folder.path() + "/letter.txt", "dear");
  EXPECT_NE(error_of([&] { make_pack(env, options(folder.path()), {}); }).find("letter.txt"),
            std::string::npos);
  PackOptions o = options(folder.path());
  o.restart = true;
  EXPECT_NE(error_of([&] { make_pack(env, o, {}); }).find("letter.txt"), std::string::npos);
  EXPECT_EQ(read_text(env, folder.path() + "/letter.txt"), "dear");
  // Shards of another tool look alike, but have no plan beside them.
  env->remove(folder.path() + "/letter.txt");
  publish(env, folder.path() + "/shard-00000.tar", "theirs");
  EXPECT_NE(error_of([&] { make_pack(env, o, {}); }).find("no plan.json"), std::string::npos);
  EXPECT_EQ(read_text(env, folder.path() + "/shard-00000.tar"), "theirs");
}

TEST_F(Pack, BadVideosAreLeftOutByNameAndTooManyEndTheRun) {
  const TempFolder folder;
  fs::copy(folder_->path() + "/train", folder.path() + "/v", fs::copy_options::recursive);
  // Zeros over the middle of one video's packets, put there before indexing.
  const std::string bad = fs::recursive_directory_iterator(folder.path() + "/v/east")->path();
  std::string bytes = read_text(env, bad);
  const media::PacketTable table = media::scan_video(bad);
  for (size_t p = 5; p < 9; ++p)
    bytes.replace(size_t(table.position[p]) + 5, table.size[p] - 5,
                  std::string(table.size[p] - 5, '\x7f'));
  publish(env, bad, bytes);
  IndexOptions index;
  index.sources = {folder.path() + "/v"};
  index.out = folder.path() + "/v.kix";
  build_catalogue(env, index, {});
  PackOptions o = options(folder.path() + "/pack");
  o.catalogue = index.out;
  const PackReport report = make_pack(env, o, {});  // 1% of 12, rounded up, is one
  EXPECT_EQ(report.totals.items, 11);
  ASSERT_EQ(report.skipped.size(), 1u);
  EXPECT_NE(report.skipped[0].reason.find(bad), std::string::npos) << report.skipped[0].reason;
  const auto line = nlohmann::json::parse(read_text(env, o.out + "/skipped.jsonl"));
  EXPECT_EQ(line.at("path"), fs::weakly_canonical(bad).string());
  EXPECT_EQ(Catalogue::open(env, o.out)->item_count(), 11);
  o.out = folder.path() + "/strict";
  o.max_bad = 0;
  try {
    make_pack(env, o, {});
    ADD_FAILURE() << "no error";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kTooMuchBad) << e.what();
  }
  EXPECT_FALSE(env->status(o.out + "/pack.kix").exists);
  o.max_bad = 0.5;  // and goes on when more are allowed
  EXPECT_EQ(make_pack(env, o, {}).totals.items, 11);
}

TEST_F(Pack, AFlippedByteIsFoundByCheckingAndNamed) {
  const TempFolder folder;
  const std::string out = folder.path() + "/pack";
  make_pack(env, options(out), {});
  const auto video = Catalogue::open(env, out)->video(5);
  std::string bytes = read_text(env, video->file.path);
  bytes[size_t(video->file.member.offset + video->file.member.size / 2)] ^= 1;
  publish(env, video->file.path, bytes);
  const auto damage = check_pack(env, out, 1, {});
  ASSERT_EQ(damage.size(), 1u);
  EXPECT_NE(damage[0].find(video->file.member.name), std::string::npos);
}

TEST_F(Pack, MeasuringTakesTheSameMomentsFromBothSides) {
  const TempFolder folder;
  PackOptions o = options(folder.path() + "/pack");
  o.choice.frames_per_second = 12.5;  // of 25
  make_pack(env, o, {});
  const auto after = Catalogue::open(env, o.out);
  EXPECT_EQ(after->item(0).frame_count, 12);
  const PackGain gain = measure_gain(env, *Catalogue::open(env, source()), *after, 3, 1);
  EXPECT_EQ(gain.stride_of_source, 4);
  EXPECT_EQ(gain.stride_of_pack, 2);
  EXPECT_GT(gain.source.clips_per_s, 0);
  EXPECT_GT(gain.pack.clips_per_s, 0);
  EXPECT_LT(gain.pack.packets, gain.source.packets);
}

TEST(FrameChoice, KeepsTheLastFrameNotAfterEachMoment) {
  media::PacketTable t;
  t.stream.time_base_den = 1000;
  t.stream.frame_rate_num = 30;
  // 30 frames a second in milliseconds, as Matroska rounds them.
  for (int i = 0; i < 91; ++i) {
    t.frame_packet.push_back(uint32_t(i));
    t.frame_pts.push_back(500 + int64_t(std::llround(i * 1000 / 30.0)));
  }
  const Item item{0, -1, 0, 91};
  for (const auto& [fps, step] : {std::pair{10.0, 3}, {15.0, 2}, {7.5, 4}}) {
    const FrameChoice c = choose_frames(t, item, fps);
    ASSERT_EQ(c.frames.size(), size_t(90 / step + 1)) << fps;
    for (size_t k = 0; k < c.frames.size(); ++k) {
      EXPECT_EQ(c.frames[k], int64_t(k) * step);
      EXPECT_EQ(c.pts[k], int64_t(k));
    }
    EXPECT_NEAR(double(c.time_base_den) / double(c.time_base_num), fps, 1e-9);
  }
  for (const double fps : {0.0, 30.0, 60.0}) {
    const FrameChoice c = choose_frames(t, item, fps);
    EXPECT_EQ(c.frames.size(), 91u);
    EXPECT_EQ(c.pts[1], 33);
  }
  // A gap of a second at 30: the moments inside it would all show the frame before it, once.
  t.frame_pts = {0, 33, 67, 1067, 1100};
  t.frame_packet.resize(5);
  const FrameChoice c = choose_frames(t, {0, -1, 0, 5}, 10);
  EXPECT_EQ(c.frames, (std::vector<int64_t>{0, 2, 4}));
  EXPECT_EQ(c.pts, (std::vector<int64_t>{0, 1, 11}));
}

TEST(Tar, HeadersAreThoseOfPosixTar) {
  const TempFolder folder;
  publish(env, folder.path() + "/a.tar",
          tar_header("one.txt", 5) + "hello" + tar_padding(5) + tar_header("two", 512) +
              std::string(512, 'x') + tar_padding(512) + tar_end());
  ASSERT_EQ(std::system(("cd " + folder.path() + " && tar xf a.tar").c_str()), 0);
  EXPECT_EQ(read_text(env, folder.path() + "/one.txt"), "hello");
  EXPECT_EQ(read_text(env, folder.path() + "/two"), std::string(512, 'x'));
  EXPECT_THROW(tar_header(std::string(101, 'n'), 1), Error);
}

}  // namespace
}  // namespace keiko::data
