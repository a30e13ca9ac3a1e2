#include "train/recipe.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/temp_folder.h"
#include "train/batch_cut.h"
#include "train/trainer.h"

namespace keiko::train {
namespace {

std::string error_of(const std::string& text, const std::vector<std::string>& overrides = {}) {
  const TempFolder folder;
  const std::string path = folder.path() + "/r.yaml";
  publish(default_env(), path, text);
  try {
    load_recipe(path, overrides);
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kUsage);
    const std::string message = e.what();
    return message.rfind(path, 0) == 0 ? "r.yaml" + message.substr(path.size()) : message;
  }
  return "no error";
}

const std::string kGood = "data: x.kix\nobjective: {name: videomae, model: tiny}\nsteps: 3\n";

TEST(Recipe, RefusesByLineValueAndNearestKey) {
  EXPECT_EQ(error_of(kGood), "no error");
  EXPECT_EQ(error_of(kGood + "batchsize: 3\n"),
            "r.yaml:4: batchsize is not a key of `a recipe`; did you mean batch_size?");
  EXPECT_EQ(
      error_of(kGood, {"objective.mask_ration=0.5"}),
      "command line: objective.mask_ration is not a key of `videomae`; did you mean mask_ratio?");
  EXPECT_EQ(
      error_of(kGood, {"objective.mask_ratio=1.5"}),
      "command line: objective.mask_ratio = 1.5 is out of range; it must be from 0.01 to 0.99");
  EXPECT_EQ(error_of("data: x.kix\nsteps: 3\n"),
            "r.yaml: objective.name is missing (what is learned); add it");
  EXPECT_EQ(error_of("data: x.kix\nobjective: {name: videomea}\nsteps: 3\n"),
            "r.yaml:2: objective.name = videomea is not one of classification, probe, videomae, "
            "vjepa2; did "
            "you mean videomae?");
  EXPECT_EQ(error_of("data: x.kix\nobjective: {name: videomae}\n"),
            "r.yaml:1: steps is missing (or epochs); add one of them");
  EXPECT_NE(error_of(kGood + "epochs: 2\n").find("epochs"), std::string::npos);
  EXPECT_EQ(error_of(kGood, {"epochs=2"}), "no error");
  EXPECT_NE(
      error_of(kGood + "augment: {rand_augment: {magnitud: 7}}\n").find("did you mean magnitude?"),
      std::string::npos);
  EXPECT_NE(error_of(kGood, {"objective.width=100"}).find("write model: custom"),
            std::string::npos);
}

TEST(Recipe, EveryShippedRecipeLoads) {
  int recipes = 0;
  const std::string folder = std::string(KEIKO_SOURCE_DIR) + "/configs";
  for (const std::string& name : default_env()->list(folder)) {
    if (name.size() < 5 || name.substr(name.size() - 5) != ".yaml") continue;
    EXPECT_NO_THROW(load_recipe(folder + "/" + name, {"data=x.kix"})) << name;
    ++recipes;
  }
  EXPECT_GE(recipes, 4);
}

TEST(Recipe, TheResolvedRecipeReadsBackAsItself) {
  const TempFolder folder;
  for (const char* objective : {"videomae", "classification", "probe"}) {
    publish(
        default_env(), folder.path() + "/a.yaml",
        std::string("data: [{path: 'a b.kix', weight: 2}, c.kix]\nobjective: {name: ") + objective +
            ", model: small}\nepochs: 2.5\naugment: {random_resized_crop: {scale: [0.3, 1]}}\n");
    const Recipe recipe = load_recipe(folder.path() + "/a.yaml", {});
    const std::string yaml = config::to_yaml(config::list_entries(recipe));
    publish(default_env(), folder.path() + "/b.yaml", yaml);
    const Recipe again = load_recipe(folder.path() + "/b.yaml", {});
    EXPECT_EQ(config::to_yaml(config::list_entries(again)), yaml);
    EXPECT_EQ(defining_hash(again), defining_hash(recipe));
  }
}

TEST(Recipe, FreeKeysDoNotChangeTheHash) {
  const TempFolder folder;
  publish(default_env(), folder.path() + "/a.yaml", kGood);
  const auto hash = [&](const std::string& override) {
    return defining_hash(load_recipe(folder.path() + "/a.yaml", {override}));
  };
  const uint64_t base = hash("seed=0");
  for (const char* free :
       {"steps=9", "log.every=1", "loader.threads=3", "checkpoint.keep=9", "micro_batch_size=2",
        "run=elsewhere", "train.threads=2", "eval.views.temporal=5"})
    EXPECT_EQ(hash(free), base) << free;
  for (const char* defining : {"seed=1", "batch_size=8", "optimizer.base_lr=1", "clip.size=32",
                               "objective.mask_ratio=0.5", "augment.flip=0.5", "augment.repeats=2",
                               "augment.rand_augment.num_ops=4", "precision=bf16"})
    EXPECT_NE(hash(defining), base) << defining;
}

Recipe with_groups(int64_t batch, int64_t micro, int64_t repeats) {
  Recipe recipe;
  recipe.batch_size = batch;
  recipe.micro_batch_size = micro;
  recipe.augment.repeats = repeats;
  return recipe;
}

std::string refusal(const Recipe& recipe, int64_t world_size) {
  try {
    check_batch(recipe, group_of(recipe), world_size);
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kUsage);
    return e.what();
  }
  return "";
}

