#include "data/dataset.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <set>

#include "data/labels.h"
#include "data/overlap.h"
#include "data/small_set.h"

namespace keiko::data {
namespace {

class DatasetTest : public SmallSet {
 protected:
  static DataSource source(const std::string& labels = "") {
    DataSource s;
    s.path = path("train.kix");
    s.labels = labels;
    return s;
  }
  static std::string list(const std::string& name, const std::string& text) {
    publish(env, path(name), text);
    return path(name);
  }
};

TEST_F(DatasetTest, AFilmWeighsWhatItHolds) {
  const std::string kix = path("film.kix");
  publish_videos(kix,
                 {made_up_video("/v/short.mp4", 30, 10), made_up_video("/v/film.mp4", 72000, 10),
                  made_up_video("/v/minute.mp4", 600, 10)});
  ClipOptions clip;
  clip.num_frames = 4;
  clip.sampling_rate = 2;
  clip.sample_by = "duration";
  clip.window_s = 10;
  for (const double fps : {0.0, 10.0}) {
    clip.fps = fps;
    const Dataset data(env, {{kix}}, clip, {}, 1, 1);
    ASSERT_EQ(data.sample_count(), 1 + 720 + 6);
    EXPECT_EQ(data.epoch_size(), 727);
    std::set<std::pair<uint64_t, uint64_t>> seen;
    for (int64_t p = 0; p < 727; ++p) {
      const ClipPlan plan = data.training_clip(p);
      EXPECT_TRUE(seen.insert({plan.item, plan.window}).second);
      const int64_t start = plan.frames[0] / 100;
      EXPECT_EQ(plan.item == 0 ? 0 : start, int64_t(plan.window))
          << "item " << plan.item << ", frame " << plan.frames[0];
      EXPECT_LT(data.training_clip(p, 3).item, 3u);
    }
    EXPECT_EQ(seen.size(), 727u);
    // In evaluation each window once, in order, its middle.
    for (int64_t i = 0; i < 727; ++i) {
      const ClipPlan plan = data.evaluation_clip(i);
      EXPECT_EQ(plan.item, i < 1 ? 0u : i < 721 ? 1u : 2u);
      if (plan.item == 1) {
        const int64_t middle = (plan.frames[0] + plan.frames[3]) / 2;
        EXPECT_NEAR(double(middle), double(plan.window * 100 + 50), 2);
      }
    }
  }
  clip.sample_by = "item";
  EXPECT_EQ(Dataset(env, {{kix}}, clip, {}, 1, 1).sample_count(), 3);
}

TEST_F(DatasetTest, ASlideShowHasNoMoreWindowsThanPictures) {
  std::vector<int64_t> pts = {0, 60000, 120000, 180000};
  publish_videos(path("slides.kix"), {made_up_video("/v/slides.mp4", 4, 1, pts)});
  ClipOptions clip;
  clip.num_frames = 1;
  clip.sample_by = "duration";
  clip.window_s = 10;
  const Dataset data(env, {{path("slides.kix")}}, clip, {}, 1, 1);
  ASSERT_EQ(data.sample_count(), 4);
  for (int64_t i = 0; i < 4; ++i) EXPECT_EQ(data.evaluation_clip(i).frames[0], i);
}

TEST_F(DatasetTest, LabelsComeFromAListInEveryFormAndByEveryPath) {
  const auto catalogue = Catalogue::open(env, path("train.kix"));
  std::vector<std::string> paths;
  catalogue->each_summary([&](uint32_t, const VideoSummary& s) { paths.push_back(s.file.path); });
  const std::string folder = std::filesystem::weakly_canonical(path("")).string() + "/";
  ASSERT_EQ(paths[0].rfind(folder, 0), 0u);
  const auto relative = [&](size_t i) { return paths[i].substr(folder.size()); };
  env->make_folder(path("lists"));
  for (const std::string& text :
       {paths[0] + " 7\n" + paths[3] + " 12\n",                   // absolute
        "../" + relative(0) + " 7\n../" + relative(3) + " 12\n",  // to the list
        relative(0) + " 7\n./" + relative(3) + " 12\n",           // to the catalogue
        relative(0) + " 7\n" + relative(3) + " 12\n/not/there/x.mp4 7\n"}) {
    const std::string file = list("lists/a.txt", text);
    const Labels labels = read_labels(env, file, *catalogue);
    EXPECT_EQ(labels.class_names, (std::vector<std::string>{"7", "12"}));
    for (size_t i = 0; i < paths.size(); ++i)
      EXPECT_EQ(labels.of_video[i], i == 0 ? 0 : i == 3 ? 1 : -1) << text << "video " << i;
  }
  const Labels table = read_labels(
      env, list("lists/b.csv", "id,label,path\n1,cat,\"" + paths[5] + "\"\n"), *catalogue);
  EXPECT_EQ(table.of_video[5], 0);
  const Labels json =
      read_labels(env, list("lists/c.jsonl", "{\"path\": \"" + relative(6) + "\", \"label\": 3}\n"),
                  *catalogue);
  EXPECT_EQ(json.of_video[6], 0);
}

TEST_F(DatasetTest, AFileNameServesWhenItIsUnique) {
  publish_videos(path("names.kix"),
                 {made_up_video("/v/a/one.mp4", 5, 10), made_up_video("/v/a/two.mp4", 5, 10),
                  made_up_video("/v/b/two.mp4", 5, 10), made_up_video("/v/b/three.mp4", 5, 10)});
  const auto catalogue = Catalogue::open(env, path("names.kix"));
  const Labels labels = read_labels(
      env, list("names.txt", "/old/one.mp4 x\n/old/two.mp4 x\n/p/three.mp4 x\n/q/three.mp4 y\n"),
      *catalogue);
  EXPECT_EQ(labels.of_video, (std::vector<int32_t>{0, -1, -1, -1}));
  EXPECT_EQ(labels.unmatched.count, 3);
  EXPECT_EQ(labels.unmatched.first[0], "/old/two.mp4");
}

TEST_F(DatasetTest, OneIndexServesManyLabelSets) {
  const Dataset whole(env, {source()}, {}, {}, 1, 1);
  std::string halves[2], moved;
  int64_t i = 0;
  Catalogue::open(env, path("train.kix"))->each_summary([&](uint32_t, const VideoSummary& s) {
    halves[i % 2] += s.file.path + (i % 3 == 0 ? " yes\n" : " no\n");
    if (i % 2 == 0) moved += s.file.path + (i % 3 == 0 ? ",no\n" : ",yes\n");
    ++i;
  });
  const Dataset even(env, {source(list("even.txt", halves[0]))}, {}, {}, 1, 1);
  const Dataset odd(env, {source(list("odd.txt", halves[1]))}, {}, {}, 1, 1);
  EXPECT_EQ(even.sample_count(), 12);
  EXPECT_EQ(even.class_names(), (std::vector<std::string>{"no", "yes"}));
  std::set<std::string> in_even, in_odd;
  for (int64_t s = 0; s < 12; ++s) {
    const ClipPlan plan = even.evaluation_clip(s);
    EXPECT_EQ(plan.label, (2 * s) % 3 == 0 ? 1 : 0);
    in_even.insert(even.video_of(plan)->file.path);
    in_odd.insert(odd.video_of(odd.evaluation_clip(s))->file.path);
  }
  EXPECT_EQ(in_even.size(), 12u);
  for (const std::string& p : in_even) EXPECT_FALSE(in_odd.contains(p));
  // Two halves of one index do not overlap; each overlaps with the whole.
  EXPECT_EQ(find_overlap(even, odd).count, 0);
  EXPECT_EQ(find_overlap(whole, odd).count, 12);
  // The labels are part of the data's identity, the form of the list is not.
  EXPECT_NE(even.hash(), whole.hash());
  EXPECT_NE(even.hash(), odd.hash());
  const Dataset other(env, {source(list("moved.csv", "path,label\n" + moved))}, {}, {}, 1, 1);
  EXPECT_NE(other.hash(), even.hash());
  std::string same = "path\tlabel\tsplit\n";
  for (int64_t s = 0; s < 12; ++s) {
    const ClipPlan plan = even.evaluation_clip(11 - s);
    same +=
        even.video_of(plan)->file.path + "\t" + even.class_names()[size_t(plan.label)] + "\tx\n";
  }
  EXPECT_EQ(Dataset(env, {source(list("same.tsv", same))}, {}, {}, 1, 1).hash(), even.hash());
  DataSource few = source(path("even.txt"));
  few.items_per_class = 2;
  EXPECT_EQ(Dataset(env, {few}, {}, {}, 1, 1).sample_count(), 4);
}

TEST_F(DatasetTest, AListOfLabelsThatCannotBeUsedIsAnError) {
  const std::string video = Catalogue::open(env, path("train.kix"))->summary(0).file.path;
  const auto open = [&](const std::string& labels) {
    return error_of([&] { Dataset(env, {source(labels)}, {}, {}, 1, 1); });
  };
  EXPECT_NE(open(path("no.csv")).find("no.csv does not exist"), std::string::npos);
  EXPECT_NE(open(list("empty.csv", "")).find("holds no label"), std::string::npos);
  EXPECT_NE(open(list("bare.txt", video + "\n")).find("holds no label"), std::string::npos);
  EXPECT_NE(open(list("else.txt", "/x/y.mp4 3\n")).find("none of the 1 paths"), std::string::npos);
  EXPECT_NE(open(list("two.txt", video + " a\n" + video + " b\n")).find("two labels, a and b"),
            std::string::npos);
}

TEST_F(DatasetTest, VideosInBothSplitsAreFoundByContent) {
  env->make_folder(path("copies"));
  std::filesystem::copy(path("train/east/000000.mp4"), path("copies/another name.mp4"));
  std::filesystem::copy(path("test/east/000000.mp4"), path("copies/fresh.mp4"));
  build_catalogue(env, {{path("copies")}, path("copies.kix"), 1, false}, {});
  const auto train = Catalogue::open(env, path("train.kix"));
  const Overlap overlap = find_overlap(*train, *Catalogue::open(env, path("copies.kix")));
  EXPECT_EQ(overlap.count, 1);
  ASSERT_EQ(overlap.first_paths.size(), 1u);
  EXPECT_NE(overlap.first_paths[0].find("another name.mp4"), std::string::npos);
  EXPECT_EQ(find_overlap(*train, *train).count, 24);
}

}  // namespace
}  // namespace keiko::data
