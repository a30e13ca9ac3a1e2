#include "data/loader.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <set>
#include <thread>

#include "base/machine.h"
#include "data/flaky_env.h"
#include "data/small_set.h"

namespace keiko::data {
namespace {

class LoaderTest : public SmallSet {};

ClipOptions small_clip() {
  ClipOptions clip;
  clip.num_frames = 8;
  clip.sampling_rate = 1;
  clip.size = 32;
  return clip;
}

// All batches of a run as one value: plans and pixels.
std::string load_all(const Dataset& dataset, int64_t batch, int64_t world, int64_t rank,
                     int threads, int prefetch, std::vector<std::string>* per_position = nullptr) {
  Loader loader(
      env, dataset,
      [=](int64_t step) {
        return Slice{step * batch + batch * rank / world,
                     step * batch + batch * (rank + 1) / world};
      },
      0, true, threads, prefetch, [] { return std::make_unique<media::CpuClipDecoder>(env); });
  std::string all;
  for (int step = 0; step < 6; ++step) {
    const Batch& b = loader.next();
    const size_t clip_bytes = b.clips.empty() ? 0 : b.video.size() / b.clips.size();
    for (size_t i = 0; i < b.clips.size(); ++i) {
      const ClipPlan& p = b.clips[i];
      std::string one = fmt::format("{} {} {} {} {} {} {} ", p.position, p.item, p.crop.x, p.crop.y,
                                    p.crop.width, p.flip, p.label);
      one.append(reinterpret_cast<const char*>(b.video.data()) + i * clip_bytes, clip_bytes);
      if (per_position != nullptr) {
        per_position->resize(std::max<size_t>(per_position->size(), size_t(p.position) + 1));
        (*per_position)[size_t(p.position)] = one;
      }
      all += one;
    }
  }
  return all;
}

TEST_F(LoaderTest, SamplesDependOnSeedAndPositionAlone) {
  ClipOptions clip;
  clip.num_frames = 8;
  clip.sampling_rate = 1;
  clip.size = 32;
  AugmentOptions augment;
  augment.flip = 0.5;
  augment.random_resized_crop.scale = {0.5, 1};
  const Dataset dataset(env, {{path("train.kix")}}, clip, augment, 5, 1);
  const std::string one = load_all(dataset, 8, 1, 0, 1, 1);
  EXPECT_EQ(one, load_all(dataset, 8, 1, 0, 2, 1)) << "threads";
  EXPECT_EQ(one, load_all(dataset, 8, 1, 0, 3, 5)) << "threads and prefetch";
  std::vector<std::string> single;
  load_all(dataset, 8, 1, 0, 1, 1, &single);
  for (int64_t world : {2, 3, 5, 8}) {
    std::vector<std::string> joined;
    for (int64_t rank = 0; rank < world; ++rank) load_all(dataset, 8, world, rank, 1, 2, &joined);
    EXPECT_EQ(joined, single) << "world size " << world;
  }
}

// Memory that counts itself and stands for pages that a device reads.
struct Counts {
  int made = 0, alive = 0, grown = 0;
  std::vector<std::pair<const uint8_t*, size_t>> memory;  // of every buffer, as it is now
};
class CountingBuffer : public media::BatchBuffer {
 public:
  explicit CountingBuffer(Counts* counts) : counts_(counts), index_(size_t(counts->made++)) {
    ++counts->alive;
    counts->memory.resize(size_t(counts->made));
  }
  ~CountingBuffer() override { --counts_->alive; }
  uint8_t* reserve(size_t size) override {
    if (size > memory_.size()) {
      ++counts_->grown;
      memory_.assign(size, 0xee);
    }
    counts_->memory[index_] = {memory_.data(), memory_.size()};
    return memory_.data();
  }

