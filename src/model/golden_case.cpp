#include "model/golden_case.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "base/error.h"

namespace keiko::model {
namespace {

double scaled_error(const at::Tensor& got, const at::Tensor& want) {
  const at::Tensor a = got.detach().to(at::kDouble), b = want.to(at::kDouble);
  if (a.sizes() != b.sizes()) return HUGE_VAL;
  return ((a - b).abs().max() / b.abs().max()).item<double>();
}

// Keeps what every block was given.
class Recorder : public BlockRunner {
 public:
  at::Tensor run(int, const Forward& forward, const at::Tensor& input) const override {
    inputs.push_back(input);
    output = forward(input);
    return output;
  }
  mutable std::vector<at::Tensor> inputs;
  mutable at::Tensor output;  // of the last block
};

class Checker {
 public:
  Checker(const GoldenCase& golden, const GoldenTolerance& t)
      : golden_(golden),
        t_(t),
        config_(read_published_config(golden.config, golden.name)),
        parameters_(t.dtype) {
    if (golden.change) golden.change(config_);
  }

  std::vector<GoldenCheck> run() {
    switch (config_.kind) {
      case PublishedKind::kVideoMaePretraining:
        pretraining();
        break;
      case PublishedKind::kVideoMaeClassifier:
        videomae_classifier();
        break;
      case PublishedKind::kVJepa2:
        vjepa2();
        break;
      case PublishedKind::kVJepa2Classifier:
        vjepa2_classifier();
        break;
      case PublishedKind::kVideoMae:
        fail(ErrorKind::kData, "{}: no check for a bare encoder", golden_.name);
    }
    return std::move(checks_);
  }

 private:
  bool has(const std::string& name) const {
    return std::any_of(golden_.expected.tensors.begin(), golden_.expected.tensors.end(),
                       [&](const NamedTensor& entry) { return entry.first == name; });
  }
  at::Tensor expected(const std::string& name) const { return golden_.expected.get(name); }
  void output(const std::string& name, const at::Tensor& got) {
    checks_.push_back({name, scaled_error(got, expected(name)), t_.output});
  }
  void loss(const std::string& name, const at::Tensor& got) {
    const double want = expected(name).item<double>();
    checks_.push_back({name, std::abs(got.item<double>() / want - 1), t_.loss});
  }
  // Hidden states: what each block was given, and what the last one gave.
  void hidden_states(const Recorder& recorder, int64_t depth) {
    for (int64_t i = 0; i <= depth; ++i) {
      const std::string name = fmt::format("mid.hidden_states.{}", i);
      if (!has(name)) continue;
      output(name,
             size_t(i) < recorder.inputs.size() ? recorder.inputs[size_t(i)] : recorder.output);
    }
  }
  void load(Parameters& parameters) {
    parameters.allocate(1);
    auto unmatched = parameters.load(golden_.weights.tensors);
    // A classifier's file holds a predictor, which the classifier does not use.
    std::erase_if(unmatched.unused,
                  [](const std::string& name) { return name.rfind("vjepa2.predictor.", 0) == 0; });
    checks_.push_back({"weights without a place, or missing",
                       double(unmatched.missing.size() + unmatched.unused.size()), 0});
  }
  // All gradients that the fixture holds under `prefix`, and none that it does not.
  void gradients(const std::string& prefix) {
    double unexpected = 0;
    int64_t unvisited = 0;
    for (const auto& [name, tensor] : golden_.expected.tensors)
      unvisited += name.rfind(prefix, 0) == 0;
    for (const Parameter& p : parameters_.all()) {
      const std::vector<std::string> names =
          p.spec.parts.empty() ? std::vector<std::string>{p.spec.name} : p.spec.parts;
      const auto chunks = p.value.grad().chunk(int64_t(names.size()), 0);
      for (size_t i = 0; i < names.size(); ++i) {
        const std::string name = prefix + names[i];
        if (!has(name)) {
          const double size = chunks[i].abs().max().item<double>();
          unexpected = size <= unexpected ? unexpected : size;  // NaN counts
          continue;
        }
        --unvisited;
        // Zero in exact arithmetic: softmax cancels what all keys share.
        if (names[i].ends_with("k_proj.bias"))
          checks_.push_back({name, (chunks[i] - expected(name)).abs().max().item<double>(),
                             t_.dtype == at::kDouble ? 1e-12 : 1e-6});
        else
          checks_.push_back({name, scaled_error(chunks[i], expected(name)), t_.gradient});
      }
    }
    checks_.push_back({prefix + "* of parameters the loss does not reach", unexpected, 0});
    checks_.push_back({prefix + "* that no parameter has", double(unvisited), 0});
  }
  TokenGrid grid_of(const at::Tensor& clip) const {  // [B, T, C, H, W]
    return make_grid(config_.vit, clip.size(1), clip.size(3), clip.size(4));
  }
  at::Tensor patches_of(const at::Tensor& clip) const {
    return patchify(clip.to(t_.dtype).permute({0, 2, 1, 3, 4}), grid_of(clip));
  }
  static at::Tensor all_ids(const at::Tensor& patches) {
    return at::arange(patches.size(1), at::kLong).unsqueeze(0).expand({patches.size(0), -1});
  }

