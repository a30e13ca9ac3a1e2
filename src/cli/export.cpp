#include <ATen/ATen.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <numeric>

#include "base/error.h"
#include "base/hash.h"
#include "base/json_text.h"
#include "cli/command.h"
#include "cli/model_folder.h"
#include "objective/regression.h"
#include "report/metrics.h"
#include "report/progress.h"
#include "train/recipe.h"

namespace keiko::cli {
namespace {

using model::PublishedKind;

struct ExportOptions {
  std::string source, out, weights = "model", dtype = "float32";
  int64_t step = -1;
  bool force = false;
};

constexpr const char* kHelp =
    "Write a run's weights as a folder that transformers opens\n"
    "Besides config.json and model.safetensors the folder gets a preprocessor configuration and a\n"
    "model card. Every tensor is accounted for: what transformers has no place for is named and\n"
    "left out.";

const std::map<std::string, at::ScalarType> kDtypes = {{"float32", at::kFloat},
                                                       {"float64", at::kDouble},
                                                       {"bfloat16", at::kBFloat16},
                                                       {"float16", at::kHalf}};

class Export {
 public:
  explicit Export(const ExportOptions& options)
      : options_(options),
        source_(open_model(options.source, options.step, options.weights)),
        config_(source_.model.config),
        json_(source_.model.config_json) {}

  void run() {
    refuse_foreign_positions();
    choose_tensors();
    FolderDraft draft(default_env(), options_.out);
    write_weights(draft);
    complete_config();
    draft.write_text("config.json", json_text(json_, 2) + "\n");
    draft.write_text(
        config_.is_vjepa2() ? "video_preprocessor_config.json" : "preprocessor_config.json",
        json_text(preprocessor(), 2) + "\n");
    draft.write_text("README.md", model_card());
    draft.publish();
    report();
  }

 private:
  bool has_foreign_positions() const {
    return config_.vit.positions != (config_.is_vjepa2() ? "rope" : "sinusoid");
  }
  void refuse_foreign_positions() const {
    if (!has_foreign_positions() || options_.force) return;
    fail(ErrorKind::kUsage,
         "{}: its positions are \"{}\", but transformers' {} always has \"{}\" ones: it would open "
         "the folder and compute something else. --force writes it all the same, for Keiko to read",
         options_.source, config_.vit.positions, class_of(config_.kind),
         config_.is_vjepa2() ? "rope" : "sinusoid");
  }

  bool has_predictor() const {
    const auto& tensors = source_.model.weights->tensors();
    return std::any_of(tensors.begin(), tensors.end(), [](const model::StoredTensor& t) {
      return t.name.find("predictor.") != std::string::npos;
    });
  }

  void choose_tensors() {
    const auto& stored = source_.model.weights->tensors();
    // transformers' V-JEPA classes always have a predictor. Without a trained one it gets the least
    // there can be: no blocks, a few zeros, which nothing but the predictor's own output reads.
    if (config_.is_vjepa2() && !has_predictor()) {
      config_.predictor.width = 6;
      config_.predictor.depth = 0;
      config_.predictor.heads = 1;
      config_.predictor.mask_tokens = 1;
      config_.predictor.mask_token = 0;
      is_predictor_empty_ = true;
    }
    model::declare_published(declared_, config_, count_classes(*source_.model.weights));
    model::TensorAccount account = account_for(stored, declared_);
    if (is_predictor_empty_)
      std::erase_if(account.missing, [](const std::string& name) {
        return name.find("predictor.") != std::string::npos;
      });
    left_out_ = std::move(account.extra);
    account.extra.clear();
    if (!account.is_even())
      fail(ErrorKind::kData, "{}: does not hold the {} that its config.json describes:{}",
           source_.model.path, class_of(config_.kind), account.text());
    if (source_.has_target_statistics())  // they are in the head
      std::erase_if(left_out_, [](const std::string& name) {
        return name == objective::kTargetMean || name == objective::kTargetStd;
      });
    if (left_out_.size() == stored.size())
      fail(ErrorKind::kData, "{}: none of its {} tensors has a place in transformers' {}",
           source_.model.path, stored.size(), class_of(config_.kind));
  }

  // The name in the file that transformers itself would write.
  std::string exported_name(const std::string& name) const {
    return config_.kind == PublishedKind::kVideoMae ? name.substr(std::string("videomae.").size())
                                                    : name;
  }

