// What multi-label classification and regression make of a head's numbers. The truth is the
// formula, written again in the plainest way, with ATen's autograd for its gradients.

#include "objective/task.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "base/rng.h"
#include "objective/multilabel.h"
#include "objective/regression.h"

namespace keiko::objective {
namespace {

const double kNaN = std::nan("");

at::Tensor table(std::vector<double> values, int64_t columns) {
  return at::tensor(values, at::kDouble).view({-1, columns});
}

// Numbers that look random, from a seed.
at::Tensor noise(uint64_t seed, at::IntArrayRef shape) {
  at::Tensor x = at::empty(shape, at::kDouble);
  Rng rng(seed, Stream::kSynth, 0);
  for (int64_t i = 0; i < x.numel(); ++i) x.data_ptr<double>()[i] = rng.normal();
  return x;
}

MicroBatch batch_with(const at::Tensor& target, int64_t views = 1) {
  MicroBatch batch;
  batch.target = target.to(at::kFloat);
  batch.views = views;
  return batch;
}

const std::vector<std::string> kNames = {"a", "b", "c"};

// Loss and gradient of `task` beside those of a formula over single cells, averaged over the known
// ones of each clip.
template <class Formula>
void expect_same(const Task& task, const at::Tensor& outputs, const MicroBatch& batch,
                 const at::Tensor& wanted, Formula formula, const std::vector<Mix>& mixes = {},
                 const std::vector<int64_t>& partners = {}) {
  const at::Tensor ours = outputs.clone().requires_grad_(true);
  const LossSums sums = task.loss(ours, batch, unpack_mixes(pack_mixes(mixes, partners)));
  sums.loss.backward();
  const at::Tensor plain = outputs.clone().requires_grad_(true);
  at::Tensor sum = at::zeros({}, at::kDouble);
  for (int64_t i = 0; i < wanted.size(0); ++i) {
    std::vector<at::Tensor> cells;
    for (int64_t c = 0; c < wanted.size(1); ++c)
      if (const double t = wanted[i][c].item<double>(); !std::isnan(t))
        cells.push_back(formula(plain[i][c], t, c));
    if (!cells.empty()) sum = sum + at::stack(cells).mean();
  }
  EXPECT_NEAR(sums.loss.item<double>(), sum.item<double>(), 1e-12);
  sum.backward();
  EXPECT_LT((ours.grad() - plain.grad()).abs().max().item<double>(), 1e-13);
  EXPECT_EQ(sums.metrics.numel(), int64_t(task.metric_names().size()));
}

at::Tensor entropy(const at::Tensor& x, double t) {
  const at::Tensor p = 1 / (1 + (-x).exp());
  return -(t * p.log() + (1 - t) * (1 - p).log());
}

TEST(MultiLabel, LossAndGradientAreThoseOfTheFormulaOverKnownClasses) {
  const at::Tensor target = table({1, 0, kNaN, 0.25, 1, 1, kNaN, kNaN, kNaN, kNaN, 1, 0}, 3);
  const at::Tensor outputs = 2 * noise(1, {4, 3});
  for (const double smoothing : {0.0, 0.2})
    expect_same(*make_multilabel(kNames, smoothing), outputs, batch_with(target), target,
                [&](const at::Tensor& x, double t, int64_t) {
                  return entropy(x, t * (1 - smoothing) + smoothing / 2);
                });
}

TEST(MultiLabel, MixedClipsHaveMixedClassesAndKnowWhatBothKnow) {
  const at::Tensor target = table({1, 0, kNaN, 0, 0, 1}, 3);
  const std::vector<Mix> mixes = {{1, 0.75}, {0, 0.75}};
  const at::Tensor mixed = table({0.75, 0, kNaN, 0.25, 0, kNaN}, 3);
  EXPECT_TRUE(at::allclose(mixed_columns(target, unpack_mixes(pack_mixes(mixes, {1, 0}))), mixed, 0,
                           0, /*equal_nan=*/true));
  // Who keeps all, or nothing, of itself knows what the one knows whom it shows.
  EXPECT_TRUE(
      at::allclose(mixed_columns(target, unpack_mixes(pack_mixes({{1, 1}, {0, 0}}, {1, 0}))),
                   table({1, 0, kNaN, 1, 0, kNaN}, 3), 0, 0, true));
  expect_same(*make_multilabel(kNames, 0), noise(2, {2, 3}), batch_with(target), mixed,
              [](const at::Tensor& x, double t, int64_t) { return entropy(x, t); }, mixes, {1, 0});
}

TEST(Regression, LossAndGradientAreThoseOfTheFormulaOverStandardisedTargets) {
  const std::vector<TargetColumn> columns = {{"a", 10, 2}, {"b", -1, 0.5}, {"c", 0, 1}};
  const at::Tensor target = table({12, -1.25, kNaN, 7, kNaN, 3, kNaN, kNaN, kNaN}, 3);
  const at::Tensor outputs = noise(3, {3, 3});
  const auto apart = [&](const at::Tensor& x, double t, int64_t c) {
    return x - (t - columns[size_t(c)].mean) / columns[size_t(c)].std;
  };
  expect_same(*make_regression(columns, "mse"), outputs, batch_with(target), target,
              [&](const at::Tensor& x, double t, int64_t c) { return apart(x, t, c).square(); });
  expect_same(*make_regression(columns, "smooth_l1"), outputs, batch_with(target), target,
              [&](const at::Tensor& x, double t, int64_t c) {
                const at::Tensor d = apart(x, t, c);
                return std::abs(d.item<double>()) < 1 ? d.square() / 2 : d.abs() - 0.5;
              });
}

// By hand: walk down the items one score at a time.
double precision_by_sorting(std::vector<std::pair<double, bool>> items) {
  std::sort(items.begin(), items.end(), [](auto a, auto b) { return a.first > b.first; });
  double sum = 0, hits = 0;
  for (size_t i = 0; i < items.size(); ++i)
    if (items[i].second) sum += ++hits / double(i + 1);
  return sum / hits;
}

TEST(AveragePrecision, IsTheMeanPrecisionAtEveryPositive) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const at::Tensor score = noise(seed, {50});
    const at::Tensor is_positive = noise(100 + seed, {50}).gt(0.7);
    std::vector<std::pair<double, bool>> items;
    for (int64_t i = 0; i < 50; ++i)
      items.emplace_back(score[i].item<double>(), is_positive[i].item<bool>());
    EXPECT_NEAR(average_precision(score, is_positive), precision_by_sorting(items), 1e-14);
  }
}

