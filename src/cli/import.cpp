#include <ATen/ATen.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <set>
#include <sstream>

#include "base/error.h"
#include "base/json_text.h"
#include "cli/command.h"
#include "cli/model_folder.h"
#include "report/progress.h"

namespace keiko::cli {
namespace {

using model::PublishedConfig;
using model::PublishedKind;
using model::StoredTensor;

struct ImportOptions {
  std::string folder, out, class_names;
  int64_t size = 0, num_frames = 0;
  bool allow_missing = false, interpolate_positions = false;
};

constexpr const char* kHelp =
    "Take a model of the Hugging Face Hub into a folder that init_from= accepts\n"
    "DIR holds config.json and model.safetensors (or its shards): VideoMAE or V-JEPA 2, encoder,\n"
    "pretraining model or classifier, in fp32, bf16 or fp16. Every tensor is accounted for: what\n"
    "is missing, extra or of another shape ends the import with a list. The new folder holds\n"
    "fp32 weights, opens in transformers too, and keeps the model card.";

// The name of each class, a line each; empty lines at the end do not count.
std::vector<std::string> read_class_names(const std::string& path) {
  std::istringstream lines(read_text(default_env(), path));
  std::vector<std::string> names;
  for (std::string line; std::getline(lines, line);) {
    if (!line.empty() && line.back() == '\r') line.pop_back();
    names.push_back(line);
  }
  while (!names.empty() && names.back().empty()) names.pop_back();
  std::set<std::string> seen;
  for (size_t i = 0; i < names.size(); ++i)
    if (names[i].empty() || !seen.insert(names[i]).second)
      fail(ErrorKind::kUsage, "{}:{}: {}", path, i + 1,
           names[i].empty() ? "an empty class name" : "the class " + names[i] + " again");
  if (names.empty()) fail(ErrorKind::kUsage, "{}: no class names", path);
  return names;
}

bool is_position_table(const std::string& name) { return name.ends_with("position_embeddings"); }

// Parts that a new task makes anew; an encoder is never one.
bool may_be_new(const std::string& name) {
  static const char* const kStarts[] = {"classifier.", "fc_norm.",         "pooler.",
                                        "decoder.",    "mask_token",       "encoder_to_decoder.",
                                        "predictor.",  "vjepa2.predictor."};
  return std::any_of(std::begin(kStarts), std::end(kStarts),
                     [&](const char* start) { return name.rfind(start, 0) == 0; });
}

std::string first_values(const model::ParameterSpec& spec) {
  switch (spec.init) {
    case model::Init::kZeros:
      return "zeros";
    case model::Init::kOnes:
      return "ones";
    case model::Init::kXavierUniform:
      return "Xavier uniform";
    case model::Init::kTruncNormal:
      return fmt::format("truncated normal of {}", spec.scale);
  }
  return "";
}

class Import {
 public:
  explicit Import(const ImportOptions& options)
      : options_(options),
        source_(model::read_hugging_face(default_env(), options.folder)),
        config_(source_.config) {}

  void run() {
    change_clip();
    name_classes();
    account();
    initialise();
    FolderDraft draft(default_env(), options_.out);
    write_weights(draft);
    draft.write_text("config.json", json_text(config_json(), 2) + "\n");
    copy_companions(draft);
    draft.publish();
    report();
  }

 private:
  void change_clip() {
    if (options_.size > 0) config_.height = config_.width = options_.size;
    if (options_.num_frames > 0) config_.num_frames = options_.num_frames;
    const PublishedConfig& old = source_.config;
    model::make_grid(config_.vit, config_.num_frames, config_.height, config_.width);
    if (config_.height == old.height && config_.width == old.width &&
        config_.num_frames == old.num_frames) {
      if (options_.interpolate_positions)
        fail(ErrorKind::kUsage,
             "--interpolate-positions: the clips stay as they were; give --size or --num-frames");
      return;
    }
    const std::string change =
        fmt::format("{} frames of {} x {} became {} of {} x {}", old.num_frames, old.height,
                    old.width, config_.num_frames, config_.height, config_.width);
    if (config_.is_vjepa2())
      positions_ = fmt::format(
          "{}: V-JEPA turns queries and keys by each token's place and has no table. Places are "
          "now counted in a square of {} tokens a side instead of {}",
          change, config_.side(), old.side());
    else if (config_.vit.positions == "sinusoid")
      positions_ = fmt::format(
          "{}: the table is fixed, counts tokens and is not interpolated, so a place of the "
          "picture has other positions than the model learned with",
          change);
    else
      positions_ = fmt::format("{}: learned positions interpolated, trilinear", change);
    if (options_.interpolate_positions && config_.vit.positions != "learned")
      fail(ErrorKind::kUsage,
           "--interpolate-positions: this model has no learned positions (keiko_positions: {})",
           config_.vit.positions);
  }

