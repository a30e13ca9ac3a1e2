#include "train/run_folder.h"

#include <ATen/ATen.h>

#include "base/error.h"
#include "base/hash.h"
#include "base/json_text.h"
#include "base/machine.h"

namespace keiko::train {
namespace {

using nlohmann::ordered_json;

ordered_json describe_start(const RunIdentity& identity, int64_t world_size) {
  return {{"time", utc_now()},
          {"command", identity.command_line},
          {"host", host_name()},
          {"processor", processor_name()},
          {"cores", usable_cores()},
          {"world_size", world_size},
          {"keiko", KEIKO_VERSION},
          {"commit", KEIKO_COMMIT},
          {"data", identity.data_description}};
}

}  // namespace

void enter_run_folder(Env* env, const std::string& folder, const Recipe& recipe,
                      const RunIdentity& identity, const std::vector<std::string>& allowed,
                      int64_t world_size) {
  const std::string recipe_path = folder + "/recipe.yaml", run_path = folder + "/run.json";
  ordered_json run;
  if (env->status(recipe_path).exists) {
    const Recipe before = load_recipe(recipe_path, {});
    const auto lines = config::defining_differences(config::list_entries(before),
                                                    config::list_entries(recipe), allowed);
    if (!lines.empty()) {
      std::string diff;
      for (const std::string& line : lines) diff += "\n" + line;
      fail(ErrorKind::kUsage,
           "{}: this run folder holds a run of another recipe:{}\nChoose another folder with "
           "run=DIR, or "
           "insist with --allow-change=KEY.",
           folder, diff);
    }
    if (env->status(run_path).exists) {
      run = ordered_json::parse(read_text(env, run_path), nullptr, false);
      if (run.is_discarded()) run = ordered_json();
    }
    const std::string known = run.value("data_hash", "");
    const bool may_change = std::find(allowed.begin(), allowed.end(), "data") != allowed.end();
    if (!known.empty() && known != hex64(identity.data_hash) && !may_change)
      fail(ErrorKind::kUsage,
           "{}: this run was trained on other data:\n  data: {} -> {}\nChoose another folder with "
           "run=DIR, or "
           "insist with --allow-change=data.",
           folder, run["starts"].empty() ? known : run["starts"].back().value("data", known),
           identity.data_description);
  } else {
    env->make_folder(folder);
    env->make_folder(folder + "/previews");
  }
  run["data_hash"] = hex64(identity.data_hash);
  run["starts"].push_back(describe_start(identity, world_size));
  publish(env, run_path, json_text(run, 2) + "\n");
  publish(env, recipe_path, config::to_yaml(config::list_entries(recipe)));
  env->sync_folder(parent_folder(folder));
}

void check_shared(Env* env, const std::string& folder, dist::Communicator& communicator) {
  if (communicator.world_size() == 1) return;
  const std::string path = folder + "/.nonce";
  std::string nonce = fmt::format("{} {} {:.9f}", host_name(), utc_now(), monotonic_s());
  if (communicator.rank() == 0) publish(env, path, nonce);
  nonce = communicator.broadcast_text(nonce);
  const bool seen = env->status(path).exists && read_text(env, path) == nonce;
  at::Tensor blind = at::tensor(int64_t{seen ? 0 : 1});
  communicator.all_reduce(blind)->wait();
  if (blind.item<int64_t>() > 0)
    fail(ErrorKind::kUsage,
         "run folder is not shared: {} of {} ranks do not see what rank 0 wrote to {}; put run=DIR "
         "on a "
         "file system that all machines mount",
         blind.item<int64_t>(), communicator.world_size(), path);
}

}  // namespace keiko::train
