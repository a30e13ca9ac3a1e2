// Evaluation over views: which clips an objective gets together, and that every item counts once.

#include "train/evaluation.h"

#include <ATen/ATen.h>

#include "base/error.h"
#include "data/small_set.h"
#include "media/clip_decoder.h"

namespace keiko::train {
namespace {

// Notes what it is shown. A row is the item's index and the mean pixel over all its views.
class Witness : public objective::Objective {
 public:
  explicit Witness(bool averages) : averages_(averages) {}
  model::Parameters& parameters() override { return parameters_; }
  objective::LossSums loss(const objective::MicroBatch&, const objective::Draws&,
                           const model::BlockRunner&) override {
    return {};
  }
  std::vector<std::string> evaluation_columns() const override { return {"item", "mean"}; }
  at::Tensor evaluate(const objective::MicroBatch& batch) override {
    clips_at_once = std::max(clips_at_once, batch.video.size(0));
    views = batch.views;
    const int64_t items = batch.video.size(0) / batch.views;
    const at::Tensor position = at::tensor(batch.positions).view({items, batch.views});
    are_together = are_together && position.eq(position.narrow(1, 0, 1)).all().item<bool>();
    const at::Tensor mean = batch.video.to(at::kDouble).mean({1, 2, 3, 4});
    if (!averages_) return at::stack({at::tensor(batch.positions).to(at::kDouble), mean}, 1);
    return at::stack(
        {position.select(1, 0).to(at::kDouble), mean.view({items, batch.views}).mean(1)}, 1);
  }
  nlohmann::ordered_json summarize(const at::Tensor& rows) const override {
    nlohmann::ordered_json all = nlohmann::ordered_json::array();
    for (int64_t i = 0; i < rows.size(0); ++i)
      all.push_back({rows[i][0].item<double>(), rows[i][1].item<double>()});
    return {{"loss", 0}, {"rows", all}};
  }
  std::string start_from(const objective::Weights&) override { return ""; }
  nlohmann::ordered_json config() const override { return {}; }
  double flops_per_clip() const override { return 0; }

  int64_t clips_at_once = 0, views = 0;
  bool are_together = true;

 private:
  bool averages_;
  model::Parameters parameters_{at::kFloat};
};

class EvaluationTest : public data::SmallSet {
 protected:
  static nlohmann::ordered_json run(Witness& witness, data::ViewOptions views, int64_t batch_size) {
    data::ClipOptions clip;
    clip.num_frames = 4;
    clip.sampling_rate = 1;
    clip.size = 16;
    const data::Dataset dataset(data::env, {{path("train.kix")}}, clip, {}, 1, 1, views);
    EvalOptions options;
    options.batch_size = batch_size;
    options.views = views;
    const auto communicator = dist::make_communicator({}, 60);
    return evaluate(data::env, witness, dataset, options, 2, *communicator,
                    [] { return std::make_unique<media::CpuClipDecoder>(data::env); }, {});
  }
};

TEST_F(EvaluationTest, ViewsOfAnItemComeTogetherAndEveryItemCountsOnce) {
  Witness single(true);
  const auto middle = run(single, {1, 1}, 5);
  ASSERT_EQ(middle["rows"].size(), 24u);
  EXPECT_EQ(single.clips_at_once, 5);
  for (const int64_t batch_size : {1, 12, 13, 64}) {
    Witness witness(true);
    const auto summary = run(witness, {2, 3}, batch_size);
    EXPECT_TRUE(witness.are_together);
    EXPECT_EQ(witness.views, 6);
    EXPECT_LE(witness.clips_at_once, std::max<int64_t>(6, batch_size));
    ASSERT_EQ(summary["rows"].size(), 24u);
    for (size_t i = 0; i < 24; ++i) {
      EXPECT_EQ(summary["rows"][i][0].get<double>(), double(i));
      // Other frames of the same video: another mean, but not by much.
      EXPECT_NE(summary["rows"][i][1], middle["rows"][i][1]);
      EXPECT_NEAR(summary["rows"][i][1].get<double>(), middle["rows"][i][1].get<double>(), 30);
    }
  }
  // The videos are square, so that spatial views are the same picture.
  Witness spatial(true);
  const auto squares = run(spatial, {1, 3}, 64);
  for (size_t i = 0; i < 24; ++i)
    EXPECT_NEAR(squares["rows"][i][1].get<double>(), middle["rows"][i][1].get<double>(), 1e-9);
}

TEST_F(EvaluationTest, AnObjectiveThatDoesNotAverageOverViewsIsRefused) {
  Witness witness(false);
  const std::string message = data::error_of([&] { run(witness, {2, 1}, 64); });
  EXPECT_NE(message.find("does not average over views"), std::string::npos) << message;
  EXPECT_EQ(run(witness, {1, 1}, 64)["rows"].size(), 24u);
}

// By hand: of the two nearest by angle, the nearer one's vote weighs more.
TEST(Knn, VotesByAngle) {
  const Features known{at::tensor({1.0, 0.0, 5.0, 5.0, 0.0, 2.0}, at::kDouble).view({3, 2}),
                       at::tensor({0, 1, 2}, at::kLong)};
  const at::Tensor asked = at::tensor({3.0, 1.0}, at::kDouble).view({1, 2});
  const at::Tensor votes = knn_scores(known, asked, 2, 4, 0.1);
  const double along = 3 / std::sqrt(10.0), across = 4 / std::sqrt(20.0);
  EXPECT_NEAR(votes[0][0].item<double>(), std::exp(along / 0.1), 1e-6);
  EXPECT_NEAR(votes[0][1].item<double>(), std::exp(across / 0.1), 1e-6);
  EXPECT_EQ(votes[0][2].item<double>(), 0);
  EXPECT_EQ(votes[0][3].item<double>(), 0);
  // More neighbours than there are items: all vote.
  EXPECT_GT(knn_scores(known, asked, 20, 4, 0.1)[0][2].item<double>(), 0);
}

}  // namespace
}  // namespace keiko::train