  void name_classes() {
    if (!config_.is_classifier()) {
      if (!options_.class_names.empty())
        fail(ErrorKind::kUsage, "--class-names: {} is a {}, which has no classes", options_.folder,
             class_of(config_.kind));
      return;
    }
    const int64_t in_file = count_classes(*source_.weights);
    if (!options_.class_names.empty()) {
      config_.class_names = read_class_names(options_.class_names);
      classes_ = int64_t(config_.class_names.size());
      has_new_head_ = in_file > 0 && classes_ != in_file;
      if (has_new_head_ && !options_.allow_missing)
        fail(ErrorKind::kUsage,
             "{}: names {} classes, but the head of {} has {}; --allow-missing makes a new head",
             options_.class_names, classes_, options_.folder, in_file);
      return;
    }
    classes_ = in_file > 0 ? in_file : int64_t(config_.class_names.size());
    if (classes_ == 0)
      fail(ErrorKind::kData,
           "{}: neither a classifier.weight nor names of classes (id2label) tell how many classes "
           "there are; give --class-names FILE with --allow-missing",
           options_.folder);
  }

  void account() {
    model::declare_published(declared_, config_, classes_);
    auto account = account_for(source_.weights->tensors(), declared_);
    const auto take = [](std::vector<std::string>& from, auto condition) {
      std::vector<std::string> taken;
      for (const std::string& entry : from)
        if (condition(entry)) taken.push_back(entry);
      std::erase_if(from, condition);
      return taken;
    };
    bool has_short_table = false;
    std::erase_if(account.misshapen, [&](const std::string& line) {
      const std::string name = line.substr(0, line.find(':'));
      has_short_table |= is_position_table(name);
      if (options_.interpolate_positions && is_position_table(name)) return true;
      if (!has_new_head_ || name.rfind("classifier.", 0) != 0) return false;
      fresh_.push_back(name);
      return true;
    });
    const auto new_parts = take(account.missing, may_be_new);
    if (options_.allow_missing)
      fresh_.insert(fresh_.end(), new_parts.begin(), new_parts.end());
    else
      account.missing.insert(account.missing.end(), new_parts.begin(), new_parts.end());
    if (account.is_even()) return;
    std::string advice;
    if (!options_.allow_missing && !new_parts.empty() &&
        new_parts.size() == account.missing.size() && account.extra.empty() &&
        account.misshapen.empty())
      advice = "\n--allow-missing initialises what is missing (no part of the encoder is)";
    if (has_short_table && !options_.interpolate_positions)
      advice += "\n--interpolate-positions makes a position table of the new size";
    fail(ErrorKind::kData, "{}: does not hold a {} as config.json describes it:{}{}",
         options_.folder, class_of(config_.kind), account.text(), advice);
  }

  // Values for what the files do not have, from the names alone: every import gives the same.
  void initialise() {
    const auto is_fresh = [&](const std::string& name) {
      return std::find(fresh_.begin(), fresh_.end(), name) != fresh_.end();
    };
    for (const model::Parameter& p : declared_.all()) {
      const auto& parts = p.spec.parts;
      if (is_fresh(p.spec.name) || std::any_of(parts.begin(), parts.end(), is_fresh)) {
        initial_.declare(p.spec);
        initialised_[first_values(p.spec)].push_back(p.spec.name);
      }
    }
    initial_.allocate(0);
    for (const auto& [name, tensor] : initial_.published())
      if (is_fresh(name)) initial_values_[name] = tensor;
  }

