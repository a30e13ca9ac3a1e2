// Catalogue, index, sources, loader and synth on clips that the test writes itself.

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <set>

#include "base/error.h"
#include "base/temp_folder.h"
#include "data/dataset.h"
#include "data/index.h"
#include "data/loader.h"
#include "data/sources.h"
#include "data/synth.h"

namespace keiko::data {
namespace {

Env* const env = default_env();

// A small data set in a folder of its own, indexed.
class SmallSet : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new TempFolder;
    SynthOptions o;
    o.out = folder_->path();
    o.train = 24;
    o.test = 8;
    write_synth(env, o, {});
    IndexOptions index;
    index.sources = {o.out + "/train"};
    index.out = o.out + "/train.kix";
    build_catalogue(env, index, {});
  }
  static void TearDownTestSuite() { delete folder_; }
  static std::string path(const std::string& name) { return folder_->path() + "/" + name; }
  static TempFolder* folder_;
};
TempFolder* SmallSet::folder_ = nullptr;

std::string error_of(const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

TEST_F(SmallSet, TheCatalogueHoldsWhatWasIndexed) {
  const auto c = Catalogue::open(env, path("train.kix"));
  EXPECT_EQ(c->item_count(), 24);
  EXPECT_EQ(c->video_count(), 24);
  auto names = synth_class_names();
  std::sort(names.begin(), names.end());
  EXPECT_EQ(c->class_names(), names);
  std::vector<int> per_class(8);
  for (int64_t i = 0; i < 24; ++i) {
    const Item item = c->item(i);
    ++per_class.at(size_t(item.label));
    const auto video = c->video(item.video);
    EXPECT_EQ(item.frame_count, 16);
    EXPECT_NE(video->file.path.find("/" + names[size_t(item.label)] + "/"), std::string::npos);
    const media::PacketTable again = media::scan_video(video->file.path);
    EXPECT_EQ(video->table.stream, again.stream);
    EXPECT_EQ(video->table.position, again.position);
    EXPECT_EQ(video->table.frame_packet, again.frame_packet);
    EXPECT_EQ(video->table.flags, again.flags);
  }
  EXPECT_EQ(per_class, std::vector<int>(8, 3));
  EXPECT_THROW(c->item(24), Error);
  EXPECT_THROW(c->item(-1), Error);
}

TEST_F(SmallSet, EveryTornOrFlippedCatalogueIsAnErrorOrStillRight) {
  const std::string good = read_text(env, path("train.kix"));
  const std::string bad = path("bad.kix");
  auto read_all = [&] {
    const auto c = Catalogue::open(env, bad);
    for (int64_t i = 0; i < c->item_count(); ++i) c->video(c->item(i).video);
  };
  for (size_t length = 0; length < good.size(); length += 1 + good.size() / 211) {
    publish(env, bad, good.substr(0, length));
    EXPECT_NE(error_of(read_all), "no error") << "cut to " << length;
  }
  for (size_t at = 0; at < good.size(); at += 1 + good.size() / 499) {
    std::string flipped = good;
    flipped[at] = char(flipped[at] ^ 0x55);
    publish(env, bad, flipped);
    const std::string message = error_of(read_all);
    // Items hold no checksum of their own, so a flipped label may pass; a crash may not.
    if (message != "no error") {
      EXPECT_NE(message.find(bad), std::string::npos) << message;
    }
  }
}

TEST_F(SmallSet, IndexingAgainReusesWhatDidNotChange) {
  const std::string out = path("again.kix");
  IndexOptions o{{path("test")}, out, 2, false};
  EXPECT_EQ(build_catalogue(env, o, {}).reused, 0);
  EXPECT_EQ(build_catalogue(env, o, {}).reused, 8);
  EXPECT_EQ(Catalogue::open(env, out)->generation(), 2u);
  std::filesystem::last_write_time(path("test/east/000000.mp4"),
                                   std::filesystem::file_time_type::clock::now());
  EXPECT_EQ(build_catalogue(env, o, {}).reused, 7);
  EXPECT_FALSE(env->status(out + ".journal").exists);
}

TEST_F(SmallSet, AnInterruptedIndexGoesOnFromItsJournal) {
  const std::string out = path("stopped.kix");
  IndexOptions o{{path("test")}, out, 1, false};
  // Stop it by throwing from the progress callback of the fifth file.
  EXPECT_THROW(build_catalogue(env, o,
                               [](int64_t done, int64_t) {
                                 if (done == 5) throw std::runtime_error("stop");
                               }),
               std::runtime_error);
  EXPECT_FALSE(env->status(out).exists);
  // A torn tail, as a kill would leave it.
  env->append_to(out + ".journal", env->status(out + ".journal").size)->append("torn");
  const IndexReport report = build_catalogue(env, o, {});
  EXPECT_EQ(report.reused, 5);
  EXPECT_EQ(report.videos, 8);
}

TEST_F(SmallSet, BadFilesAreSkippedByNameAndAloneAreAnError) {
  const TempFolder folder;
  EXPECT_NE(error_of([&] {
              build_catalogue(env, {{folder.path()}, folder.path() + "/x.kix", 1, false}, {});
            }).find("no video found"),
            std::string::npos);
  publish(env, folder.path() + "/text.mp4", "hello");
  publish(env, folder.path() + "/zero.mp4", "");
  EXPECT_NE(error_of([&] {
              build_catalogue(env, {{folder.path()}, folder.path() + "/x.kix", 1, false}, {});
            }).find("none of 2 files could be indexed"),
            std::string::npos);
  std::filesystem::copy(path("test/east/000000.mp4"), folder.path() + "/good ünïcode name.mp4");
  const IndexReport report =
      build_catalogue(env, {{folder.path()}, folder.path() + "/x.kix", 1, false}, {});
  EXPECT_EQ(report.videos, 1);
  ASSERT_EQ(report.skipped.size(), 2u);
  EXPECT_NE(report.skipped[0].reason.find("text.mp4"), std::string::npos);
  EXPECT_NE(report.skipped[1].reason.find("the file is empty"), std::string::npos);
}

TEST_F(SmallSet, ListsOfPathsAreReadInEveryForm) {
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

TEST_F(SmallSet, SynthIsAFunctionOfItsSeed) {
  SynthOptions o;
  EXPECT_EQ(synth_clip(o, 3), synth_clip(o, 3));
  EXPECT_NE(synth_clip(o, 3), synth_clip(o, 11));
  SynthOptions other = o;
  other.seed = 2;
  EXPECT_NE(synth_clip(o, 3), synth_clip(other, 3));
}

TEST_F(SmallSet, SynthMovesInTheDirectionOfItsClass) {
  for (const char* task : {"drift", "sprites"}) {
    SynthOptions o;
    o.task = task;
    for (int64_t index = 0; index < 16; ++index) {
      const auto luma = synth_clip(o, index);
      // Among the eight shifts, the class's own explains the next frame best: (E, NE, N, ... SE).
      const int dx[] = {1, 1, 0, -1, -1, -1, 0, 1}, dy[] = {0, -1, -1, -1, 0, 1, 1, 1};
      int best = -1;
      double best_error = 1e18;
      for (int d = 0; d < 8; ++d) {
        double error = 0;
        for (int64_t t = 0; t + 1 < o.frames; ++t)
          for (int64_t y = 0; y < 32; ++y)
            for (int64_t x = 0; x < 32; ++x) {
              const int64_t sx = (x - 2 * dx[d] + 32) % 32, sy = (y - 2 * dy[d] + 32) % 32;
              const double a = luma[size_t(((t + 1) * 32 + y) * 32 + x)];
              const double b = luma[size_t((t * 32 + sy) * 32 + sx)];
              // The sprites' ground stands still: a pixel may also stay what it was.
              const double still = luma[size_t((t * 32 + y) * 32 + x)];
              error += std::min({400.0, (a - b) * (a - b), (a - still) * (a - still)});
            }
        if (error < best_error) {
          best_error = error;
          best = d;
        }
      }
      EXPECT_EQ(best, index % 8) << task << " clip " << index;
    }
  }
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

TEST_F(SmallSet, SamplesDependOnSeedAndPositionAlone) {
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

TEST_F(SmallSet, AVideoThatIsGoneOrChangedIsNamed) {
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

TEST_F(SmallSet, ABadSampleIsReplacedTheSameWayEverywhere) {
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
