#include "data/targets.h"

#include <cmath>
#include <limits>

#include "data/dataset.h"
#include "data/small_set.h"

namespace keiko::data {
namespace {

class TargetsTest : public SmallSet {
 protected:
  static std::string list(const std::string& name, const std::string& text) {
    publish(env, path(name), text);
    return path(name);
  }
  static std::string error_in(const std::string& name, const std::string& text) {
    return error_of([&] { read_target_list(env, list(name, text)); });
  }
  static DataSource source(const std::string& targets, const std::string& labels = "") {
    DataSource s;
    s.path = path("train.kix");
    s.labels = labels;
    s.targets = targets;
    return s;
  }
  static std::vector<std::string> videos() {
    std::vector<std::string> paths;
    Catalogue::open(env, path("train.kix"))->each_summary([&](uint32_t, const VideoSummary& s) {
      paths.push_back(s.file.path);
    });
    return paths;
  }
};

// "x.mp4: dx 1 dy ?" for each line.
std::string text_of(const TargetList& list) {
  std::string text;
  for (size_t i = 0; i < list.paths.size(); ++i) {
    text += list.paths[i] + ":";
    for (size_t c = 0; c < list.names.size(); ++c) {
      const float value = list.row(i)[c];
      text += " " + list.names[c] + " " +
              (std::isnan(value) ? std::string("?") : fmt::format("{}", value));
    }
    text += "\n";
  }
  return text;
}

TEST_F(TargetsTest, EveryFormOfAListGivesTheSameTargets) {
  const std::string want = "a.mp4: dx 1 dy ?\nb, c.mp4: dx -0.5 dy 2000\n";
  for (const auto& [name, text] : std::vector<std::pair<std::string, std::string>>{
           {"a.csv", "path,dx,dy\na.mp4,1,\n\"b, c.mp4\",-0.5,2e3\n"},
           {"b.csv",
            "\xEF\xBB\xBF# made by hand\nlabel,dx,Path,dy\r\nx,+1,a.mp4,NaN\r\n"
            "y,-.5,\"b, c.mp4\",2000.0\r\n"},
           {"c.tsv", "path\tdx\tdy\na.mp4\ttrue\t\nb, c.mp4\t-0.5\t2000\n"},
           {"d.csv", "path,dx,dy\nnone.mp4,,nan\na.mp4,True,\n\"b, c.mp4\",-0.5,2000\n"},
           {"e.jsonl",
            "{\"path\": \"a.mp4\", \"targets\": {\"dx\": true}}\n"
            "{\"path\": \"none.mp4\"}\n{\"path\": \"n.mp4\", \"targets\": null}\n"
            "{\"targets\": {\"dy\": 2000, \"dx\": -0.5}, \"path\": \"b, c.mp4\"}\n"}})
    EXPECT_EQ(text_of(read_target_list(env, list(name, text))), want) << name;
  // A list has numbers for names.
  EXPECT_EQ(text_of(read_target_list(env, list("f.jsonl",
                                               "{\"path\": \"a\", \"targets\": [1, null]}\n"
                                               "{\"path\": \"b\", \"targets\": [0, 0.25]}\n"))),
            "a: 0 1 1 ?\nb: 0 0 1 0.25\n");
  // Names of objects are sorted as classes are, whichever line has them first.
  EXPECT_EQ(read_target_list(env, list("g.jsonl",
                                       "{\"path\": \"a\", \"targets\": {\"10\": 1}}\n"
                                       "{\"path\": \"b\", \"targets\": {\"9\": 1}}\n"))
                .names,
            (std::vector<std::string>{"9", "10"}));
}

TEST_F(TargetsTest, WhatIsNoNumberIsNamedWithFileLineColumnAndValue) {
  for (const std::string bad :
       {"fast", "1;5", "inf", "-inf", "1e999", "1e39", "0x1p3", "1 2", "+-1", "+", "--1"}) {
    const std::string error = error_in("bad.csv", "path,dx,dy\na.mp4,1,2\nb.mp4,3," + bad + "\n");
    EXPECT_NE(error.find("bad.csv:3: dy = " + bad + " is not a finite number"), std::string::npos)
        << error;
  }
  for (const std::string bad : {"\"fast\"", "1e39", "[...]", "{...}"}) {
    const std::string value = bad == "[...]" ? "[1]" : bad == "{...}" ? "{\"x\": 1}" : bad;
    const std::string error =
        error_in("bad.jsonl", "\n{\"path\": \"a\", \"targets\": {\"dx\": " + value + "}}\n");
    EXPECT_NE(error.find("bad.jsonl:2: dx = "), std::string::npos) << error;
  }
  const std::string deep = std::string(1'000'000, '[') + std::string(1'000'000, ']');
  EXPECT_NE(error_in("deep.jsonl", "{\"path\": \"a\", \"targets\": [" + deep + "]}\n")
                .find("deep.jsonl:1: 0 = [...]"),
            std::string::npos);
}

TEST_F(TargetsTest, AListThatIsNoTableOfTargetsIsRefused) {
  const auto expect = [](const std::string& error, const std::string& part) {
    EXPECT_NE(error.find(part), std::string::npos) << error;
  };
  expect(error_in("a.txt", "a.mp4 3\n"), "a.txt is neither .csv, .tsv nor .jsonl");
  expect(error_in("a.csv", "video,dx\na.mp4,1\n"), "a.csv:1: no column is named path");
  expect(error_in("b.csv", "path,label\na.mp4,1\n"), "b.csv:1: no target beside the path");
  expect(error_in("c.csv", "path,dx,dx\na.mp4,1,1\n"), "c.csv:1: two columns are named dx");
  expect(error_in("d.csv", "path,dx,PATH\na.mp4,1,1\n"), "d.csv:1: two columns are named path");
  expect(error_in("e.csv", "path,,dx\na.mp4,1,1\n"), "e.csv:1: column 2 has no name");
  expect(error_in("f.csv", "path,dx\na.mp4,1\nb.mp4,1,2\n"), "f.csv:3: 3 fields");
  expect(error_in("g.csv", "path,dx\n,1\n"), "g.csv:2: the path is empty");
  expect(error_in("h.jsonl", "{\"path\": 3, \"targets\": [1]}\n"), "h.jsonl:1: not a JSON object");
  expect(error_in("i.jsonl", "{\"path\": \"a\", \"targets\": 3}\n"), "i.jsonl:1: targets must be");
  expect(error_in("j.jsonl",
                  "{\"path\": \"a\", \"targets\": [1]}\n"
                  "{\"path\": \"b\", \"targets\": [1, 2]}\n"),
         "j.jsonl:2: 2 targets, but 1");
  expect(error_in("k.jsonl",
                  "{\"path\": \"a\", \"targets\": [1]}\n"
                  "{\"path\": \"b\", \"targets\": {\"0\": 1}}\n"),
         "k.jsonl:2: targets are an object here");
  expect(error_in("l.jsonl", "{\"path\": \"a\", \"targets\": {\"x\": 1, \"x\": 2}}\n"),
         "l.jsonl:1: the key");
  std::string many;
  for (int i = 0; i < 5000; ++i)
    many += fmt::format("{{\"path\": \"a\", \"targets\": {{\"x{}\": 1}}}}\n", i);
  expect(error_in("m.jsonl", many), "more than 4096 targets");

  const auto open = [&](const std::string& targets) {
    return error_of([&] { Dataset(env, {source(targets)}, {}, {}, 1, 1); });
  };
  const std::string video = videos()[0];
  expect(open(path("no.csv")), "no.csv does not exist");
  expect(open(list("empty.csv", "path,dx\n")), "holds no target");
  expect(open(list("unknown.csv", "path,dx\n" + video + ",\n")), "holds no target");
  expect(open(list("else.csv", "path,dx\n/x/y.mp4,3\n")), "none of the 1 paths");
  expect(open(list("two.csv", "path,dx,dy\n" + video + ",1,2\n" + video + ",1,3\n")),
         "two.csv:3 gives " + video + " another dy than line 2 did: 3, not 2");
  expect(open(list("half.csv", "path,dx,dy\n" + video + ",1,2\n" + video + ",1,\n")), "another dy");
  EXPECT_EQ(open(list("same.csv", "path,dx,dy\n" + video + ",1,\n" + video + ",1.0,nan\n")),
            "no error");
}

TEST_F(TargetsTest, ClipsCarryTheTargetsOfTheirItemInTrainingAndEvaluation) {
  const auto paths = videos();
  std::string text = "path,dx,dy\n";
  for (size_t i = 0; i < paths.size(); i += 2)  // and every other video has none
    text += fmt::format("{},{},{}\n", paths[i], i, i % 3 == 0 ? "" : fmt::format("{}", -0.5 * i));
  const Dataset data(env, {source(list("t.csv", text))}, {}, {}, 1, 1);
  EXPECT_EQ(data.sample_count(), 12);
  EXPECT_EQ(data.target_names(), (std::vector<std::string>{"dx", "dy"}));
  const auto check = [&](const ClipPlan& plan) {
    const std::string file = data.video_of(plan)->file.path;
    const size_t i = size_t(std::find(paths.begin(), paths.end(), file) - paths.begin());
    ASSERT_EQ(i % 2, 0u) << file;
    ASSERT_EQ(plan.targets.size(), 2u);
    EXPECT_EQ(plan.targets[0], float(i)) << file;
    if (i % 3 == 0)
      EXPECT_TRUE(std::isnan(plan.targets[1])) << file;
    else
      EXPECT_EQ(plan.targets[1], -0.5F * float(i)) << file;
  };
  for (int64_t i = 0; i < 12; ++i) {
    check(data.evaluation_clip(i));
    check(data.training_clip(i));
    check(data.training_clip(i, 2));
  }
  // Beside labels: what has both is in use.
  std::string labels;
  for (size_t i = 0; i < 6; ++i) labels += paths[i] + (i < 2 ? " a\n" : " b\n");
  const Dataset both(env, {source(path("t.csv"), list("l.txt", labels))}, {}, {}, 1, 1);
  ASSERT_EQ(both.sample_count(), 3);
  EXPECT_EQ(both.evaluation_clip(2).label, 1);
  EXPECT_EQ(both.evaluation_clip(2).targets[0], 4);
  EXPECT_TRUE(Dataset(env, {source("")}, {}, {}, 1, 1).evaluation_clip(0).targets.empty());
}

TEST_F(TargetsTest, ColumnsTellMeanSpreadAndExtremesOfTheItemsInUse) {
  const auto paths = videos();
  const std::string file =
      list("columns.csv", "path,x,y,z,w\n" + paths[0] + ",1000001,2,,7\n" + paths[1] +
                              ",1000002,2,,\n/no/such.mp4,9,9,9,9\n" + paths[2] + ",1000006,,,5\n");
  const auto columns = Dataset(env, {source(file)}, {}, {}, 1, 1).target_columns();
  ASSERT_EQ(columns.size(), 4u);
  EXPECT_EQ(columns[0].name, "x");
  EXPECT_EQ(columns[0].known, 3);
  EXPECT_DOUBLE_EQ(columns[0].mean, 1000003);
  EXPECT_DOUBLE_EQ(columns[0].std, std::sqrt(14.0 / 3));
  EXPECT_EQ(columns[0].low_place, file + ":2");
  EXPECT_EQ(columns[0].high_place, file + ":5");
  EXPECT_EQ(columns[1].known, 2);
  EXPECT_EQ(columns[1].mean, 2);
  EXPECT_EQ(columns[1].std, 1) << "of a constant";
  EXPECT_EQ(columns[2].known, 0);
  EXPECT_EQ(columns[2].mean, 0);
  EXPECT_EQ(columns[2].std, 1);
  EXPECT_EQ(columns[3].low, 5);
  EXPECT_EQ(columns[3].low_place, file + ":5");
  EXPECT_EQ(columns[3].high_place, file + ":2");
}

TEST_F(TargetsTest, TargetsArePartOfTheDatasIdentity) {
  const auto paths = videos();
  const auto hash_of = [&](const std::string& name, const std::string& text) {
    return Dataset(env, {source(list(name, text))}, {}, {}, 1, 1).hash();
  };
  const uint64_t one = hash_of("h1.csv", "path,x\n" + paths[0] + ",1\n" + paths[1] + ",2\n");
  EXPECT_NE(one, Dataset(env, {source("")}, {}, {}, 1, 1).hash());
  // Another value, name, or item is other data; another form or order of the lines is not.
  EXPECT_NE(one, hash_of("h2.csv", "path,x\n" + paths[0] + ",1\n" + paths[1] + ",3\n"));
  EXPECT_NE(one, hash_of("h3.csv", "path,y\n" + paths[0] + ",1\n" + paths[1] + ",2\n"));
  EXPECT_NE(one, hash_of("h4.csv", "path,x\n" + paths[0] + ",1\n" + paths[2] + ",2\n"));
  EXPECT_EQ(one, hash_of("h5.tsv", "x\tpath\n2.0\t" + paths[1] + "\n1\t" + paths[0] + "\n"));
  EXPECT_EQ(one,
            hash_of("h6.jsonl", "{\"path\": \"" + paths[0] + "\", \"targets\": {\"x\": 1}}\n" +
                                    "{\"path\": \"" + paths[1] + "\", \"targets\": {\"x\": 2}}\n"));
  // Sources of a mixture have the same targets.
  EXPECT_NE(error_of([&] {
              Dataset(env, {source(path("h1.csv")), source(path("h3.csv"))}, {}, {}, 1, 1);
            }).find("have different targets (x; y)"),
            std::string::npos);
}

}  // namespace
}  // namespace keiko::data
