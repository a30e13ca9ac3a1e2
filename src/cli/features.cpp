#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <spdlog/spdlog.h>

#include <algorithm>

#include "base/error.h"
#include "base/json_text.h"
#include "base/machine.h"
#include "cli/command.h"
#include "cli/model_folder.h"
#include "cli/npy.h"
#include "data/clip_plan.h"
#include "data/sources.h"
#include "media/clip_decoder.h"
#include "model/published_model.h"
#include "report/progress.h"
#include "train/recipe.h"

namespace keiko::cli {
namespace {

struct FeaturesOptions {
  std::string source, out, input, dtype = "float32", weights = "model";
  std::vector<std::string> videos;
  int64_t step = -1, sampling_rate = 0;
  double fps = -1;
  bool tokens = false;
};

constexpr const char* kHelp =
    "Run a model's encoder on videos and write what it says of each\n"
    "One clip a video: its middle, the centre square. The file gets `features` [videos, width],\n"
    "the mean of the encoder's last tokens, and `logits` [videos, classes] of a classifier.";

// The run's own clips, or how the published models were trained: VideoMAE on every 4th frame,
// V-JEPA 2 on 4 frames a second.
data::ClipOptions choose_clip(const ModelSource& source, const FeaturesOptions& o) {
  const model::PublishedConfig& config = source.model.config;
  data::ClipOptions clip;
  if (!source.run_folder.empty()) {
    clip = train::load_recipe(source.run_folder + "/recipe.yaml", {}).clip;
    clip.sample_by = "item";
  } else if (config.is_vjepa2()) {
    clip.sampling_rate = 1;
    clip.fps = 4;
  }
  if (o.sampling_rate > 0) clip.sampling_rate = o.sampling_rate;
  if (o.fps >= 0) clip.fps = o.fps;
  clip.num_frames = config.num_frames;
  if (config.height != config.width)
    fail(ErrorKind::kUsage,
         "{}: takes clips of {} x {}, but videos are cut to squares; give ready clips with --input",
         source.model.path, config.height, config.width);
  clip.size = config.height;
  return clip;
}

// uint8 [1, 3, T, S, S]
at::Tensor decode_clip(const std::string& path, const data::ClipOptions& clip,
                       media::CpuClipDecoder& decoder) {
  const media::PacketTable table = media::scan_video(path);
  constexpr double kOrdinaryRate = 25;
  const data::FrameTimes times(table, data::times_are_usable(table), 0, table.frame_count(),
                               clip.fps > 0 ? clip.fps : kOrdinaryRate);
  data::ItemShape shape{0, table.frame_count(), double(table.stream.display_width()),
                        double(table.stream.display_height())};
  if (clip.fps > 0) shape.times = &times;
  data::ClipPlan plan;
  data::plan_evaluation_clip(clip, {}, 0, shape, plan);
  at::Tensor video = at::empty({1, 3, clip.num_frames, clip.size, clip.size}, at::kByte);
  media::ClipRequest request;
  request.table = &table;
  request.path = &path;
  request.frames = plan.frames;
  request.crop = plan.crop;
  request.size = int(clip.size);
  request.filter = clip.filter == "bicubic" ? media::Filter::kBicubic : media::Filter::kBilinear;
  request.out = video.data_ptr<uint8_t>();
  request.channel_stride = clip.num_frames * clip.size * clip.size;
  decoder.decode(request);
  return video;
}

void load_model(const ModelSource& source, model::PublishedModel& model) {
  const auto& stored = source.model.weights->tensors();
  model::TensorAccount account = account_for(stored, model.parameters());
  account.extra.clear();  // decoders, predictors and heads of Keiko's own are not run
  if (!account.is_even())
    fail(ErrorKind::kData, "{}: does not hold the {} that its config.json describes:{}",
         source.model.path, class_of(source.model.config.kind), account.text());
  // One by one: the whole file beside the model would double the memory.
  for (const model::StoredTensor& tensor : stored)
    model.parameters().load({{tensor.name, source.read(tensor)}});
}

class Features {
 public:
  explicit Features(const FeaturesOptions& options)
      : options_(options), source_(open_model(options.source, options.step, options.weights)) {}