  void pretraining() {
    const at::Tensor clip = expected("in.pixel_values"), mask = expected("in.bool_masked_pos");
    const TokenGrid grid =
        make_grid(config_.vit, config_.num_frames, config_.height, config_.width);
    DecoderOptions decoder = config_.decoder;
    const VideoMaePretraining model(parameters_, config_.vit, decoder, grid);
    load(parameters_);
    const int64_t b = mask.size(0);
    const auto ids_where = [&](const at::Tensor& m) {
      return at::nonzero(m).select(1, 1).view({b, -1});
    };
    const at::Tensor visible = ids_where(mask.logical_not()), masked = ids_where(mask);
    const at::Tensor patches = patches_of(clip);
    const at::Tensor seen = gather_tokens(patches, visible);
    Recorder recorder;
    output("out.last_hidden_state", model.encoder().forward(seen, visible, {}, recorder));
    hidden_states(recorder, config_.vit.depth);
    Recorder whole;
    const at::Tensor logits = model.forward(seen, visible, masked, whole);
    if (has("mid.decoder_input"))
      output("mid.decoder_input", whole.inputs[size_t(config_.vit.depth)]);
    output("out.logits", logits);

    // The fixture's input is normalised: back to [0, 1] with the same constants.
    const at::Tensor mean = at::tensor(at::ArrayRef<float>(kImageNetMean, 3)).to(t_.dtype);
    const at::Tensor std = at::tensor(at::ArrayRef<float>(kImageNetStd, 3)).to(t_.dtype);
    const at::Tensor input = clip.to(t_.dtype);
    const at::Tensor raw = golden_.target_from_input
                               ? input
                               : input * std.view({1, 1, 3, 1, 1}) + mean.view({1, 1, 3, 1, 1});
    const at::Tensor hidden = gather_tokens(patches_of(raw), masked);
    const at::Tensor target = golden_.target ? golden_.target(hidden, grid, config_.norm_pix_loss)
                                             : videomae_target(hidden, grid, config_.norm_pix_loss);
    // Un-normalising loses digits in float32: the loss is taken against the fixture's own target
    // there.
    const bool is_double = t_.dtype == at::kDouble;
    checks_.push_back(
        {"mid.labels", scaled_error(target, expected("mid.labels")), is_double ? t_.output : 1e-4});
    const at::Tensor l =
        at::mse_loss(logits, is_double ? target : expected("mid.labels").to(t_.dtype));
    loss("out.loss", l);
    l.backward();
    gradients("grad.");
  }

  void videomae_classifier() {
    const at::Tensor clip = expected("in.pixel_values");
    const TokenGrid grid =
        make_grid(config_.vit, config_.num_frames, config_.height, config_.width);
    const VideoMaeClassifier model(
        parameters_, config_.vit, grid,
        {golden_.weights.get("classifier.weight").size(0), config_.mean_pooling, golden_.head_eps});
    load(parameters_);
    const at::Tensor patches = patches_of(clip);
    Recorder recorder;
    const at::Tensor tokens =
        model.encoder().forward(patches, model.all_ids().expand({clip.size(0), -1}), {}, recorder);
    output("out.last_hidden_state", tokens);
    hidden_states(recorder, config_.vit.depth);
    if (has("mid.pooled")) output("mid.pooled", model.pool(tokens));
    const at::Tensor logits = model.forward(patches, {}, BlockRunner());
    output("out.logits", logits);
    const at::Tensor l = at::cross_entropy_loss(logits, expected("in.labels"));
    loss("out.loss", l);
    l.backward();
    gradients("grad.");
  }

  at::Tensor l1(const at::Tensor& prediction, const at::Tensor& teacher_tokens) const {
    const at::Tensor target = golden_.normalise_target
                                  ? vjepa2_target(teacher_tokens, golden_.target_eps)
                                  : teacher_tokens.detach();
    return (prediction - target).abs().mean();
  }