 private:
  Counts* counts_;
  size_t index_;
  std::vector<uint8_t> memory_;
};

TEST_F(LoaderTest, BatchesLieInBuffersOfTheCallersMakingOneForEachSlotAndNeverMore) {
  const Dataset dataset(env, {{path("train.kix")}}, small_clip(), {}, 5, 1);
  const auto slice = [](int64_t s) {
    return Slice{s * 8, s * 8 + (s == 3 ? 10 : 8)};  // one batch needs more
  };
  const auto decoder = [] { return std::make_unique<media::CpuClipDecoder>(env); };
  Counts counts;
  {
    Loader with(env, dataset, slice, 0, true, 2, 2, decoder,
                [&] { return std::make_unique<CountingBuffer>(&counts); });
    Loader without(env, dataset, slice, 0, true, 2, 2, decoder);
    EXPECT_EQ(counts.made, 3) << "prefetch 2 and the one handed out";
    std::set<const uint8_t*> seen;
    for (int step = 0; step < 9; ++step) {
      const Batch &a = with.next(), &b = without.next();
      ASSERT_EQ(a.video.size(), a.clips.size() * 3 * 8 * 32 * 32);
      EXPECT_TRUE(std::equal(a.video.begin(), a.video.end(), b.video.begin(), b.video.end()))
          << "step " << step;
      seen.insert(a.video.data());
      EXPECT_TRUE(std::any_of(
          counts.memory.begin(), counts.memory.end(),
          [&](const auto& m) { return m.first == a.video.data() && m.second >= a.video.size(); }))
          << "step " << step;
    }
    EXPECT_LE(seen.size(), 4u) << "slots are used again";
    EXPECT_EQ(counts.made, 3);
    EXPECT_EQ(counts.grown, 4) << "one for each slot, and one for the larger batch";
  }
  EXPECT_EQ(counts.alive, 0);
}

TEST_F(LoaderTest, AVideoThatIsGoneOrChangedIsNamed) {
  const TempFolder folder;
  for (const char* name : {"a.mp4", "b.mp4"})
    std::filesystem::copy(path("test/east/000000.mp4"), folder.path() + "/" + name);
  build_catalogue(env, {{folder.path()}, folder.path() + "/x.kix", 1, false}, {});
  ClipOptions clip;
  clip.size = 32;
  const Dataset dataset(env, {{folder.path() + "/x.kix"}}, clip, {}, 1, 1);
  auto load = [&] {
    Loader loader(
        env, dataset,
        [](int64_t s) {
          return Slice{s * 2, s * 2 + 2};
        },
        0, true, 1, 1, [] { return std::make_unique<media::CpuClipDecoder>(env); });
    loader.next();
  };
  EXPECT_EQ(error_of(load), "no error");
  env->append_to(folder.path() + "/b.mp4", 100);
  EXPECT_NE(error_of(load).find("b.mp4: the video changed since it was indexed"),
            std::string::npos);
  env->remove(folder.path() + "/b.mp4");
  EXPECT_NE(error_of(load).find("b.mp4: the video is gone"), std::string::npos);
}

AugmentOptions strong_augment() {
  AugmentOptions augment;
  augment.flip = 0.5;
  augment.random_resized_crop.scale = {0.5, 1};
  augment.color_jitter = {0.4, 0.4, 0.4, 0.1};
  augment.rand_augment.num_ops = 4;
  augment.random_erasing.probability = 0.25;
  return augment;
}

TEST_F(LoaderTest, AugmentedSamplesDependOnSeedAndPositionAlone) {
  const ClipOptions clip = small_clip();
  AugmentOptions augment = strong_augment();
  for (const int64_t repeats : {1, 4}) {
    augment.repeats = repeats;
    const Dataset dataset(env, {{path("train.kix")}}, clip, augment, 5, 1);
    EXPECT_EQ(dataset.group_size(), repeats);
    std::vector<std::string> single, joined;
    const std::string one = load_all(dataset, 8, 1, 0, 1, 1, &single);
    EXPECT_EQ(one, load_all(dataset, 8, 1, 0, 3, 4)) << "threads and prefetch";
    for (int64_t rank = 0; rank < 2; ++rank) load_all(dataset, 8, 2, rank, 2, 2, &joined);
    EXPECT_EQ(joined, single) << "world size 2";
  }
}

// The loader's pixels are the plain clip's with the plan carried out, and the plain clip's where
// there is no augmentation.
TEST_F(LoaderTest, AugmentsTheDecodedClipAndNothingElse) {
  const ClipOptions clip = small_clip();
  AugmentOptions augment = strong_augment(), plain = augment;
  plain.color_jitter = {};
  plain.rand_augment.num_ops = 0;
  plain.random_erasing.probability = 0;
  const Dataset augmented(env, {{path("train.kix")}}, clip, augment, 5, 1);
  const Dataset untouched(env, {{path("train.kix")}}, clip, plain, 5, 1);
  const auto slice = [](int64_t s) { return Slice{s * 24, s * 24 + 24}; };
  const auto decoder = [] { return std::make_unique<media::CpuClipDecoder>(env); };
  Loader a(env, augmented, slice, 0, true, 2, 1, decoder);
  Loader b(env, untouched, slice, 0, true, 2, 1, decoder);
  const Batch &with = a.next(), &without = b.next();
  const int64_t bytes = 3 * clip.num_frames * clip.size * clip.size;
  AugmentScratch scratch;
  int changed = 0;
  for (int64_t i = 0; i < 24; ++i) {
    EXPECT_TRUE(without.clips[size_t(i)].augment.is_empty());
    const AugmentPlan& plan = with.clips[size_t(i)].augment;
    std::vector<uint8_t> expected(without.video.begin() + i * bytes,
                                  without.video.begin() + (i + 1) * bytes);
    apply_augment(plan, expected.data(), clip.num_frames, clip.size, scratch);
    const bool is_equal =
        std::equal(expected.begin(), expected.end(), with.video.begin() + i * bytes);
    EXPECT_TRUE(is_equal) << "position " << i << ": " << describe(plan);
    changed += !std::equal(expected.begin(), expected.end(), without.video.begin() + i * bytes);
  }
  EXPECT_EQ(changed, 24) << "jitter changes every clip";
}

TEST_F(LoaderTest, RepeatedViewsShareOneDecode) {
  ClipOptions clip = small_clip();
  clip.num_frames = 16;  // all there are: every view of an item needs the same packets
  AugmentOptions augment = strong_augment();
  std::map<int64_t, int64_t> packets;
  for (const int64_t repeats : {1, 4}) {
    augment.repeats = repeats;
    const Dataset dataset(env, {{path("train.kix")}}, clip, augment, 5, 1);
    EXPECT_EQ(dataset.epoch_size(), 24 * repeats);
    Loader loader(
        env, dataset,
        [&](int64_t s) {
          return Slice{s * 24 * repeats, (s + 1) * 24 * repeats};
        },
        0, true, 2, 1, [] { return std::make_unique<media::CpuClipDecoder>(env); });
    const Batch& b = loader.next();
    ASSERT_EQ(int64_t(b.clips.size()), 24 * repeats);
    std::set<uint64_t> items;
    for (size_t i = 0; i < b.clips.size(); ++i) {
      const ClipPlan& first = b.clips[i - i % size_t(repeats)];
      EXPECT_EQ(b.clips[i].position, int64_t(i));
      EXPECT_EQ(b.clips[i].item, first.item);
      EXPECT_EQ(b.clips[i].frames, first.frames);
      if (i % size_t(repeats) != 0) {
        EXPECT_NE(b.clips[i].crop, first.crop);
      }
      items.insert(b.clips[i].item);
    }
    EXPECT_EQ(items.size(), 24u) << "an epoch has every item";
    packets[repeats] = b.cost.packets_decoded;
  }
  EXPECT_EQ(packets[4], packets[1]) << "four views of each item cost one decode";
}

TEST_F(LoaderTest, TestViewsOfAnItemComeOneAfterTheOtherAndSpatialOnesShareADecode) {
  const ClipOptions clip = small_clip();
  const auto load = [&](ViewOptions views) {
    const Dataset dataset(env, {{path("train.kix")}}, clip, strong_augment(), 5, 1, views);
    const int64_t n = views.count();
    Loader loader(
        env, dataset,
        [&](int64_t s) {
          return Slice{s * 24 * n, s == 0 ? 24 * n : 0};
        },
        0, false, 2, 1, [] { return std::make_unique<media::CpuClipDecoder>(env); });
    const Batch& b = loader.next();
    EXPECT_EQ(int64_t(b.clips.size()), 24 * n);
    const int64_t bytes = 3 * clip.num_frames * clip.size * clip.size;
    for (int64_t i = 0; i < int64_t(b.clips.size()); ++i) {
      const ClipPlan& plan = b.clips[size_t(i)];
      EXPECT_EQ(plan.position, i / n);
      EXPECT_EQ(plan.view, i % n);
      EXPECT_TRUE(plan.augment.is_empty());
      // The videos are square, so all spatial views of a stretch are the same picture.
      EXPECT_TRUE(std::equal(b.video.begin() + i * bytes, b.video.begin() + (i + 1) * bytes,
                             b.video.begin() + i / views.spatial * views.spatial * bytes));
    }
    return b.cost.packets_decoded;
  };
  EXPECT_EQ(load({1, 3}), load({1, 1}));
  EXPECT_EQ(load({2, 3}), load({2, 1}));
  EXPECT_GT(load({2, 1}), load({1, 1}));
}

// A decoder that finds one video bad.
class Picky : public media::ClipDecoder {
 public:
  explicit Picky(std::string bad) : bad_(std::move(bad)), good_(env) {}
  media::ClipCost decode(const media::ClipRequest& request) override {
    if (request.path->find(bad_) != std::string::npos)
      fail(ErrorKind::kData, "{}: made bad by the test", *request.path);
    return good_.decode(request);
  }