  void write_weights(FolderDraft& draft) {
    std::map<std::string, const StoredTensor*> stored;
    for (const StoredTensor& tensor : source_.weights->tensors()) stored[tensor.name] = &tensor;
    std::vector<model::TensorEntry> entries;
    for (const auto& [name, shape] : declared_.published_shapes()) {
      entries.push_back({name, at::kFloat, shape});
      parameters_ += std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
    }
    const auto& old = source_.config;
    model::write_safetensors(
        default_env(), draft.path("model.safetensors"), entries,
        [&](size_t i) {
          const std::string& name = entries[i].name;
          if (const auto fresh = initial_values_.find(name); fresh != initial_values_.end())
            return fresh->second;
          const StoredTensor& tensor = *stored.at(name);
          at::Tensor value = source_.weights->read(tensor).to(at::kFloat);
          if (!at::isfinite(value).all().item<bool>())
            fail(ErrorKind::kData, "{}/{}: {} holds NaN or infinity", options_.folder,
                 source_.weights->files()[tensor.shard], tensor.in_file);
          if (options_.interpolate_positions && is_position_table(name))
            value = interpolate_positions(
                value, make_grid(old.vit, old.num_frames, old.height, old.width),
                make_grid(config_.vit, config_.num_frames, config_.height, config_.width));
          ++taken_[model::dtype_name(tensor.entry.dtype)];
          renamed_ += tensor.name != tensor.in_file;
          return value;
        },
        {{"format", "pt"}});
  }

  nlohmann::ordered_json config_json() const {
    nlohmann::ordered_json c = source_.config_json;
    c["architectures"] = {class_of(config_.kind)};
    c.erase("torch_dtype");
    c["dtype"] = "float32";
    const bool is_vjepa2 = config_.is_vjepa2();
    if (options_.num_frames > 0)
      c[is_vjepa2 ? "frames_per_clip" : "num_frames"] = options_.num_frames;
    if (options_.size > 0) c[is_vjepa2 ? "crop_size" : "image_size"] = options_.size;
    if (options_.class_names.empty()) return c;
    c.erase("id2label");
    c.erase("label2id");
    for (size_t i = 0; i < config_.class_names.size(); ++i) {
      c["id2label"][std::to_string(i)] = config_.class_names[i];
      c["label2id"][config_.class_names[i]] = i;
    }
    return c;
  }

  // The model card with its licence goes where the weights go.
  void copy_companions(FolderDraft& draft) {
    for (const char* name : {"README.md", "LICENSE", "LICENSE.md", "preprocessor_config.json",
                             "video_preprocessor_config.json"}) {
      const std::string path = options_.folder + "/" + name;
      if (!default_env()->status(path).exists) continue;
      const std::string text = read_text(default_env(), path);
      draft.write_text(name, text);
      if (std::string(name).ends_with(".json")) compare_pixels(text, path);
    }
  }

  // Keiko always feeds pixels minus ImageNet's mean over its deviation.
  static void compare_pixels(const std::string& text, const std::string& path) {
    const auto json = parse_json(text, path);
    for (const auto& [key, ours] : {std::pair("image_mean", model::kImageNetMean),
                                    std::pair("image_std", model::kImageNetStd)}) {
      const auto found = json.is_object() ? json.find(key) : json.end();
      if (!json.is_object() || found == json.end() || !found->is_array() || found->size() != 3)
        continue;
      for (size_t i = 0; i < 3; ++i)
        if (!(*found)[i].is_number() || std::abs((*found)[i].get<double>() - ours[i]) > 1e-3) {
          spdlog::warn(
              "{}: {} is {}, but Keiko feeds every model with ImageNet's {}, {}, {}: outputs will "
              "differ from the published ones",
              path, key, found->dump(), ours[0], ours[1], ours[2]);
          break;
        }
    }
  }

