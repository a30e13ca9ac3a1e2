#include "my_objective.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <cmath>

#include "base/error.h"
#include "base/rng.h"
#include "model/upload.h"
#include "model/videomae.h"

namespace {

using namespace keiko;
using objective::LossSums;
using objective::MicroBatch;

class ArrowOfTime : public objective::Objective {
 public:
  // Members are made in their order below: the grid, then parameters that the network declares;
  // allocate() gives them their first values, each from (seed, its name).
  ArrowOfTime(const ArrowOfTimeOptions& options, const objective::ObjectiveContext& context)
      : options_(options),
        seed_(context.seed),
        grid_(make_grid(options.vit, context.num_frames, context.size)),
        parameters_(context.dtype),
        network_(parameters_, options.vit, grid_, {2}) {
    if (!context.dry_run) parameters_.allocate(seed_);
  }

  model::Parameters& parameters() override { return parameters_; }

  // Sums, never means: the loop divides by the clips of the whole batch, on whatever rank they are.
  // What draw() gave is beside the clips here, in the same order.
  objective::Draws draw(const MicroBatch& batch) const override {
    return {{draw_answers(batch.positions)}, {}};
  }
  LossSums loss(const MicroBatch& batch, const objective::Draws& draws,
                const model::BlockRunner& runner) override {
    const at::Tensor& answer = draws.tensors[0];
    const at::Tensor logits = forward(show(batch.video, answer), runner);
    return {at::cross_entropy_loss(logits, answer, {}, at::Reduction::Sum),
            logits.detach().argmax(1).eq(answer).sum().to(at::kDouble).view({1})};
  }
  std::vector<std::string> metric_names() const override { return {"accuracy"}; }

  // Evaluation shows every clip both ways, so that nothing is drawn: a network that does not look
  // at time is right exactly half of the time.
  std::vector<std::string> evaluation_columns() const override { return {"loss", "accuracy"}; }
  at::Tensor evaluate(const MicroBatch& batch) override {
    const c10::NoGradGuard no_grad;
    at::Tensor rows = at::zeros({batch.video.size(0), 2}, batch.video.options().dtype(at::kDouble));
    for (const int64_t truth : {0, 1}) {
      const at::Tensor answer =
          at::full({batch.video.size(0)}, truth, batch.video.options().dtype(at::kLong));
      const at::Tensor logits =
          forward(show(batch.video, answer), model::BlockRunner()).to(at::kDouble);
      rows.select(1, 0) += at::cross_entropy_loss(logits, answer, {}, at::Reduction::None) / 2;
      rows.select(1, 1) += logits.argmax(1).eq(answer).to(at::kDouble) / 2;
    }
    return rows.cpu();
  }
  nlohmann::ordered_json summarize(const at::Tensor& rows) const override {
    nlohmann::ordered_json out = {{"clips", rows.size(0)},
                                  {"loss", rows.select(1, 0).mean().item<double>()},
                                  {"chance_loss", std::log(2.0)},
                                  {"accuracy", rows.select(1, 1).mean().item<double>()}};
    if (rows.size(0) > 1)
      out["accuracy_standard_error"] =
          rows.select(1, 1).std().item<double>() / std::sqrt(double(rows.size(0)));
    return out;
  }

  // The encoder of any VideoMAE; what is on top of it belongs to another task and stays there.
  std::string start_from(const objective::Weights& weights) override {
    std::vector<model::NamedTensor> encoder;
    for (const auto& tensor : weights.model)
      if (is_of_encoder(tensor.first)) encoder.push_back(tensor);
    const auto unmatched = parameters_.load(encoder);
    objective::refuse_lost_positions(unmatched.unused);
    for (const std::string& name : unmatched.missing)
      if (is_of_encoder(name)) fail(ErrorKind::kData, "init_from: the checkpoint has no {}", name);
    return fmt::format("encoder taken ({} tensors); the head starts afresh", encoder.size());
  }

  // Parameters have transformers' names, so a checkpoint opens there as a classifier.
  nlohmann::ordered_json config() const override {
    return model::videomae_config(options_.vit, nullptr, grid_, false,
                                  {"as_filmed", options_.change});
  }

  // For `keiko preview`: the answers as a tensor, and each clip beside what the network sees.
  std::vector<model::NamedTensor> fields(const MicroBatch& batch) override {
    return {{"changed", draw_answers(batch.positions)}};
  }
  at::Tensor picture(const MicroBatch& batch) override {
    return at::stack({batch.video, show(batch.video, answers_beside(batch))}, 1).cpu();
  }

  // Layer-wise decay of the learning rate (optimizer.layer_decay) counts down from the head.
  int head_block() const override { return int(options_.vit.depth) + 1; }

  double flops_per_clip() const override {
    const auto& v = options_.vit;
    const int64_t n = grid_.count();
    const double embed = 2.0 * double(n) * double(grid_.patch_values()) * double(v.width);
    return 3 * (embed + model::blocks_flops(v.depth, n, v.width, v.mlp_width()));
  }

 private:
  static bool is_of_encoder(const std::string& name) { return name.rfind("videomae.", 0) == 0; }

  // int64 [b] on the CPU: 1 where the clip is shown changed.
  at::Tensor draw_answers(const std::vector<int64_t>& positions) const {
    at::Tensor answer = at::empty({int64_t(positions.size())}, at::kLong);
    for (size_t i = 0; i < positions.size(); ++i)
      answer.data_ptr<int64_t>()[i] = is_changed(seed_, positions[i]) ? 1 : 0;
    return answer;
  }

  // The same where the clips are; nobody waits for the copy.
  at::Tensor answers_beside(const MicroBatch& batch) const {
    return model::upload(draw_answers(batch.positions), batch.video.device());
  }

  // uint8 [b, 3, T, H, W], with the clips changed whose answer is 1.
  at::Tensor show(const at::Tensor& video, const at::Tensor& answer) const {
    const at::Tensor changed =
        options_.change == "reverse" ? video.flip({2}) : video.roll({video.size(2) / 2}, {2});
    return at::where(answer.to(at::kBool).view({-1, 1, 1, 1, 1}), changed, video);
  }

  // Logits [b, 2]: as filmed, changed.
  at::Tensor forward(const at::Tensor& video, const model::BlockRunner& runner) const {
    const at::Tensor patches =
        normalise_patches(model::patchify(video, grid_), grid_, parameters_.dtype());
    return network_.forward(patches, /*keep=*/{}, runner);
  }

  ArrowOfTimeOptions options_;
  uint64_t seed_;
  model::TokenGrid grid_;
  model::Parameters parameters_;
  model::VideoMaeClassifier network_;
};

}  // namespace

bool is_changed(uint64_t seed, int64_t position) {
  // Keiko's masks draw from this stream, too, but never from this far on.
  constexpr uint32_t kFirstDraw = 1u << 31;
  return Rng(seed, Stream::kMask, uint64_t(position), kFirstDraw).below(2) == 1;
}

void ArrowOfTimeOptions::bind(config::Binder& b) {
  vit.bind(b, model::Family::kVideoMae);
  b.choice("change", change, {"reverse", "swap_halves"}, "how half of the clips are changed");
}

std::unique_ptr<objective::Objective> ArrowOfTimeOptions::make(
    const objective::ObjectiveContext& context) const {
  if (change == "swap_halves" && context.num_frames % 2 != 0)
    fail(ErrorKind::kUsage, "clip.num_frames = {} has no two equal halves to swap; use {}",
         context.num_frames, context.num_frames + 1);
  return std::make_unique<ArrowOfTime>(*this, context);
}