TEST(AveragePrecision, TiesCountTogetherAndNotANumberLast) {
  const auto of = [](std::vector<double> score, std::vector<int64_t> positive) {
    return average_precision(at::tensor(score, at::kDouble),
                             at::tensor(positive, at::kLong).to(at::kBool));
  };
  // scikit-learn: average_precision_score([1, 0, 0, 1], [0.5, 0.5, 0.5, 0.1]) is 5/12.
  EXPECT_NEAR(of({0.5, 0.5, 0.5, 0.1}, {1, 0, 0, 1}), 5.0 / 12, 1e-15);
  EXPECT_NEAR(of({0, 0, 0, 0}, {1, 0, 0, 0}), 0.25, 1e-15) << "one score for all is chance";
  EXPECT_NEAR(of({kNaN, 1, -5}, {1, 0, 0}), 1.0 / 3, 1e-15);
  EXPECT_TRUE(std::isnan(of({1, 2}, {0, 0})));
}

TEST(MultiLabel, TheSummaryCountsWhatIsKnown) {
  const auto task = make_multilabel(kNames, 0.1);
  // Class b has no positive; class c is known of two items alone.
  const at::Tensor target = table({1, 0, kNaN, 0, 0, 1, 1, 0, 0, kNaN, kNaN, kNaN}, 3);
  const at::Tensor outputs = table({2, 1, 9, 3, -1, -2, -1, -2, -3, 5, 5, 5}, 3);
  const at::Tensor rows = task->rows(outputs, batch_with(target));
  EXPECT_EQ(rows.size(1), int64_t(task->evaluation_columns().size()));
  const auto summary = task->summarize(rows);
  EXPECT_EQ(summary["clips"], 4);
  double loss = 0;  // of three clips, without smoothing
  for (int64_t i = 0; i < 3; ++i) {
    std::vector<at::Tensor> cells;
    for (int64_t c = 0; c < 3; ++c)
      if (const double t = target[i][c].item<double>(); !std::isnan(t))
        cells.push_back(entropy(outputs[i][c], t));
    loss += at::stack(cells).mean().item<double>() / 3;
  }
  EXPECT_NEAR(summary["loss"].get<double>(), loss, 1e-12);
  // a: scores 3 (no), 2 (yes), -1 (yes); c: -2 (yes), -3 (no).
  const double a = (1.0 / 2 + 2.0 / 3) / 2, c = 1;
  EXPECT_NEAR(summary["ap_by_class"]["a"].get<double>(), a, 1e-14);
  EXPECT_FALSE(summary["ap_by_class"].contains("b"));
  EXPECT_NEAR(summary["map"].get<double>(), (a + c) / 2, 1e-14);
  EXPECT_NEAR(summary["map_chance"].get<double>(), (2.0 / 3 + 1.0 / 2) / 2, 1e-14);
  // Said yes of known: a twice (one right), b once (wrong); positives: a 2, c 1.
  EXPECT_NEAR(summary["f1"].get<double>(), 2.0 * 1 / (3 + 3), 1e-14);
}

