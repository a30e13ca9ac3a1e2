#include "train/trace.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <spdlog/sinks/ostream_sink.h>
#include <spdlog/spdlog.h>

#include "base/error.h"
#include "base/temp_folder.h"
#include "model/runners.h"
#include "train/range.h"

namespace keiko::train {
namespace {

std::string error_of(const std::function<void()>& run) {
  try {
    run();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kUsage);
    return e.what();
  }
  return "no error";
}

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST(Trace, StepsAreReadAndWhatIsNoneIsNamed) {
  const auto read = [](const std::string& text) {
    const TraceSteps steps = parse_trace(text);
    return std::pair(steps.first, steps.last);
  };
  EXPECT_EQ(read("steps=10..12"), std::pair(int64_t{10}, int64_t{12}));
  EXPECT_EQ(read("steps=0..0"), std::pair(int64_t{0}, int64_t{0}));
  EXPECT_EQ(read("steps=7"), std::pair(int64_t{7}, int64_t{7}));
  const struct {
    const char *text, *said;
  } wrong[] = {{"steps=12..10", "step 10 comes before step 12"},
               {"10..12", "does not begin with steps="},
               {"", "does not begin with steps="},
               {"steps=", "\"\" is not the number of a step"},
               {"steps=..3", "\"\" is not the number of a step"},
               {"steps=3..", "\"\" is not the number of a step"},
               {"steps=a..3", "\"a\" is not the number of a step"},
               {"steps=1..2..3", "\"2..3\" is not the number of a step"},
               {"steps=-1..3", "\"-1\" is not the number of a step"},
               {"steps=1.5..3", "\"1.5\" is not the number of a step"},
               {"steps=1 ..3", "\"1 \" is not the number of a step"},
               {"steps=1..99999999999999999999", "is not the number of a step"}};
  for (const auto& w : wrong) {
    const std::string said = error_of([&] { parse_trace(w.text); });
    EXPECT_TRUE(has(said, w.said) && has(said, "steps=10..12")) << w.text << ": " << said;
  }
}

TEST(Trace, StepsThatTheRunDoesNotHaveAreRefused) {
  const TempFolder folder;
  for (const TraceSteps& steps : {TraceSteps{5, 5}, TraceSteps{3, 5}, TraceSteps{9, 12}}) {
    Trace trace(default_env(), steps, folder.path(), 0, nullptr);
    const std::string said = error_of([&] { trace.check(0, 5); });
    EXPECT_TRUE(has(said, "has 5 steps") && has(said, "up to 4")) << said;
  }
  Trace trace(default_env(), TraceSteps{0, 4}, folder.path(), 0, nullptr);
  EXPECT_EQ(error_of([&] { trace.check(0, 5); }), "no error");
}

// Steps as a run takes them, each with a product of two matrices, named inside of it.
std::vector<nlohmann::ordered_json> run_steps(Trace& trace, int64_t first, int64_t steps) {
  std::vector<nlohmann::ordered_json> said;
  const model::BlockRunner straight;
  const NamingRunner runner(straight);
  for (int64_t step = first; step < steps; ++step) {
    trace.begin(step);
    {
      const Range range(fmt::format("step {}", step));
      in_range("forward", [&] {
        runner.run(
            3, [](const at::Tensor& x) { return at::matmul(x, x); }, at::ones({4, 4}));
      });
    }
    if (auto one = trace.end(step, 0.25 * double(step), step + 1 == steps))
      said.push_back(std::move(*one));
  }
  EXPECT_FALSE(trace.is_on());
  return said;
}

struct Event {
  double from, to;
};
std::vector<Event> events(const nlohmann::json& trace, const std::string& name) {
  std::vector<Event> found;
  for (const auto& e : trace["traceEvents"])
    if (e.value("name", "") == name && e.value("ph", "") == "X")
      found.push_back({e["ts"].get<double>(), e["ts"].get<double>() + e["dur"].get<double>()});
  return found;
}

TEST(Trace, HoldsTheStepsThatWereAskedForAndWhatRanInThem) {
  const TempFolder folder;
  Trace trace(default_env(), TraceSteps{2, 3}, folder.path(), 1, nullptr);
  trace.check(0, 6);
  const auto said = run_steps(trace, 0, 6);
  ASSERT_EQ(said.size(), 1u);
  const std::string path = folder.path() + "/traces/steps-2-3-rank1.json";
  EXPECT_EQ(said[0]["file"], path);
  EXPECT_EQ(said[0]["step_s"], (std::vector<double>{0.5, 0.75}));
  EXPECT_EQ(said[0]["step_s_before"], 0.25);
  EXPECT_EQ(default_env()->list(folder.path() + "/traces").size(), 1u);
  const std::string text = read_text(default_env(), path);
  EXPECT_EQ(said[0]["bytes"], int64_t(text.size()));

  const auto json = nlohmann::json::parse(text);
  EXPECT_EQ(json["keiko"]["first_step"], 2);
  EXPECT_EQ(json["keiko"]["last_step"], 3);
  EXPECT_EQ(json["keiko"]["rank"], 1);
  for (const int64_t step : {0, 1, 4, 5})
    EXPECT_TRUE(events(json, fmt::format("step {}", step)).empty()) << step;
  const auto inside = [](const Event& a, const Event& b) {
    return a.from >= b.from && a.to <= b.to;
  };
  for (const int64_t step : {2, 3}) {
    const auto whole = events(json, fmt::format("step {}", step));
    ASSERT_EQ(whole.size(), 1u);
    for (const char* name : {"forward", "block 03", "aten::matmul"}) {
      const auto parts = events(json, name);
      EXPECT_EQ(parts.size(), 2u) << name;
      EXPECT_EQ(std::count_if(parts.begin(), parts.end(),
                              [&](const Event& part) { return inside(part, whole[0]); }),
                1)
          << name << " in step " << step;
    }
  }
}

TEST(Trace, AResumedRunTracesWhatIsLeft) {
  const TempFolder folder;
  Trace trace(default_env(), TraceSteps{1, 4}, folder.path(), 0, nullptr);
  trace.check(3, 9);
  const auto said = run_steps(trace, 3, 9);
  ASSERT_EQ(said.size(), 1u);
  EXPECT_TRUE(has(said[0]["file"].get<std::string>(), "steps-3-4-rank0"));
  Trace over(default_env(), TraceSteps{1, 4}, folder.path(), 0, nullptr);
  over.check(5, 9);
  EXPECT_TRUE(run_steps(over, 5, 9).empty());
}

TEST(Trace, ARunThatStopsInTheMiddleKeepsWhatWasHeard) {
  const TempFolder folder;
  Trace trace(default_env(), TraceSteps{1, 4}, folder.path(), 0, nullptr);
  trace.check(0, 9);
  const auto said = run_steps(trace, 0, 3);  // a signal came
  ASSERT_EQ(said.size(), 1u);
  EXPECT_EQ(said[0]["last_step"], 2);
}

TEST(Trace, ThatCannotBeWrittenEndsNoRun) {
  const TempFolder folder;
  publish(default_env(), folder.path() + "/traces", "a file where the folder should be");
  Trace trace(default_env(), TraceSteps{1, 1}, folder.path(), 2, nullptr);
  std::ostringstream log;
  const auto logger = spdlog::default_logger();
  spdlog::set_default_logger(std::make_shared<spdlog::logger>(
      "a test", std::make_shared<spdlog::sinks::ostream_sink_mt>(log)));
  EXPECT_TRUE(run_steps(trace, 0, 3).empty());
  spdlog::set_default_logger(logger);
  EXPECT_TRUE(has(log.str(), "[error] --trace steps=1: rank 2's trace is lost: ")) << log.str();
  EXPECT_TRUE(has(log.str(), folder.path() + "/traces")) << log.str();
  {
    Trace unfinished(default_env(), TraceSteps{0, 1}, folder.path(), 0, nullptr);
    unfinished.begin(0);
  }
  // The next one finds a profiler that does not run.
  const TempFolder other;
  Trace after(default_env(), TraceSteps{0, 0}, other.path(), 0, nullptr);
  EXPECT_EQ(run_steps(after, 0, 2).size(), 1u);
}

}  // namespace
}  // namespace keiko::train
