#include "train/step_guard.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace keiko::train {
namespace {

using Verdict = StepGuard::Verdict;
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

TEST(StepGuard, StopsAtWhatIsNoNumberUnlessAskedToSkip) {
  StepGuard stops({});
  EXPECT_EQ(stops.judge(1, 1).verdict, Verdict::kGood);
  EXPECT_EQ(stops.judge(kNan, 1).verdict, Verdict::kStop);
  EXPECT_EQ(stops.judge(1, HUGE_VAL).reason, "the gradient norm is inf");

  GuardOptions o;
  o.nonfinite = "skip";
  o.max_skipped = 2;
  StepGuard skips(o);
  EXPECT_EQ(skips.judge(kNan, 1).verdict, Verdict::kSkip);
  EXPECT_EQ(skips.judge(1, kNan).verdict, Verdict::kSkip);
  EXPECT_EQ(skips.judge(1, kNan).verdict, Verdict::kStop);
  EXPECT_EQ(skips.skipped(), 3);
}

TEST(StepGuard, ASpikeIsMeasuredAgainstTheLastGoodLosses) {
  for (const auto& [action, verdict] :
       {std::pair("count", Verdict::kCount), std::pair("skip", Verdict::kSkip),
        std::pair("stop", Verdict::kStop), std::pair("off", Verdict::kGood)}) {
    GuardOptions o;
    o.spike = action;
    o.window = 10;
    o.spike_std = 3;
    StepGuard guard(o);
    for (int i = 0; i < 4; ++i) EXPECT_EQ(guard.judge(i % 2, 1).verdict, Verdict::kGood);
    EXPECT_EQ(guard.judge(100, 1).verdict, Verdict::kGood) << "too few losses are known";
    StepGuard fresh(o);
    for (int i = 0; i < 20; ++i) ASSERT_EQ(fresh.judge(i % 2, 1).verdict, Verdict::kGood);
    // Mean 0.5, standard deviation 0.5: the bound is 2.
    EXPECT_EQ(fresh.judge(1.99, 1).verdict, Verdict::kGood);
    StepGuard again(o);
    for (int i = 0; i < 20; ++i) again.judge(i % 2, 1);
    EXPECT_EQ(again.judge(2.01, 1).verdict, verdict) << action;
    EXPECT_EQ(again.spikes(), std::string(action) == "off" ? 0 : 1);
    // A skipped loss is no good one.
    if (std::string(action) == "skip") {
      EXPECT_EQ(again.judge(2.01, 1).verdict, Verdict::kSkip);
    }
  }
}

TEST(StepGuard, ARestoredGuardJudgesAsTheFirst) {
  GuardOptions o;
  o.spike = "skip";
  o.window = 8;
  o.spike_std = 2;
  o.max_skipped = 1000;
  StepGuard whole(o), first(o);
  double x = 0.3;
  std::vector<double> losses;
  for (int i = 0; i < 60; ++i) {
    x = 3.9 * x * (1 - x);
    losses.push_back(i % 7 == 6 ? 10 * x : x);
  }
  for (int i = 0; i < 30; ++i) {
    whole.judge(losses[size_t(i)], 1);
    first.judge(losses[size_t(i)], 1);
  }
  StepGuard second(o);
  second.restore(nlohmann::json::parse(first.state().dump()));
  for (int i = 30; i < 60; ++i) {
    EXPECT_EQ(second.judge(losses[size_t(i)], 1).verdict, whole.judge(losses[size_t(i)], 1).verdict)
        << i;
  }
  EXPECT_GT(whole.skipped(), 0);
  EXPECT_EQ(second.state(), whole.state());
}

}  // namespace
}  // namespace keiko::train