TEST(MultiLabel, ProbabilitiesAreAveragedOverViews) {
  const at::Tensor outputs = table({2, -1, 0, 0.5, 50, 60, 800, 900}, 1);
  const auto task = make_multilabel({"a"}, 0);
  const at::Tensor rows = task->rows(outputs, batch_with(table({1, 1, 0, 0, 1, 1, 0, 0}, 1), 2));
  ASSERT_EQ(rows.size(0), 4);
  for (int64_t i = 0; i < 2; ++i) {
    const double p = outputs.narrow(0, 2 * i, 2).sigmoid().mean().item<double>();
    EXPECT_NEAR(rows[i][1].item<double>(), std::log(p / (1 - p)), 1e-12);
    EXPECT_NEAR(rows[i][0].item<double>(), i == 0 ? -std::log(p) : -std::log(1 - p), 1e-12);
  }
  // Where probabilities have long become 1, scores still differ.
  EXPECT_NEAR(rows[2][1].item<double>(), 50 + std::log(2) - std::log1p(std::exp(-10)), 1e-9);
  EXPECT_NEAR(rows[3][1].item<double>(), 800 + std::log(2), 1e-9);
  EXPECT_TRUE(std::isfinite(rows[3][0].item<double>()));
}

TEST(Regression, TheSummaryIsInTheTargetsOwnUnits) {
  const std::vector<TargetColumn> columns = {{"a", 100, 10}, {"b", 0, 1}, {"c", 5, 1}};
  const auto task = make_regression(columns, "mse");
  const at::Tensor target = table({90, 1, 0.1, 110, kNaN, 0.1, 130, kNaN, 0.1}, 3);
  const at::Tensor outputs = table({-1, 0, 0, 2, 0, 0, 2, 0, 0}, 3);  // a: 90, 120, 120
  const auto summary = task->summarize(task->rows(outputs, batch_with(target)));
  const auto& a = summary["by_target"]["a"];
  EXPECT_EQ(a["clips"], 3);
  EXPECT_NEAR(a["mae"].get<double>(), 20.0 / 3, 1e-9);
  EXPECT_NEAR(a["rmse"].get<double>(), std::sqrt(200.0 / 3), 1e-9);
  EXPECT_NEAR(a["r2"].get<double>(), 1 - 200.0 / 800, 1e-9);
  EXPECT_NEAR(a["pearson"].get<double>(), 600.0 / std::sqrt(800.0 * 600.0), 1e-9);
  // One item, or one value, has no spread to explain.
  EXPECT_EQ(summary["by_target"]["b"]["clips"], 1);
  for (const char* name : {"b", "c"})
    for (const char* key : {"r2", "pearson"})
      EXPECT_FALSE(summary["by_target"][name].contains(key)) << name << " " << key;
  EXPECT_NEAR(summary["r2"].get<double>(), 0.75, 1e-9);
  EXPECT_FALSE(summary.contains("mae")) << "of three units";
  const auto alone = make_regression({columns[0]}, "mse");
  const auto one = alone->summarize(alone->rows(outputs.narrow(1, 0, 1).contiguous(),
                                                batch_with(target.narrow(1, 0, 1).contiguous())));
  EXPECT_NEAR(one["mae"].get<double>(), 20.0 / 3, 1e-9);
  EXPECT_NEAR(one["loss"].get<double>(), 2.0 / 3, 1e-9) << "in spreads";
}

TEST(Regression, PredictionsAreAveragedOverViews) {
  const auto task = make_regression({{"a", 100, 10}}, "smooth_l1");
  const at::Tensor rows = task->rows(table({1, 3}, 1), batch_with(table({110, 110}, 1), 2));
  ASSERT_EQ(rows.size(0), 1);
  EXPECT_NEAR(rows[0][1].item<double>(), 120, 1e-12);
  EXPECT_NEAR(rows[0][0].item<double>(), 0.5, 1e-12);
}

}  // namespace
}  // namespace keiko::objective