  void write_weights(FolderDraft& draft) {
    const at::ScalarType dtype = kDtypes.at(options_.dtype);
    std::map<std::string, const model::StoredTensor*> stored;
    for (const auto& tensor : source_.model.weights->tensors()) stored[tensor.name] = &tensor;
    model::Parameters scratch(at::kFloat);
    const std::string prefix = config_.kind == PublishedKind::kVJepa2Classifier ? "vjepa2." : "";
    const model::VJepa2Predictor predictor(scratch, config_.vit, config_.predictor, config_.side(),
                                           prefix);
    std::vector<model::TensorEntry> entries;
    std::vector<std::string> names;
    for (const auto& [name, shape] : declared_.published_shapes()) {
      entries.push_back({exported_name(name), dtype, shape});
      names.push_back(name);
      parameters_ += std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
    }
    model::write_safetensors(default_env(), draft.path("model.safetensors"), entries,
                             [&](size_t i) {
                               const auto found = stored.find(names[i]);
                               if (found == stored.end()) return at::zeros(entries[i].shape, dtype);
                               at::Tensor value = source_.read(*found->second).to(dtype);
                               if (config_.is_vjepa2())
                                 value = predictor.for_export({{names[i], value}})[0].second;
                               return value;
                             },
                             {{"format", "pt"}});
  }

  void complete_config() {
    json_["architectures"] = {class_of(config_.kind)};
    json_.erase("torch_dtype");
    json_["dtype"] = options_.dtype;
    if (!config_.is_vjepa2()) return;
    json_["pred_hidden_size"] = config_.predictor.width;
    json_["pred_num_hidden_layers"] = config_.predictor.depth;
    json_["pred_num_attention_heads"] = config_.predictor.heads;
    json_["pred_mlp_ratio"] = config_.predictor.mlp_ratio;
    json_["pred_num_mask_tokens"] = config_.predictor.mask_tokens;
    json_["keiko_mask_token"] = 1 % config_.predictor.mask_tokens;
  }

  // The centre square, as Keiko's evaluation cuts it.
  nlohmann::ordered_json preprocessor() const {
    nlohmann::ordered_json p;
    const bool is_vjepa2 = config_.is_vjepa2();
    p[is_vjepa2 ? "video_processor_type" : "image_processor_type"] =
        is_vjepa2 ? "VJEPA2VideoProcessor" : "VideoMAEImageProcessor";
    p["do_resize"] = true;
    p["size"]["shortest_edge"] = std::min(config_.height, config_.width);
    p["resample"] = 2;  // PIL's number for bilinear
    p["do_center_crop"] = true;
    p["crop_size"] = {{"height", config_.height}, {"width", config_.width}};
    p["do_rescale"] = true;
    p["rescale_factor"] = 1.0 / 255;
    p["do_normalize"] = true;
    // Written as decimals: as floats they would read 0.48500001430511475.
    p["image_mean"] = {0.485, 0.456, 0.406};
    p["image_std"] = {0.229, 0.224, 0.225};
    return p;
  }

  std::string model_card() const {
    const bool is_classifier = config_.is_classifier();
    // A model that was imported keeps its own card and licence.
    const std::string own = source_.model.path + "/README.md";
    if (default_env()->status(own).exists) return read_text(default_env(), own);
    std::string card = fmt::format(
        "---\nlibrary_name: transformers\n{}tags:\n- video\n- keiko\n---\n\n# {}\n\n"
        "{}, {}, {} parameters in {}. ",
        is_classifier ? "pipeline_tag: video-classification\n" : "", card_title(),
        class_of(config_.kind), describe(config_), report::count_text(parameters_), options_.dtype);
    card += source_.step >= 0 ? fmt::format("Trained with Keiko for {} steps{}.\n",
                                            report::count_text(source_.step),
                                            source_.ema ? ", running average of the weights" : "")
                              : "Written by Keiko.\n";
    if (!source_.run_folder.empty()) card += training();
    card += fmt::format(
        "\n## Use\n\n```python\nfrom transformers import {0}\nmodel = {0}.from_pretrained(\"path "
        "of "
        "this folder\")\n```\n\nInput: clips of {1} frames of {2} x {3}, RGB in [0, 1] minus {4} "
        "over {5}.\n",
        class_of(config_.kind), config_.num_frames, config_.height, config_.width,
        "(0.485, 0.456, 0.406)", "(0.229, 0.224, 0.225)");
    if (has_foreign_positions())
      card += fmt::format(
          "\n**transformers does not compute this model**: its positions are `{}`, which only "
          "Keiko "
          "has.\n",
          config_.vit.positions);
    if (is_predictor_empty_)
      card +=
          "\nThe predictor is empty: none was trained, and transformers' class has one in any "
          "case. Encoder and classifier do not use it.\n";
    if (!left_out_.empty()) {
      card += "\nLeft out, because transformers has no place for it:";
      for (const std::string& name : left_out_) card += " `" + name + "`";
      card += ".\n";
    }
    card += "\nLicence: not stated. Whoever publishes this model adds `license:` above.\n";
    return card;
  }