TEST(BatchCut, SlicesHoldWholeGroupsAndDifferByOneAtMost) {
  for (int64_t group : {1, 2, 3, 8})
    for (int64_t groups : {1, 2, 5, 16, 31})
      for (int64_t world = 1; world <= groups; ++world) {
        const int64_t batch = groups * group, step = 7;
        int64_t next = step * batch, least = batch, most = 0;
        for (int64_t rank = 0; rank < world; ++rank) {
          const data::Slice slice = slice_of_rank(step, batch, group, rank, world);
          ASSERT_EQ(slice.first, next) << group << " " << groups << " " << world << " " << rank;
          ASSERT_EQ(slice.first % group, 0);
          ASSERT_EQ(slice.last % group, 0);
          least = std::min(least, slice.last - slice.first);
          most = std::max(most, slice.last - slice.first);
          next = slice.last;
        }
        ASSERT_EQ(next, (step + 1) * batch);
        ASSERT_GE(least, group);
        ASSERT_LE(most - least, group);
      }
}

TEST(BatchCut, RefusesWhatWouldCutAGroupOrLeaveARankWithout) {
  EXPECT_EQ(refusal(with_groups(32, 8, 4), 8), "");
  EXPECT_EQ(refusal(with_groups(32, 0, 1), 32), "");
  EXPECT_EQ(refusal(with_groups(30, 0, 4), 1),
            "batch_size = 30 is not a multiple of 4, the clips that belong together "
            "(augment.repeats = 4 views of an item); use 28 or 32");
  EXPECT_EQ(refusal(with_groups(32, 2, 4), 1),
            "micro_batch_size = 2 is not a multiple of 4, the clips that belong together "
            "(augment.repeats = 4 views of an item); use 4");
  EXPECT_EQ(refusal(with_groups(3, 0, 1), 4),
            "batch_size = 3 is smaller than the world size 4; every rank needs a clip");
  EXPECT_NE(refusal(with_groups(32, 0, 4), 9).find("fewer than the world size 9"),
            std::string::npos);
}

TEST(Threads, ComputeAndDecodeStayWithinTheCores) {
  Recipe recipe;
  for (int cores : {1, 2, 3, 4, 8, 64})
    for (int64_t local : {1, 2, 4}) {
      dist::LaunchEnvironment launch;
      launch.local_world_size = local;
      const ThreadShare share = share_threads(recipe, launch, cores);
      EXPECT_GE(share.compute, 1);
      EXPECT_GE(share.decode, 1);
      // One thread of each is the least there can be.
      EXPECT_LE(share.compute + share.decode, std::max<int64_t>(2, cores / local));
    }
}

}  // namespace
}  // namespace keiko::train