  void vjepa2() {
    const at::Tensor clip = expected("in.pixel_values_videos");
    const at::Tensor context = expected("in.context_mask"), wanted = expected("in.target_mask");
    const VJepa2Encoder encoder(parameters_, config_.vit, config_.side(), "");
    const VJepa2Predictor predictor(parameters_, config_.vit, config_.predictor, config_.side(),
                                    "");
    load(parameters_);
    const BlockRunner runner;
    const at::Tensor patches = patches_of(clip), ids = all_ids(patches);
    const auto predict = [&](const at::Tensor& tokens, const at::Tensor& from,
                             const at::Tensor& to) {
      if (!golden_.restart_positions) return predictor.forward(tokens, from, to, {}, runner).target;
      const auto restart = [&](const at::Tensor& m) {
        return at::arange(m.size(1), at::kLong).unsqueeze(0).expand({m.size(0), -1});
      };
      return predictor.forward(tokens, restart(from), restart(to), {}, runner).target;
    };

    Recorder recorder;
    const at::Tensor tokens = encoder.forward(patches, ids, {}, recorder);
    output("out.last_hidden_state", tokens);
    hidden_states(recorder, config_.vit.depth);
    output("out.masked_hidden_state", gather_tokens(tokens, context));
    output("out.predictor.target_hidden_state", gather_tokens(tokens, wanted));
    const at::Tensor predicted = predict(gather_tokens(tokens, context), context, wanted);
    output("out.predictor.last_hidden_state", predicted);
    const at::Tensor l = l1(predicted, gather_tokens(tokens, wanted));
    loss("out.loss", l);
    l.backward();
    gradients("grad.");

    if (has("train.loss")) {
      parameters_.zero_grad();
      const at::Tensor seen = encoder.forward(gather_tokens(patches, context), context, {}, runner);
      output("train.context_hidden_state", seen);
      const at::Tensor trained = predict(seen, context, wanted);
      output("train.predictor.last_hidden_state", trained);
      const at::Tensor training_loss = l1(trained, gather_tokens(tokens.detach(), wanted));
      loss("train.loss", training_loss);
      training_loss.backward();
      gradients("train.grad.");
    }
    if (has("full.predictor.last_hidden_state"))
      output("full.predictor.last_hidden_state", predict(tokens, ids, ids));
    if (has("image.last_hidden_state")) {
      const at::Tensor frames =
          patches_of(expected("in.image").repeat({1, config_.vit.tubelet_size, 1, 1, 1}));
      output("image.last_hidden_state", encoder.forward(frames, all_ids(frames), {}, runner));
    }
    if (has("long.last_hidden_state")) {
      const at::Tensor frames = patches_of(expected("in.long_clip"));
      output("long.last_hidden_state", encoder.forward(frames, all_ids(frames), {}, runner));
    }
    if (has("rope.output")) {
      const at::Tensor x = expected("rope.input").to(t_.dtype);
      const at::Tensor raster = at::arange(x.size(2), at::kLong).unsqueeze(0);
      for (const auto& [order, name] :
           {std::pair(config_.vit.positions, "rope.output"),
            std::pair(std::string("rope_interleaved"), "rope.output_interleaved")})
        if (has(name))
          output(name, rotate(x, make_rotation(raster, rope_frequencies(x.size(3), order),
                                               config_.side(), t_.dtype)));
    }
  }

  void vjepa2_classifier() {
    const char* input =
        has("in.pixel_values_videos") ? "in.pixel_values_videos" : "in.pixel_values";
    const VJepa2Classifier model(parameters_, config_.vit, config_.side(), config_.pooler,
                                 golden_.weights.get("classifier.weight").size(0));
    load(parameters_);
    const at::Tensor patches = patches_of(expected(input)), ids = all_ids(patches);
    Recorder recorder;
    const at::Tensor tokens = model.encoder().forward(patches, ids, {}, recorder);
    output("out.last_hidden_state", tokens);
    hidden_states(recorder, config_.vit.depth);
    if (has("mid.pooled")) output("mid.pooled", model.pooler().forward(tokens, BlockRunner()));
    const at::Tensor logits = model.forward(patches, ids, {}, BlockRunner());
    output("out.logits", logits);
    const at::Tensor l = at::cross_entropy_loss(logits, expected("in.labels"));
    loss("out.loss", l);
    l.backward();
    gradients("grad.");
  }

  const GoldenCase& golden_;
  GoldenTolerance t_;
  PublishedConfig config_;
  Parameters parameters_;
  std::vector<GoldenCheck> checks_;
};

}  // namespace

std::vector<std::string> golden_folders(const std::string& root) {
  std::vector<std::string> folders;
  for (const auto& entry : std::filesystem::directory_iterator(root))
    if (default_env()->status(entry.path().string() + "/case.safetensors").exists)
      folders.push_back(entry.path().string());
  std::sort(folders.begin(), folders.end());
  return folders;
}

GoldenCase load_golden(const std::string& folder) {
  GoldenCase golden;
  golden.name = folder;
  golden.config = nlohmann::json::parse(read_text(default_env(), folder + "/config.json"));
  golden.weights = read_safetensors(default_env(), folder + "/model.safetensors");
  golden.expected = read_safetensors(default_env(), folder + "/case.safetensors");
  return golden;
}

std::vector<GoldenCheck> check_golden(const GoldenCase& golden, const GoldenTolerance& tolerance) {
  return Checker(golden, tolerance).run();
}

}  // namespace keiko::model