  std::string card_title() const {
    const std::string& path = source_.run_folder.empty() ? options_.source : source_.run_folder;
    const std::filesystem::path folder = std::filesystem::path(path + "/").parent_path();
    return folder.filename().string();
  }

  // What the run did, and what it measured at this step.
  std::string training() const {
    const train::Recipe recipe = train::load_recipe(source_.run_folder + "/recipe.yaml", {});
    std::string text = fmt::format(
        "\n## Training\n\nObjective `{}`, batches of {} clips, base learning rate {:g}, seed {}; "
        "recipe {} by its hash.\n",
        recipe.objective.name, recipe.batch_size, recipe.optimizer.base_lr, recipe.seed,
        hex64(train::defining_hash(recipe)).substr(0, 8));
    const std::string metrics = source_.run_folder + "/metrics.jsonl";
    if (!default_env()->status(metrics).exists) return text;
    for (const auto& line : report::read_json_lines(default_env(), metrics))
      if (line.value("kind", "") == "eval" && line.value("step", int64_t{-1}) == source_.step) {
        text += "\nHeld-out data:\n\n| figure | value |\n|---|---|\n";
        for (const auto& [key, value] : line.items())
          if (value.is_number() && key != "step" && key != "time")
            text += fmt::format("| {} | {} |\n", key, value.dump());
      }
    return text;
  }

  void report() const {
    const auto line = [](const char* name, const std::string& text) {
      std::printf("%-12s %s\n", name, text.c_str());
    };
    line("from", source_.model.path +
                     (source_.step >= 0 ? ", step " + report::count_text(source_.step) : ""));
    line("model", class_of(config_.kind) + ", " + describe(config_));
    line("parameters", report::count_text(parameters_) + " in " + options_.dtype);
    if (source_.ema)
      line("average", fmt::format("{} tensors are running averages, the others are not averaged",
                                  source_.ema_count()));
    if (source_.has_target_statistics())
      line("targets", "mean and spread are in the head, which says the targets in their own units");
    for (const std::string& name : left_out_)
      line("left out", name + ": transformers has no place for it");
    if (is_predictor_empty_)
      line("predictor", "none was trained; transformers' class gets one without blocks");
    else if (config_.is_vjepa2())
      line("mask token",
           fmt::format("{} of {}, which was trained, is in the place that "
                       "transformers reads ({})",
                       config_.predictor.mask_token % config_.predictor.mask_tokens,
                       config_.predictor.mask_tokens, 1 % config_.predictor.mask_tokens));
    if (has_foreign_positions())
      line("NOTE", "transformers does not compute this model: positions " + config_.vit.positions);
    line("written", options_.out + ": config.json, model.safetensors, README.md, preprocessor");
  }

  const ExportOptions& options_;
  ModelSource source_;
  model::PublishedConfig config_;
  nlohmann::ordered_json json_;
  model::Parameters declared_{at::kFloat};  // never allocated
  std::vector<std::string> left_out_;
  bool is_predictor_empty_ = false;
  int64_t parameters_ = 0;
};

}  // namespace

void add_export(CLI::App& app, Action& action) {
  auto* c = app.add_subcommand("export", kHelp);
  auto o = std::make_shared<ExportOptions>();
  c->add_option("source", o->source, "A run folder, a checkpoint, or an imported model")
      ->required();
  c->add_option("--out", o->out, "The new folder; must not exist")->required();
  c->add_option("--step", o->step, "Of a run: the checkpoint of this step; default: the newest")
      ->check(CLI::NonNegativeNumber);
  c->add_option("--weights", o->weights,
                "model, or ema: the running average, where the run keeps one")
      ->check(CLI::IsMember({"model", "ema"}))
      ->capture_default_str();
  c->add_option("--dtype", o->dtype, "Of the tensors written")
      ->check(CLI::IsMember({"float32", "float64", "bfloat16", "float16"}))
      ->capture_default_str();
  c->add_flag("--force", o->force,
              "Export a model that transformers opens but computes otherwise (learned positions)");
  c->callback([o, &action] {
    action = [o] {
      Export(*o).run();
      return 0;
    };
  });
}

}  // namespace keiko::cli
