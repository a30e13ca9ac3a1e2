#include "config/binder.h"

#include <gtest/gtest.h>

#include "base/env.h"
#include "base/error.h"
#include "base/machine.h"
#include "base/temp_folder.h"

namespace keiko::config {
namespace {

struct Source {
  std::string path;
  double weight = 1;
  void bind(Binder& b) {
    b.key("path", path, "where").required();
    b.key("weight", weight, "share").at_least(0);
  }
};
struct Clip {
  int64_t num_frames = 16;
  std::vector<double> scales = {1, 0.5};
  void bind(Binder& b) {
    b.key("num_frames", num_frames, "frames in a clip").range(1, 1024);
    b.key("scales", scales, "crop scales").range(0.1, 1);
  }
};
struct Recipe {
  int64_t seed = 0;
  bool flip = false;
  std::string filter = "bilinear";
  double lr = 1e-3;
  std::vector<Source> data;
  Clip clip;
  void bind(Binder& b) {
    b.key("seed", seed, "seed");
    b.key("flip", flip, "mirror");
    b.choice("filter", filter, {"bilinear", "bicubic"}, "resampling");
    b.key("lr", lr, "learning rate").free();
    b.list("data", data, "path");
    b.group("clip", clip);
  }
};

Recipe read(const std::string& text, std::vector<std::string> overrides = {}) {
  Node node = parse_yaml(text, "r.yaml");
  for (const std::string& o : overrides) apply_override(node, o);
  Recipe recipe;
  read_options(node, recipe);
  return recipe;
}

std::string error_of(const std::string& text, std::vector<std::string> overrides = {}) {
  try {
    read(text, overrides);
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kUsage);
    return e.what();
  }
  return "no error";
}

TEST(Binder, ReadsEveryKindOfKey) {
  const Recipe r = read(
      "seed: 7\nflip: true\nfilter: bicubic\nlr: 1.5e-4\n"
      "data: [{path: a.kix, weight: 2}, b.kix]\nclip: {num_frames: 8, scales: [1, 0.25]}\n");
  EXPECT_EQ(r.seed, 7);
  EXPECT_TRUE(r.flip);
  EXPECT_EQ(r.filter, "bicubic");
  EXPECT_EQ(r.lr, 1.5e-4);
  ASSERT_EQ(r.data.size(), 2u);
  EXPECT_EQ(r.data[0].weight, 2);
  EXPECT_EQ(r.data[1].path, "b.kix");
  EXPECT_EQ(r.clip.num_frames, 8);
  EXPECT_EQ(r.clip.scales, (std::vector<double>{1, 0.25}));
  EXPECT_EQ(read("data: a.kix").data.at(0).path, "a.kix");
}

TEST(Binder, RefusesAndNamesLineValueAndNearestKey) {
  EXPECT_EQ(error_of("seed: 1\nclip:\n  num_frame: 8\n"),
            "r.yaml:3: clip.num_frame is not a key of `clip`; did you mean num_frames?");
  EXPECT_EQ(error_of("clip: {num_frames: 0}"),
            "r.yaml:1: clip.num_frames = 0 is out of range; it must be from 1 to 1024");
  EXPECT_EQ(error_of("seed: x"), "r.yaml:1: seed = x is not an integer");
  EXPECT_EQ(error_of("seed: 1e5"), "r.yaml:1: seed = 1e5 is not an integer");
  EXPECT_EQ(error_of("lr: .inf"), "r.yaml:1: lr = .inf is not a number");
  EXPECT_EQ(error_of("flip: yes"), "r.yaml:1: flip = yes is not true or false");
  EXPECT_EQ(error_of("filter: bicubi"),
            "r.yaml:1: filter = bicubi is not one of bilinear, bicubic; did you mean bicubic?");
  EXPECT_EQ(error_of("seed: 1\nseed: 2"), "r.yaml:2: seed is given twice; keep one");
  EXPECT_EQ(error_of("data: [{weight: 1}]"), "r.yaml:1: data[0].path is missing (where); add it");
  EXPECT_EQ(error_of("seed:\n"), "r.yaml:1: seed has no value; give one or remove the key");
  EXPECT_EQ(error_of("clip: 3"), "r.yaml:1: clip = 3 must be a map of keys");
  EXPECT_EQ(error_of("", {"clip.num_frmes=8"}),
            "command line: clip.num_frmes is not a key of `clip`; did you mean num_frames?");
  EXPECT_EQ(error_of("", {"seed"}), "`seed` is not key=value, such as batch_size=64");
  EXPECT_NE(error_of("a: [1, 2\n").find("r.yaml:"), std::string::npos);
}

TEST(Binder, WritesWhatItReads) {
  Recipe r = read("seed: 3\ndata: [{path: 'a: b.kix'}, {path: c.kix, weight: 0.1}]\nlr: 0.1");
  const std::string yaml = to_yaml(list_entries(r));
  Recipe again;
  read_options(parse_yaml(yaml, "written"), again);
  EXPECT_EQ(to_yaml(list_entries(again)), yaml);
  EXPECT_EQ(again.data.at(0).path, "a: b.kix");
  EXPECT_EQ(again.data.at(1).weight, 0.1);
}

TEST(Binder, DifferencesLeaveOutFreeAndAllowedKeys) {
  const auto before = list_entries(read("seed: 1\nlr: 1"));
  const auto after = list_entries(read("seed: 2\nlr: 2\nclip: {num_frames: 4}"));
  EXPECT_EQ(defining_differences(before, after, {}),
            (std::vector<std::string>{"  seed: 1 -> 2", "  clip.num_frames: 16 -> 4"}));
  EXPECT_EQ(defining_differences(before, after, {"clip"}),
            (std::vector<std::string>{"  seed: 1 -> 2"}));
}

TEST(Tree, ExtendsMergesMapsAndReplacesLists) {
  const TempFolder folder;
  publish(default_env(), folder.path() + "/base.yaml",
          "seed: 1\nclip: {num_frames: 8, scales: [1]}\n");
  publish(default_env(), folder.path() + "/my.yaml",
          "extends: base.yaml\nclip: {scales: [0.5, 0.25]}\n");
  Recipe r;
  read_options(read_recipe(folder.path() + "/my.yaml"), r);
  EXPECT_EQ(r.seed, 1);
  EXPECT_EQ(r.clip.num_frames, 8);
  EXPECT_EQ(r.clip.scales, (std::vector<double>{0.5, 0.25}));
  publish(default_env(), folder.path() + "/base.yaml", "extends: my.yaml\n");
  EXPECT_THROW(read_recipe(folder.path() + "/my.yaml"), Error);
}

TEST(Tree, AliasesThatMultiplyAreRefused) {
  std::string text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n";
  for (int i = 1; i < 9; ++i) {
    text += fmt::format("a{0}: &a{0} [", i);
    for (int j = 0; j < 10; ++j) text += fmt::format("*a{}, ", i - 1);
    text += "]\n";
  }
  EXPECT_THROW(parse_yaml(text, "bomb.yaml"), Error);
}

TEST(Tree, HostileTextIsRefusedSoonAndInLittleMemory) {
  const auto repeat = [](const std::string& text, int times) {
    std::string out;
    for (int i = 0; i < times; ++i) out += text;
    return out;
  };
  std::string laughs = "a: &a [x, x, x, x, x, x, x, x, x]\n";
  for (char c = 'b'; c <= 'z'; ++c)
    laughs += fmt::format("{}: &{} [{}]\n", c, c, repeat(fmt::format("*{}, ", char(c - 1)), 9));
  std::string keys;
  for (int i = 0; i < 30'000; ++i) keys += fmt::format("k{}: 1\n", i);
  const std::pair<const char*, std::string> texts[] = {
      {"a billion laughs", laughs},
      {"an alias of itself", "a: &a [*a]"},
      {"a long value many times",
       "a: &a " + std::string(1 << 20, 'x') + "\nb: [" + repeat("*a, ", 10'000) + "]"},
      {"deep lists", repeat("[", 1 << 20)},
      {"deep maps", repeat("{a: ", 1 << 18)},
      {"deep blocks", repeat("- ", 1 << 20)},
      {"many keys", keys},
      {"a long text", "a: " + std::string(5 << 20, 'x')},
  };
  for (const auto& [name, text] : texts) {
    const double start = monotonic_s();
    const int64_t memory = resident_bytes();
    EXPECT_THROW(parse_yaml(text, "hostile.yaml"), Error) << name;
    EXPECT_LT(monotonic_s() - start, 20) << name;
    EXPECT_LT(resident_bytes() - memory, 512 << 20) << name;
  }
}

}  // namespace
}  // namespace keiko::config
