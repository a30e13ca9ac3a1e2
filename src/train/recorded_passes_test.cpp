#include "train/recorded_passes.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include "gpu/recorder_for_tests.h"
#include "model/meta_device_for_tests.h"
#include "objective/device_cases_for_tests.h"
#include "optim/adamw.h"
#include "train/run_for_tests.h"

namespace keiko::train {
namespace {

using objective::DeviceCase;
using objective::LossSums;
using objective::MicroBatch;
using objective::Objective;

// Clips of noise, other ones in each step; a target in eight is not known.
MicroBatch batch_of(int64_t step, int64_t clips) {
  auto random = at::detail::createCPUGenerator(uint64_t(step) + 1);
  MicroBatch batch = objective::batch_on(at::kCPU, clips);
  batch.video.random_(0, 256, random);
  batch.label.random_(0, 3, random);
  batch.target.uniform_(0, 1, random);
  batch.target.masked_fill_(batch.target.lt(0.125), std::nan(""));
  batch.step = step;
  batch.batch_first = step * clips;
  batch.batch_last = (step + 1) * clips;
  for (int64_t i = 0; i < clips; ++i) batch.positions[size_t(i)] = batch.batch_first + i;
  return batch;
}

constexpr double kWeight = 1.0 / 6;

LossSums run_afresh(Objective& objective, const MicroBatch& batch,
                    const model::BlockRunner& runner = model::BlockRunner()) {
  const LossSums sums = objective.loss(batch, runner);
  sums.loss.backward(at::full_like(sums.loss, kWeight));
  return {sums.loss.detach(), sums.metrics};
}

bool is_same(const at::Tensor& a, const at::Tensor& b) {
  return a.defined() == b.defined() && (!a.defined() || a.equal(b));
}

// "" where sums and gradients are the same bits.
std::string difference(const LossSums& afresh, const LossSums& recorded, Objective& a,
                       Objective& b) {
  if (!is_same(afresh.loss, recorded.loss))
    return fmt::format("loss {} afresh, {} recorded", afresh.loss.item<double>(),
                       recorded.loss.item<double>());
  if (!is_same(afresh.metrics, recorded.metrics)) return "metrics";
  for (size_t i = 0; i < a.parameters().buffers().size(); ++i) {
    const auto& buffer = a.parameters().buffers()[i];
    if (!buffer.grad.equal(b.parameters().buffers()[i].grad)) return "gradients of " + buffer.name;
  }
  return "";
}

// Masks, mixes, shares, labels, weights: whatever changes from step to step reaches what was
// recorded.
TEST(RecordedPasses, OfAnyObjectiveGiveTheBitsOfPassesThatRunAfresh) {
  at::set_num_threads(1);  // tensors this small are only slower with more
  for (const DeviceCase& c : objective::device_cases())
    for (const bool recomputes : {false, true}) {
      SCOPED_TRACE(c.keys + (recomputes ? ", recomputed" : ""));
      const auto plain = make(c), other = make(c);
      optim::AdamW plain_adamw(plain->parameters(), {}), other_adamw(other->parameters(), {});
      gpu::RecorderForTests recorder;
      RecordedPasses passes(*other, recorder, kWeight, false, recomputes);
      const model::BlockRunner straight;
      const model::CheckpointingRunner recomputing;
      const model::BlockRunner& runner = recomputes ? recomputing : straight;
      const int64_t steps = recomputes ? 6 : 12;
      for (int64_t step = 0; step < steps; ++step) {
        for (const auto& objective : {&plain, &other}) (*objective)->parameters().zero_grad();
        const MicroBatch batch = batch_of(step, 6);
        const LossSums afresh = run_afresh(*plain, batch, runner);
        ASSERT_EQ(difference(afresh, passes.run(batch), *plain, *other), "") << "step " << step;
        for (auto* adamw : {&plain_adamw, &other_adamw}) adamw->step(1e-3, 0.05, step + 1);
        for (const auto& objective : {&plain, &other}) (*objective)->after_step(step + 1);
      }
      // How many tokens V-JEPA's batches keep changes from step to step.
      if (c.keys.find("vjepa2, pred") == std::string::npos) {
        EXPECT_GT(passes.replays(), 0);
        EXPECT_EQ(recorder.runs + passes.replays(), steps);
      }
    }
}

// An objective that looks at what a recording must not know.
class Peeking : public Objective {
 public:
  explicit Peeking(bool peeks) : peeks_(peeks), parameters_(at::kFloat) {
    weight_ = parameters_.declare({"weight", {1}, 1, true, model::Init::kTruncNormal});
    parameters_.allocate(1);
  }
  model::Parameters& parameters() override { return parameters_; }
  objective::Draws draw(const MicroBatch& batch) const override {
    return {{at::full({}, double(batch.step), at::kFloat)}, {}};
  }
  LossSums loss(const MicroBatch& batch, const objective::Draws& draws,
                const model::BlockRunner&) override {
    const at::Tensor weighed = weight_.sum() * batch.video.to(at::kFloat).mean();
    return {peeks_ ? weighed * double(batch.step) : weighed * draws.tensors[0], {}};
  }
  std::vector<std::string> evaluation_columns() const override { return {"loss"}; }
  at::Tensor evaluate(const MicroBatch&) override { return {}; }
  nlohmann::ordered_json summarize(const at::Tensor&) const override { return {}; }
  std::string start_from(const objective::Weights&) override { return ""; }
  nlohmann::ordered_json config() const override { return {}; }
  double flops_per_clip() const override { return 0; }