  void run() {
    at::set_num_threads(usable_cores());
    const at::ScalarType dtype = options_.dtype == "float64" ? at::kDouble : at::kFloat;
    model::PublishedModel model(source_.model.config, count_classes(*source_.model.weights), dtype);
    load_model(source_, model);
    report::Progress progress("features");
    const auto take = [&](const at::Tensor& video, int64_t done, int64_t all) {
      const auto [tokens, logits] = model.forward(video);
      if (options_.tokens) tokens_.push_back(tokens);
      features_.push_back(tokens.mean(1));
      if (logits.defined()) logits_.push_back(logits);
      progress.update(done, all);
    };
    if (!options_.input.empty()) {
      const at::Tensor clips = model::read_safetensors(default_env(), options_.input).get("video");
      const int64_t n = clips.dim() == 0 ? 0 : clips.size(0);
      for (int64_t i = 0; i < n; ++i) {
        names_.push_back(fmt::format("{}:{}", options_.input, i));
        take(clips.narrow(0, i, 1), i + 1, n);
      }
    } else {
      const data::ClipOptions clip = choose_clip(source_, options_);
      spdlog::info(
          "clips: {} frames, every {} of {}, {} pixels", clip.num_frames, clip.sampling_rate,
          clip.fps > 0 ? fmt::format("{:g} a second", clip.fps) : "the video's", clip.size);
      media::CpuClipDecoder decoder(default_env());
      const auto videos = data::find_videos(default_env(), options_.videos);
      for (size_t i = 0; i < videos.size(); ++i) {
        names_.push_back(videos[i].path);
        take(decode_clip(videos[i].path, clip, decoder), int64_t(i) + 1, int64_t(videos.size()));
      }
    }
    progress.finish("");
    if (features_.empty()) fail(ErrorKind::kUsage, "{}: no clips", options_.input);
    write();
  }

 private:
  void write() const {
    const std::string beside = options_.out + ".tmp";
    std::vector<model::NamedTensor> tensors = {{"features", at::cat(features_)}};
    if (!logits_.empty()) tensors.emplace_back("logits", at::cat(logits_));
    if (!tokens_.empty()) tensors.emplace_back("tokens", at::cat(tokens_));
    if (options_.out.ends_with(".npy")) {
      const at::Tensor array =
          tensors.back().first == "tokens" ? tensors.back().second : tensors.front().second;
      const auto file =
          create_npy(default_env(), beside, array.scalar_type() == at::kDouble ? "<f8" : "<f4",
                     array.sizes().vec());
      file->append(std::span(static_cast<const uint8_t*>(array.const_data_ptr()), array.nbytes()));
      file->sync();
    } else {
      model::write_safetensors(default_env(), beside, tensors,
                               {{"clips", json_text(nlohmann::json(names_))},
                                {"model", source_.model.path},
                                {"step", std::to_string(source_.step)},
                                {"weights", options_.weights}});
    }
    default_env()->rename(beside, options_.out);
    default_env()->sync_folder(parent_folder(options_.out));
    std::printf("%s: %s\n", options_.out.c_str(),
                fmt::format("{} clips, {} of {} numbers each{}", features_.size(),
                            options_.tokens ? "all tokens" : "the mean token", features_[0].size(1),
                            logits_.empty() ? "" : ", and logits")
                    .c_str());
  }

  const FeaturesOptions& options_;
  ModelSource source_;
  std::vector<std::string> names_;
  std::vector<at::Tensor> features_, logits_, tokens_;  // one clip each
};

}  // namespace

void add_features(CLI::App& app, Action& action) {
  auto* c = app.add_subcommand("features", kHelp);
  auto o = std::make_shared<FeaturesOptions>();
  c->add_option("model", o->source,
                "A run folder, a checkpoint, or a folder of Hugging Face or `keiko import`")
      ->required();
  c->add_option("videos", o->videos, "Video files, folders or lists, as `keiko index` takes them");
  c->add_option("--out", o->out,
                "NAME.safetensors, or NAME.npy for the features alone (with --tokens: the tokens)")
      ->required();
  c->add_option("--input", o->input,
                "Instead of videos: a safetensors file with `video`, uint8 [clips, 3, frames, "
                "height, width]");
  c->add_flag("--tokens", o->tokens, "Write all tokens too, [videos, tokens, width]");
  c->add_option("--dtype", o->dtype, "What to compute in")
      ->check(CLI::IsMember({"float32", "float64"}))
      ->capture_default_str();
  c->add_option("--step", o->step, "Of a run: the checkpoint of this step; default: the newest")
      ->check(CLI::NonNegativeNumber);
  c->add_option("--weights", o->weights, "model, or ema: the running average")
      ->check(CLI::IsMember({"model", "ema"}))
      ->capture_default_str();
  c->add_option("--sampling-rate", o->sampling_rate,
                "Every n-th frame; default: the run's recipe, else 4 (V-JEPA 2: 1)")
      ->check(CLI::Range(1, 1000));
  c->add_option("--fps", o->fps,
                "Of the frames that the sampling rate counts, 0: the video's own; default: the "
                "run's recipe, else 0 (V-JEPA 2: 4)")
      ->check(CLI::Range(0.0, 1000.0));
  c->callback([o, &action] {
    action = [o] {
      if (o->videos.empty() == o->input.empty())
        fail(ErrorKind::kUsage, "give either videos or --input CLIPS.safetensors");
      if (!o->out.ends_with(".npy") && !o->out.ends_with(".safetensors"))
        fail(ErrorKind::kUsage, "--out {}: give NAME.safetensors or NAME.npy", o->out);
      Features(*o).run();
      return 0;
    };
  });
}

}  // namespace keiko::cli
