#include "data/loader.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "data/small_set.h"

namespace keiko::data {
namespace {

class LoaderTest : public SmallSet {};

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

}  // namespace
}  // namespace keiko::data