  // What training would leave out or do in another way.
  std::vector<std::string> beyond_recipes() const {
    std::vector<std::string> what;
    if (config_.vit.tanh_gelu) what.push_back("its GELU is the tanh approximation");
    if (!config_.vit.qkv_bias) what.push_back("its attention has no biases");
    if (config_.kind == PublishedKind::kVideoMaePretraining && config_.mean_pooling)
      what.push_back("it has no norm between encoder and decoder (use_mean_pooling)");
    if (config_.kind == PublishedKind::kVideoMaePretraining &&
        config_.decoder.mlp_width != int64_t(double(config_.decoder.width) * config_.vit.mlp_ratio))
      what.push_back("its decoder's MLP has another ratio than the encoder's");
    if (config_.kind == PublishedKind::kVideoMaeClassifier && !config_.mean_pooling)
      what.push_back("its head reads the first token alone (use_mean_pooling: false)");
    if (config_.height != config_.width) what.push_back("its clips are not square");
    return what;
  }

  void report() const {
    const auto line = [](const char* name, const std::string& text) {
      std::printf("%-12s %s\n", name, text.c_str());
    };
    line("model", class_of(config_.kind) + ", " + describe(config_));
    line("licence", source_.licence);
    line("parameters", report::count_text(parameters_));
    std::string dtypes;
    for (const auto& [name, count] : taken_)
      dtypes += fmt::format("{}{} {}{}", dtypes.empty() ? "" : ", ", count, name,
                            name == "F32"   ? ""
                            : name == "F64" ? " rounded to F32"
                                            : " widened to F32");
    line("tensors", fmt::format("{} from {} file{}; {} in another spelling", dtypes,
                                source_.weights->files().size(),
                                source_.weights->files().size() == 1 ? "" : "s", renamed_));
    if (!source_.weights->left_out().empty())
      line("left out",
           fmt::format("{} biases of keys, which softmax cancels (the first: {})",
                       source_.weights->left_out().size(), source_.weights->left_out()[0]));
    for (const auto& [how, names] : initialised_)
      for (const std::string& name : names) line("initialised", name + ": " + how);
    if (config_.is_classifier())
      line("classes",
           fmt::format("{}{}", classes_, config_.class_names.empty() ? ", without names" : ""));
    if (!positions_.empty()) line("positions", positions_);
    if (config_.kind == PublishedKind::kVJepa2Classifier)
      line("predictor", "kept in the folder for transformers; classifiers do not use it");
    line("written", options_.out + ": config.json, model.safetensors");
    for (const std::string& what : beyond_recipes())
      line("note", what +
                       ", which no recipe can ask for: features and export run this model as it "
                       "is, training could not");
    std::printf("recipe:\n%s", recipe_of(config_, options_.out).c_str());
  }

  const ImportOptions& options_;
  model::HuggingFaceFolder source_;
  PublishedConfig config_;  // with what the options change
  int64_t classes_ = 0;
  bool has_new_head_ = false;
  model::Parameters declared_{at::kFloat}, initial_{at::kFloat};  // the first is never allocated
  std::vector<std::string> fresh_;                                // names that get first values
  std::map<std::string, at::Tensor> initial_values_;
  std::map<std::string, std::vector<std::string>> initialised_;  // how -> names
  std::map<std::string, int64_t> taken_;                         // dtype -> tensors
  int64_t renamed_ = 0, parameters_ = 0;
  std::string positions_;
};

}  // namespace

void add_import(CLI::App& app, Action& action) {
  auto* c = app.add_subcommand("import", kHelp);
  auto o = std::make_shared<ImportOptions>();
  c->add_option("folder", o->folder, "A folder with config.json and safetensors")->required();
  c->add_option("--out", o->out, "The new folder; must not exist")->required();
  c->add_flag("--allow-missing", o->allow_missing,
              "Initialise heads that the files lack (classifier, pooler, decoder, predictor), and "
              "say which; the encoder must be there");
  c->add_option("--class-names", o->class_names,
                "Of a classifier: a text file, one class a line. Another number than the head has "
                "makes a new head, with --allow-missing");
  c->add_option("--size", o->size, "Pixels a side of the clips from now on; default: config.json's")
      ->check(CLI::Range(1, 8192));
  c->add_option("--num-frames", o->num_frames,
                "Frames of the clips from now on; default: config.json's")
      ->check(CLI::Range(1, 65536));
  c->add_flag("--interpolate-positions", o->interpolate_positions,
              "With --size or --num-frames: stretch learned positions over the new tokens");
  c->callback([o, &action] {
    action = [o] {
      Import(*o).run();
      return 0;
    };
  });
}

}  // namespace keiko::cli