 private:
  bool peeks_;
  model::Parameters parameters_;
  at::Tensor weight_;
};

// The test above can fail.
TEST(RecordedPasses, AnObjectiveThatLooksAtTheStepIsFoundOut) {
  for (const bool peeks : {false, true}) {
    Peeking plain(peeks), other(peeks);
    gpu::RecorderForTests recorder;
    RecordedPasses passes(other, recorder, kWeight, false, false);
    bool differs = false;
    for (int64_t step = 1; step < 6; ++step) {
      const MicroBatch batch = batch_of(step, 2);
      const LossSums afresh = run_afresh(plain, batch);
      differs |= !difference(afresh, passes.run(batch), plain, other).empty();
    }
    EXPECT_EQ(differs, peeks);
  }
}

// The last micro-batch of a step is shorter; gradients of both add up.
TEST(RecordedPasses, EveryShapeHasARecordingOfItsOwn) {
  const DeviceCase c = objective::device_cases()[0];
  const auto plain = make(c), other = make(c);
  gpu::RecorderForTests recorder;
  RecordedPasses passes(*other, recorder, kWeight, false, false);
  for (int64_t step = 0; step < 6; ++step)
    for (const int64_t clips : {4, 4, 2}) {
      const MicroBatch batch = batch_of(3 * step + clips, clips);
      const LossSums afresh = run_afresh(*plain, batch);
      ASSERT_EQ(difference(afresh, passes.run(batch), *plain, *other), "") << "step " << step;
    }
  EXPECT_EQ(recorder.records, 2);
  EXPECT_EQ(passes.replays(), 18 - 2 * RecordedPasses::kRunsBefore);
}

TEST(RecordedPasses, WhatCannotBeRecordedRunsAsItIs) {
  const DeviceCase c = objective::device_cases()[0];
  for (const bool refuses : {true, false}) {
    const auto plain = make(c), other = make(c);
    gpu::RecorderForTests recorder;
    recorder.refuses = refuses;
    RecordedPasses passes(*other, recorder, kWeight, false, false);
    for (int64_t step = 0; step < 12; ++step) {
      // Refused at the first try; or of another shape every time.
      const MicroBatch batch = batch_of(step, refuses ? 2 : step + 1);
      const LossSums afresh = run_afresh(*plain, batch);
      ASSERT_EQ(difference(afresh, passes.run(batch), *plain, *other), "") << "step " << step;
    }
    EXPECT_EQ(passes.replays(), 0);
    EXPECT_EQ(recorder.records, refuses ? 1 : 0);
  }
}

TEST(RecordedPasses, ReachTheDeviceInCopiesThatNobodyWaitsFor) {
  for (const DeviceCase& c : objective::device_cases()) {
    SCOPED_TRACE(c.keys);
    const auto objective = make(c);
    objective->move_to(at::kMeta);
    gpu::RecorderForTests recorder;
    RecordedPasses passes(*objective, recorder, kWeight, false, false);
    int drawn = 0;
    const model::MetaWatch watch;
    for (int64_t step = 0; step < 6; ++step) {
      const MicroBatch batch = batch_of(step, 6);
      for (const at::Tensor& tensor : objective->draw(batch).tensors) drawn += tensor.defined();
      const LossSums sums = passes.run(batch);
      EXPECT_TRUE(sums.loss.is_meta() && !sums.loss.requires_grad());
    }
    EXPECT_EQ(fmt::format("{}", fmt::join(watch.faults(), "; ")), "");
    EXPECT_TRUE(watch.downloads().empty());
    EXPECT_EQ(watch.uploads(), 6 * 3 + drawn);
  }
}

TEST(RecordedPasses, WhereTheyCannotBeTheReasonIsNamed) {
  const auto says = [](const RecordingNeeds& needs, const char* part) {
    return why_not_recorded(needs).find(part) != std::string::npos;
  };
  EXPECT_EQ(why_not_recorded({true, 1, false, false}), "");
  EXPECT_EQ(why_not_recorded({true, 4, false, false}), "");
  EXPECT_TRUE(says({false, 1, false, false}, "on the CPU"));
  EXPECT_TRUE(says({true, 4, true, false}, "4 ranks"));
  EXPECT_TRUE(says({true, 1, false, true}, "debug.anomaly"));
}

using RecordedRun = TinyRun;

// Leaves a file where a recording is made: runs are processes of their own.
class MarkingRecorder : public gpu::RecorderForTests {
 public:
  explicit MarkingRecorder(std::string path) : path_(std::move(path)) {}
  std::unique_ptr<gpu::Recording> record(const std::function<void()>& work) override {
    publish(default_env(), path_, "");
    return RecorderForTests::record(work);
  }