 private:
  std::string bad_;
  media::CpuClipDecoder good_;
};

TEST_F(LoaderTest, ABadSampleIsReplacedTheSameWayEverywhere) {
  ClipOptions clip;
  clip.size = 32;
  const Dataset dataset(env, {{path("train.kix")}}, clip, {}, 5, 1);
  auto run = [&](int threads) {
    Loader loader(
        env, dataset,
        [](int64_t s) {
          return Slice{s * 8, s * 8 + 8};
        },
        0, true, threads, 2, [] { return std::make_unique<Picky>("/east/"); });
    std::string items;
    int64_t bad = 0;
    for (int step = 0; step < 6; ++step) {
      const Batch& b = loader.next();
      bad += int64_t(b.bad.size());
      for (const ClipPlan& p : b.clips) {
        items += std::to_string(p.item) + " ";
        EXPECT_EQ(dataset.video_of(p)->file.path.find("/east/"), std::string::npos);
      }
    }
    EXPECT_GE(bad, 6);  // three of 24 items, two epochs
    return items;
  };
  EXPECT_EQ(run(1), run(3));
}

TEST_F(LoaderTest, ABadGroupIsReplacedAsAWhole) {
  AugmentOptions augment = strong_augment();
  augment.repeats = 4;
  const Dataset dataset(env, {{path("train.kix")}}, small_clip(), augment, 5, 1);
  Loader loader(
      env, dataset,
      [](int64_t s) {
        return Slice{s * 96, s * 96 + 96};
      },
      0, true, 2, 1, [] { return std::make_unique<Picky>("/east/"); });
  const Batch& b = loader.next();
  EXPECT_GE(b.bad.size(), 3u);  // three of 24 items, and replacements that are bad in turn
  int replaced = 0;
  for (const Batch::Bad& bad : b.bad) {
    EXPECT_EQ(bad.position % 4, 0) << "one line for a group";
    replaced += bad.attempt == 0;
  }
  EXPECT_EQ(replaced, 3);
  for (size_t i = 0; i < b.clips.size(); ++i) {
    EXPECT_EQ(dataset.video_of(b.clips[i])->file.path.find("/east/"), std::string::npos);
    EXPECT_EQ(b.clips[i].item, b.clips[i - i % 4].item);
    EXPECT_EQ(b.clips[i].attempt, b.clips[i - i % 4].attempt);
  }
}

// What a loader over `files` gives for the whole of three steps, as text.
std::string load_with(Env* files, const Dataset& dataset, bool training, int threads) {
  Loader loader(
      files, dataset,
      [](int64_t s) {
        return Slice{std::min<int64_t>(24, s * 8), std::min<int64_t>(24, s * 8 + 8)};
      },
      0, training, threads, 2, [&] { return std::make_unique<media::CpuClipDecoder>(files); });
  std::string all;
  for (int64_t step = 0; step < 3; ++step) {
    const Batch& b = loader.next();
    EXPECT_EQ(b.step, step);
    EXPECT_TRUE(b.bad.empty());
    for (const ClipPlan& p : b.clips) all += fmt::format("{} {} ", p.position, p.item);
    all.append(b.video.begin(), b.video.end());
  }
  return all;
}

TEST_F(LoaderTest, AFlakyFileSystemChangesNoSample) {
  for (bool training : {true, false}) {
    const Dataset clean(env, {{path("train.kix")}}, small_clip(), {}, 5, 1);
    const std::string truth = load_with(env, clean, training, 1);
    // Reads of videos and of the catalogue fail or wait. After one that failed a thread has 20 good
    // ones, more than a clip needs, so that no clip fails four times.
    std::atomic<bool> is_open = false;
    FlakyEnv flaky(
        env,
        [&](const std::string&, int64_t n) {
          thread_local int64_t since_failure = 0;
          if (is_open && ++since_failure > 20) {
            since_failure = 0;
            return FlakyEnv::kEio;
          }
          return n % 7 == 0 ? FlakyEnv::kSlow : FlakyEnv::kNone;
        },
        30);
    const Dataset dataset(&flaky, {{path("train.kix")}}, small_clip(), {}, 5, 1);
    is_open = true;
    EXPECT_EQ(load_with(&flaky, dataset, training, 3), truth);
    EXPECT_GT(flaky.failures, 3);
  }
}

TEST_F(LoaderTest, AFileThatCannotBeReadEndsTheRunByNameAfterThreeMoreTries) {
  FlakyEnv broken(env, [](const std::string& path, int64_t) {
    return path.find("/west/") != std::string::npos ? FlakyEnv::kEio : FlakyEnv::kNone;
  });
  const Dataset dataset(env, {{path("train.kix")}}, small_clip(), {}, 5, 1);
  const double start = monotonic_s();
  const std::string message = error_of([&] { load_with(&broken, dataset, true, 1); });
  EXPECT_NE(message.find("/west/"), std::string::npos) << message;
  EXPECT_NE(message.find("Input/output error"), std::string::npos) << message;
  EXPECT_GT(monotonic_s() - start, 2.0) << "0.1 + 0.4 + 1.6 seconds";
  EXPECT_GE(broken.failures, 4);
  EXPECT_LE(broken.failures, 6) << "one more clip may be begun before the loader is stopped";
}

TEST_F(LoaderTest, StopsAtOnceWhileAReadIsRetriedOrSlow) {
  for (const auto fault : {FlakyEnv::kEio, FlakyEnv::kSlow}) {
    FlakyEnv broken(
        env, [&](const std::string&, int64_t) { return fault; }, 200);
    const Dataset dataset(env, {{path("train.kix")}}, small_clip(), {}, 5, 1);
    double stopping = 0;
    {
      Loader loader(
          env, dataset,
          [](int64_t s) {
            return Slice{s * 64, s * 64 + 64};
          },
          0, true, 3, 4, [&] { return std::make_unique<media::CpuClipDecoder>(&broken); });
      // 0.7 s: the threads are in the longest wait, of 1.6 s.
      std::this_thread::sleep_for(std::chrono::milliseconds(700));
      EXPECT_GT(broken.reads, 0);
      stopping = monotonic_s();
    }
    EXPECT_LT(monotonic_s() - stopping, 1.0);
  }
}

TEST_F(LoaderTest, AFileCutOffDuringTheRunEndsItAndIsNotReplaced) {
  const TempFolder folder;
  for (const char* name : {"a.mp4", "b.mp4"})
    std::filesystem::copy(path("test/east/000000.mp4"), folder.path() + "/" + name);
  build_catalogue(env, {{folder.path()}, folder.path() + "/x.kix", 1, false}, {});
  const Dataset dataset(env, {{folder.path() + "/x.kix"}}, small_clip(), {}, 1, 1);
  Loader loader(
      env, dataset,
      [](int64_t s) {
        return Slice{s * 2, s * 2 + 2};
      },
      0, true, 1, 1, [] { return std::make_unique<media::CpuClipDecoder>(env); });
  loader.next();
  env->append_to(folder.path() + "/b.mp4", 100);
  const std::string message = error_of([&] {
    for (int i = 0; i < 8; ++i) loader.next();
  });
  EXPECT_NE(message.find("b.mp4: the video changed since it was indexed"), std::string::npos)
      << message;
}

TEST_F(LoaderTest, ATwoHourFilmCostsRangesAndNoMoreMemoryThanAShortOne) {
  const TempFolder folder;
  const std::string film = folder.path() + "/film.mp4";
  if (std::system("command -v ffmpeg > /dev/null") != 0)
    GTEST_SKIP() << "the ffmpeg command line, which makes the film, is not installed";
  const std::string command =
      "ffmpeg -v error -f lavfi -i testsrc=size=64x64:rate=10:duration=7200 -c:v libx264 "
      "-preset ultrafast -crf 35 -threads 1 " +
      film;
  ASSERT_EQ(std::system(command.c_str()), 0);
  build_catalogue(env, {{film}, folder.path() + "/x.kix", 1, false}, {});
  const int64_t size = env->status(film).size;
  ClipOptions clip = small_clip();
  clip.num_frames = 16;
  for (const int64_t rate : {4, 4700}) {  // 6 seconds, and frames spread over the two hours
    clip.sampling_rate = rate;
    clip.sample_by = "duration";
    FlakyEnv counting(env);
    const Dataset dataset(env, {{folder.path() + "/x.kix"}}, clip, {}, 5, 1);
    ASSERT_EQ(dataset.sample_count(), 720);
    Loader loader(
        env, dataset,
        [](int64_t s) {
          return Slice{s * 8, s * 8 + 8};
        },
        0, true, 2, 2, [&] { return std::make_unique<media::CpuClipDecoder>(&counting); });
    loader.next();
    const int64_t before = resident_bytes();
    media::ClipCost cost;
    constexpr int64_t kClips = 8 * 6;
    for (int64_t step = 0; step < kClips / 8; ++step) {
      const Batch& b = loader.next();
      EXPECT_EQ(b.cost.opens, 0);
      cost.reads += b.cost.reads;
      cost.bytes += b.cost.bytes;
      cost.packets_decoded += b.cost.packets_decoded;
    }
    // x264 puts a key frame at least every 250 frames: a wanted frame needs no more before it.
    EXPECT_LE(cost.packets_decoded / kClips, rate == 4 ? 250 + 61 : 16 * 250);
    EXPECT_LE(cost.reads / kClips, 16);
    EXPECT_LT(cost.bytes / kClips, rate == 4 ? size / 100 : 16 * size / 250);
    EXPECT_LT(resident_bytes() - before, 16 << 20);
  }
}

}  // namespace
}  // namespace keiko::data
