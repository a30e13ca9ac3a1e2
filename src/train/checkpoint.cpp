#include "train/checkpoint.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <sstream>

#include "base/error.h"
#include "base/hash.h"
#include "base/json_text.h"
#include "base/log.h"
#include "model/hugging_face.h"
#include "model/safetensors.h"
#include "train/restore.h"

namespace keiko::train {
namespace {

// 2: what a block reads while it runs and around that are buffers of their own.
constexpr int kVersion = 2;

int64_t step_of(const std::string& name) {
  if (name.rfind("step-", 0) != 0) return -1;
  int64_t step = 0;
  for (char c : name.substr(5)) {
    if (c < '0' || c > '9') return -1;
    step = step * 10 + (c - '0');
  }
  return step;
}

// What verify() looks at besides the weights.
enum class Extent { kWhole, kWeightsAlone };

// Throws Error(kData) naming the first file that is not what state.json says, or a state.json of
// another step than `step` (-1: of any). Of `ranks` ranks each takes its turn among the files.
void verify(Env* env, const std::string& folder, int64_t step, Extent extent, int64_t rank = 0,
            int64_t ranks = 1) {
  const auto need = [&](const std::string& name) {
    if (!env->status(folder + "/" + name).exists)
      fail(ErrorKind::kData, "{}/{}: the file is missing", folder, name);
  };
  need("state.json");
  try {
    const auto state = nlohmann::json::parse(read_text(env, folder + "/state.json"));
    const int64_t version = state.at("version");
    const bool has_same_weights = extent == Extent::kWeightsAlone && version == 1;
    if (version != kVersion && !has_same_weights)
      fail(ErrorKind::kData, "{}: checkpoint version {}, but this Keiko reads version {}", folder,
           version, kVersion);
    if (step >= 0 && state.at("step") != step)
      fail(ErrorKind::kData, "{}/state.json: says step {}", folder, state.at("step").dump());
    int64_t turn = 0;
    for (const auto& [name, hash] : state.at("files").items()) {
      if (turn++ % ranks != rank) continue;
      if (extent == Extent::kWeightsAlone && name != "model.safetensors" &&
          name != "ema.safetensors")
        continue;
      need(name);
      if (hex64(xxh3_of_file(folder + "/" + name, env)) != hash.get<std::string>())
        fail(ErrorKind::kData, "{}/{}: its checksum is not the recorded one", folder, name);
    }
  } catch (const nlohmann::json::exception& e) {
    fail(ErrorKind::kData, "{}/state.json: damaged: {}", folder, e.what());
  }
}

// What is damaged in the checkpoint, as all ranks see it; "": nothing. Throws what no other
// checkpoint helps against, on all ranks.
std::string damage_of(Env* env, const std::string& path, int64_t step,
                      dist::Communicator* communicator) {
  std::optional<Error> error;
  try {
    verify(env, path, step, Extent::kWhole, communicator ? communicator->rank() : 0,
           communicator ? communicator->world_size() : 1);
  } catch (const Error& e) {
    error = e;
  }
  const auto is_damage = [](const Error& e) { return e.kind() == ErrorKind::kData; };
  // A disk that cannot be read is not a damaged file: its ranks say so with a mark in front.
  std::vector<std::string> said(1);
  if (error) said[0] = fmt::format("{}{}", is_damage(*error) ? '=' : '!', error->what());
  if (communicator) said = communicator->gather_texts(said[0]);
  if (error && !is_damage(*error)) throw *error;
  for (size_t rank = 0; rank < said.size(); ++rank)
    if (said[rank].starts_with('!'))
      fail(ErrorKind::kIo, "rank {} cannot read a checkpoint: {}", rank, said[rank].substr(1));
  for (const std::string& damage : said)
    if (!damage.empty()) return damage.substr(1);
  return "";
}

// `communicator`: of ranks that share the work; null: this process alone.
std::optional<std::string> find_good(Env* env, const std::string& folder,
                                     const std::vector<std::string>& names,
                                     dist::Communicator* communicator) {
  std::string damage;
  for (auto name = names.rbegin(); name != names.rend(); ++name) {
    const std::string path = folder + "/" + *name;
    damage = damage_of(env, path, step_of(*name), communicator);
    if (damage.empty()) return path;
    if (!communicator || communicator->rank() == 0)
      spdlog::warn("DAMAGED CHECKPOINT: {}. Trying the one before it.", damage);
  }
  if (!names.empty())
    fail(ErrorKind::kData,
         "{}: all {} checkpoints are damaged; the oldest: {}. Bring one back from a backup, or "
         "remove them to start again from nothing",
         folder, names.size(), damage);
  return std::nullopt;
}

}  // namespace

void CheckpointOptions::bind(config::Binder& b) {
  b.key("every", every, "steps; 0 is only at the end").at_least(0).free();
  b.key("keep", keep, "newest checkpoints that stay").at_least(1).free();
  b.key("keep_every", keep_every, "those of every so many steps stay as well; 0 is none")
      .at_least(0)
      .free();
}

std::string checkpoint_name(int64_t step) { return fmt::format("step-{:08}", step); }

std::vector<model::NamedTensor> shard(const std::vector<model::NamedTensor>& flat, int64_t rank,
                                      int64_t world_size) {
  std::vector<model::NamedTensor> mine;
  for (const auto& [name, tensor] : flat) {
    const model::Share share = model::share_of(tensor.numel(), rank, world_size);
    mine.emplace_back(name, tensor.narrow(0, share.start, share.count));
  }
  return mine;
}

CheckpointContent copy_content(int64_t step, objective::Objective& objective,
                               const optim::AdamW& optimizer,
                               const dist::Communicator& communicator, dist::Shards* shards,
                               std::optional<uint64_t> weights_hash) {
  CheckpointContent content;
  content.step = step;
  const auto copy = [](const std::vector<model::NamedTensor>& from,
                       std::vector<model::NamedTensor>& to) {
    for (const auto& [name, tensor] : from)
      to.emplace_back(name, tensor.to(at::kCPU, /*non_blocking=*/false, /*copy=*/true));
  };
  const dist::Communicator& alike = shards ? shards->replicas() : communicator;
  copy(shard(optimizer.state(), alike.rank(), alike.world_size()), content.optimizer);
  content.optimizer_part =
      (shards ? shards->group().rank() * alike.world_size() : 0) + alike.rank();
  content.weights_hash = weights_hash ? *weights_hash : objective.parameters().hash();
  if (communicator.rank() != 0) return content;
  copy(objective.weights(), content.weights);
  copy(objective.ema_weights(), content.ema);
  content.config = objective.config();
  return content;
}

CheckpointWriter::CheckpointWriter(Env* env, dist::Communicator& communicator, std::string folder,
                                   const CheckpointOptions& options, PhaseFile& phases)
    : env_(env),
      communicator_(communicator),
      folder_(std::move(folder)),
      options_(options),
      phases_(phases) {
  if (communicator_.rank() == 0) {
    env_->make_folder(folder_);
    env_->sync_folder(parent_folder(folder_));
    for (const std::string& name : env_->list(folder_))
      if (step_of(name) >= 0 && !env_->status(folder_ + "/" + name + "/COMMIT").exists)
        remove_tree(env_, folder_ + "/" + name);
    // A stop between COMMIT and `latest`, at the end of a run, leaves nothing that would renew it.
    const auto names = list_checkpoints(env_, folder_);
    const std::string latest = folder_ + "/latest";
    if (!names.empty() &&
        (!env_->status(latest).exists || read_text(env_, latest) != names.back() + "\n"))
      publish(env_, latest, names.back() + "\n");
  }
  communicator_.barrier();
}

CheckpointWriter::~CheckpointWriter() {
  if (pending_ && pending_->files.valid()) pending_->files.wait();
  if (removal_.valid()) removal_.wait();
}

void CheckpointWriter::wait_for_removal() {
  if (!removal_.valid()) return;
  try {
    removal_.get();
  } catch (const std::exception& e) {
    spdlog::warn("an older checkpoint could not be removed: {}; the newest one is whole", e.what());
  }
}

void CheckpointWriter::save(CheckpointContent content) {
  if (pending_) commit();
  Pending pending;
  pending.content = std::make_shared<CheckpointContent>(std::move(content));
  phases_.set_writing(Phase::kWrite);
  pending.files = std::async(std::launch::async, [this, shared = pending.content,
                                                  removal = std::move(removal_)]() mutable {
    if (removal.valid()) removal.get();
    Written written = write_files(*shared);
    phases_.set_writing(Phase::kNone);
    return written;
  });
  pending_ = std::move(pending);
}

bool CheckpointWriter::is_written() const {
  return pending_ && pending_->files.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
}

CheckpointWriter::Written CheckpointWriter::write_files(const CheckpointContent& content) const {
  const std::string folder = folder_ + "/" + checkpoint_name(content.step);
  env_->make_folder(folder);
  Written written;
  const std::string optimizer = optimizer_file(content.optimizer_part, communicator_.world_size());
  written.files.emplace_back(
      optimizer, model::write_safetensors(env_, folder + "/" + optimizer, content.optimizer));
  if (communicator_.rank() == 0) {
    written.files.emplace_back("model.safetensors",
                               model::write_safetensors(env_, folder + "/model.safetensors",
                                                        content.weights, {{"format", "pt"}}));
    if (!content.ema.empty())
      written.files.emplace_back("ema.safetensors",
                                 model::write_safetensors(env_, folder + "/ema.safetensors",
                                                          content.ema, {{"format", "pt"}}));
    const std::string config = json_text(content.config, 2) + "\n";
    const auto file = env_->create(folder + "/config.json");
    file->append(config);
    file->sync();
    written.files.emplace_back("config.json", xxh3(std::string_view(config)));
  }
  env_->sync_folder(folder);
  return written;
}

void CheckpointWriter::commit() {
  if (!pending_) return;
  Pending pending = std::move(*pending_);
  pending_.reset();
  const CheckpointContent& content = *pending.content;
  Written written;
  std::optional<Error> error;
  try {
    written = pending.files.get();
  } catch (const Error& e) {
    error = e;
  } catch (const std::exception& e) {
    error = Error(ErrorKind::kIo, e.what());
  }
  // One row of each rank: failed?, optimiser file's hash, weights' hash, length of its samples
  // file, which part its optimiser file is.
  const uint64_t hash = written.files.empty() ? 0 : written.files[0].second;
  const at::Tensor rows = communicator_.all_gather(
      at::tensor(std::vector<int64_t>{error ? 1 : 0, int64_t(hash), int64_t(content.weights_hash),
                                      content.samples_length, content.optimizer_part}));
  if (error)
    fail(ErrorKind::kIo, "the checkpoint of step {} was not saved: {}", content.step,
         error->what());
  for (int64_t rank = 0; rank < communicator_.world_size(); ++rank) {
    if (rows[rank][0].item<int64_t>() != 0)
      fail(ErrorKind::kIo,
           "the checkpoint of step {} was not saved: rank {} failed, see its message", content.step,
           rank);
    if (rows[rank][2].item<int64_t>() != rows[0][2].item<int64_t>())
      fail(ErrorKind::kInternal,
           "the weights of rank {} differ from rank 0's at step {}: {} and {}", rank, content.step,
           hex64(uint64_t(rows[rank][2].item<int64_t>())),
           hex64(uint64_t(rows[0][2].item<int64_t>())));
  }
  // What fails on rank 0 alone from here on ends the save on every rank.
  if (communicator_.rank() == 0) try {
      const std::string folder = folder_ + "/" + checkpoint_name(content.step);
      nlohmann::ordered_json state = content.state;
      state["version"] = kVersion;
      state["step"] = content.step;
      state["world_size"] = communicator_.world_size();
      state["weights_hash"] = hex64(content.weights_hash);
      for (const auto& [name, value] : written.files) state["files"][name] = hex64(value);
      state["weights_hash_of_ranks"] = nlohmann::json::array();
      for (int64_t rank = 0; rank < communicator_.world_size(); ++rank)
        state["weights_hash_of_ranks"].push_back(hex64(uint64_t(rows[rank][2].item<int64_t>())));
      // Lengths of ranks that a smaller world does not have stay as they were.
      const nlohmann::ordered_json earlier =
          state.value("samples_lengths", nlohmann::ordered_json::array());
      state["samples_lengths"] = nlohmann::json::array();
      for (int64_t rank = 0; rank < communicator_.world_size(); ++rank) {
        state["files"][optimizer_file(rows[rank][4].item<int64_t>(), communicator_.world_size())] =
            hex64(uint64_t(rows[rank][1].item<int64_t>()));
        state["samples_lengths"].push_back(rows[rank][3].item<int64_t>());
      }
      for (size_t rank = state["samples_lengths"].size(); rank < earlier.size(); ++rank)
        state["samples_lengths"].push_back(earlier[rank]);
      publish(env_, folder + "/state.json", json_text(state, 2) + "\n");
      // From here on it counts.
      {
        const auto commit = env_->create(folder + "/COMMIT");
        commit->append("keiko checkpoint\n");
        commit->sync();
      }
      env_->sync_folder(folder);
      env_->sync_folder(folder_);
      publish(env_, folder_ + "/latest", checkpoint_name(content.step) + "\n");
      removal_ = std::async(std::launch::async, [this, step = content.step] { prune(step); });
    } catch (const std::exception& e) {
      error = Error(ErrorKind::kIo, e.what());
    }
  at::Tensor failed = at::tensor({int64_t(error ? 1 : 0)}, at::kLong);
  communicator_.broadcast(failed, 0);
  if (error)
    fail(ErrorKind::kIo, "the checkpoint of step {} was not saved: {}", content.step,
         error->what());
  if (failed.item<int64_t>() != 0)
    fail(ErrorKind::kIo, "the checkpoint of step {} was not saved: rank 0 failed, see its message",
         content.step);
  committed_step_ = content.step;
}

void CheckpointWriter::prune(int64_t newest) const {
  const auto names = list_checkpoints(env_, folder_);
  for (size_t i = 0; i + size_t(options_.keep) < names.size(); ++i) {
    const int64_t step = step_of(names[i]);
    if (step == newest || (options_.keep_every > 0 && step % options_.keep_every == 0)) continue;
    const std::string folder = folder_ + "/" + names[i];
    // COMMIT first: a kill in between leaves a folder that does not count.
    env_->remove(folder + "/COMMIT");
    env_->sync_folder(folder);
    remove_tree(env_, folder);
  }
}

std::vector<std::string> list_checkpoints(Env* env, const std::string& folder) {
  std::vector<std::string> names;
  if (!env->status(folder).exists) return names;
  for (const std::string& name : env->list(folder))
    if (step_of(name) >= 0 && env->status(folder + "/" + name + "/COMMIT").exists)
      names.push_back(name);
  std::sort(names.begin(), names.end(),
            [](const std::string& a, const std::string& b) { return step_of(a) < step_of(b); });
  return names;
}

std::optional<std::string> find_checkpoint(Env* env, const std::string& folder) {
  return find_good(env, folder, list_checkpoints(env, folder), nullptr);
}

std::optional<std::string> find_checkpoint(Env* env, const std::string& folder,
                                           dist::Communicator& communicator) {
  // Rank 0's list: another may not see a folder yet that was removed or made just now.
  std::string listed;
  if (communicator.rank() == 0)
    for (const std::string& name : list_checkpoints(env, folder)) listed += name + "\n";
  std::vector<std::string> names;
  std::istringstream lines(communicator.broadcast_text(listed));
  for (std::string name; std::getline(lines, name);) names.push_back(name);
  return find_good(env, folder, names, &communicator);
}

LoadedCheckpoint load_checkpoint(Env* env, const std::string& folder) {
  LoadedCheckpoint loaded;
  loaded.weights = model::read_weights(env, folder);
  if (env->status(folder + "/ema.safetensors").exists)
    loaded.ema = model::read_safetensors(env, folder + "/ema.safetensors").tensors;
  return loaded;
}

objective::Weights first_weights(Env* env, const std::string& folder, const std::string& kind) {
  LoadedCheckpoint loaded = load_checkpoint(env, folder);
  if (kind == "ema" && loaded.ema.empty())
    fail(ErrorKind::kUsage,
         "init_weights = ema, but {} holds no ema.safetensors; set init_weights: model", folder);
  if (kind == "model") loaded.ema.clear();
  return {std::move(loaded.weights), std::move(loaded.ema)};
}

std::string resolve_weights(Env* env, const std::string& path) {
  if (model::holds_weights(env, path)) {
    // A checkpoint that lost its averaged weights would hand on the others without a word.
    if (env->status(path + "/state.json").exists) verify(env, path, -1, Extent::kWeightsAlone);
    return path;
  }
  if (const auto found = find_checkpoint(env, path + "/checkpoints")) return *found;
  // Says what else is there, such as a pickle.
  if (env->status(path + "/config.json").exists) model::StoredWeights(env, path);
  fail(ErrorKind::kUsage,
       "{}: neither a run folder with a committed checkpoint nor a folder with model.safetensors "
       "(or its shards and model.safetensors.index.json)",
       path);
}

}  // namespace keiko::train