 private:
  std::string path_;
};

// Two micro-batches a step, an activation's norm looked at in between, clipping, a stop.
TEST_F(RecordedRun, GivesTheWeightsOfAnyOtherRun) {
  const std::vector<std::string> keys = {"micro_batch_size=2", "debug.norms_every=4",
                                         "optimizer.clip_grad=0.5"};
  ASSERT_EQ(train_ranks(1, folder() + "/plain", keys), zeros(1));
  MarkingRecorder recorder(folder() + "/mark");
  recorder_ = &recorder;
  auto recorded = keys;
  recorded.push_back("train.cuda_graph=always");
  const auto code = train_ranks(1, folder() + "/recorded", recorded);
  recorder_ = nullptr;
  ASSERT_EQ(code, zeros(1));
  EXPECT_EQ(essence(folder() + "/plain", 1), essence(folder() + "/recorded", 1));
  EXPECT_TRUE(disk->status(folder() + "/mark").exists) << "nothing was recorded";
}

// Ranks of one clip and of two a step, where gradients are sent after the last pass.
TEST_F(RecordedRun, OfSeveralRanksSendsGradientsAfterThePasses) {
  const std::vector<std::string> keys = {"batch_size=3", "micro_batch_size=1",
                                         "train.shard=optimizer", "reduce.overlap=false"};
  ASSERT_EQ(train_ranks(2, folder() + "/two", keys), zeros(2));
  MarkingRecorder recorder(folder() + "/two-mark");
  recorder_ = &recorder;
  auto recorded = keys;
  recorded.push_back("train.cuda_graph=always");
  const auto codes = train_ranks(2, folder() + "/two-recorded", recorded);
  recorded.back() = "train.cuda_graph=auto";
  recorded.push_back("reduce.overlap=true");
  const auto with_overlap = train_ranks(2, folder() + "/two-overlap", recorded);
  recorder_ = nullptr;
  ASSERT_EQ(codes, zeros(2));
  EXPECT_EQ(essence(folder() + "/two", 2), essence(folder() + "/two-recorded", 2));
  EXPECT_TRUE(disk->status(folder() + "/two-mark").exists) << "nothing was recorded";
  EXPECT_EQ(with_overlap, zeros(2));
  EXPECT_EQ(essence(folder() + "/two", 2), essence(folder() + "/two-overlap", 2));
}

TEST_F(RecordedRun, OnACpuIsRefusedWhereItMustBeAndDoneWithoutWhereNot) {
  ASSERT_EQ(train_ranks(1, folder() + "/must", {"train.cuda_graph=always"}),
            std::vector<int>{exit_code(ErrorKind::kUsage)});
  const std::string said = read_text(disk, folder() + "/must.said-0");
  EXPECT_TRUE(said.find("train.cuda_graph = always") != std::string::npos &&
              said.find("on the CPU") != std::string::npos)
      << said;
  EXPECT_EQ(train_ranks(1, folder() + "/auto", {"train.cuda_graph=auto", "steps=1"}), zeros(1));
}

}  // namespace
}  // namespace keiko::train
