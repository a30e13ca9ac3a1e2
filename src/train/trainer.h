// The training loop: batches in, gradients summed, weights updated, everything needed to go on
// saved.

#pragma once
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/env.h"
#include "base/error.h"
#include "data/loader.h"
#include "dist/communicator.h"
#include "dist/control_plane.h"
#include "gpu/accelerator.h"
#include "train/compute.h"
#include "train/recipe.h"
#include "train/trace.h"

namespace keiko::train {

struct TrainContext {
  Env* env = default_env();
  dist::LaunchEnvironment launch;
  dist::Communicator* communicator = nullptr;  // not owned
  gpu::Accelerator* accelerator = nullptr;     // not owned; null: computes on the CPU
  gpu::Recorder* recorder = nullptr;           // not owned; of what it computes on; null: none
  dist::ControlPlane* control = nullptr;       // not owned; null: nobody watches the ranks
  // Called with what train() is about to throw while the run still stands: taking it down may wait
  // for files and for ranks that never answer. May end the process. Empty: nothing.
  std::function<void(ErrorKind kind, const std::string& message)> on_error;
  data::MakeDecoder make_decoder;
  // Of slots that the decoders write. Empty: host memory, pinned where an accelerator computes.
  media::MakeBuffer make_buffer;
  std::string decoded_on = "cpu";  // or "nvdec"; to be remembered
  std::string run_folder;
  std::string command_line;
  std::vector<std::string> allowed_changes;  // recipe keys that may differ on resume
  std::optional<TraceSteps> trace;           // steps to write a profiler's trace of
};

struct TrainResult {
  int64_t step = 0;                   // completed updates
  bool is_preempted = false;          // stopped by a signal, after saving
  nlohmann::ordered_json evaluation;  // the last one; null when the recipe has none
};

// Trains until `steps`, resuming from the run folder's newest good checkpoint when there is one.
// All ranks call it with equal recipes. Throws Error: kUsage (recipe, run folder), kData, kIo,
// kTooMuchBad.
TrainResult train(const Recipe& recipe, const TrainContext& context);

}  // namespace keiko::train
