#include "train/recorded_passes.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>

#include "base/error.h"
#include "base/machine.h"
#include "model/upload.h"
#include "train/compute.h"
#include "train/range.h"

namespace keiko::train {
namespace {

using objective::Draws;
using objective::MicroBatch;

bool is_alike(const at::Tensor& a, const at::Tensor& b) {
  if (a.defined() != b.defined()) return false;
  return !a.defined() || (a.sizes() == b.sizes() && a.scalar_type() == b.scalar_type());
}

// Memory for the values of `tensor`, which need not be there yet.
at::Tensor place_for(const at::Tensor& tensor, at::Device device) {
  if (!tensor.defined()) return {};
  return at::empty(tensor.sizes(), at::TensorOptions(tensor.scalar_type()).device(device));
}

void send(const at::Tensor& there, const at::Tensor& tensor) {
  if (tensor.defined()) model::upload_into(there, tensor);
}

}  // namespace

std::string why_not_recorded(const RecordingNeeds& needs) {
  if (!needs.has_recorder) return "the run computes on the CPU, where launches cost nothing";
  if (needs.sends_in_backward)
    return fmt::format(
        "{} ranks send gradients while the backward pass runs, which is not recorded; with "
        "reduce.overlap = false, and train.shard = none or optimizer, they do so after it",
        needs.world_size);
  if (needs.looks_for_anomalies) return "debug.anomaly looks at every operation as it runs";
  return "";
}

RecordedPasses::RecordedPasses(objective::Objective& objective, gpu::Recorder& recorder,
                               double weight, bool use_autocast, bool recomputes)
    : objective_(objective),
      recorder_(recorder),
      weight_(weight),
      use_autocast_(use_autocast),
      runner_(recomputes ? recomputing_ : straight_) {}

objective::LossSums RecordedPasses::run(const MicroBatch& batch) {
  const Draws draws = objective_.draw(batch);
  Kind* kind = kind_of(batch, draws);
  std::unique_ptr<Kind> passing;
  if (!kind) {
    passing = make_kind(batch, draws);
    kind = passing.get();
  }
  send(kind->batch.video, batch.video);
  send(kind->batch.label, batch.label);
  send(kind->batch.target, batch.target);
  for (size_t i = 0; i < draws.tensors.size(); ++i) send(kind->draws.tensors[i], draws.tensors[i]);

  if (records_ && !passing && !kind->recording && kind->runs >= kRunsBefore) record(*kind);
  if (kind->recording) {
    kind->recording->replay();
    ++replays_;
  } else if (records_ && !passing) {
    recorder_.run([&] { compute(*kind); });
  } else {
    compute(*kind);
  }
  ++kind->runs;
  return kind->sums;
}

void RecordedPasses::record(Kind& kind) {
  const Range range("record");
  const double start = monotonic_s();
  try {
    kind.recording = recorder_.record([this, &kind] { compute(kind); });
  } catch (const Error& e) {
    give_up(e.what());
    return;
  }
  spdlog::info("train.cuda_graph: recorded forward and backward of {} clips in {:.2f} s",
               kind.batch.video.size(0), monotonic_s() - start);
}

RecordedPasses::Kind* RecordedPasses::kind_of(const MicroBatch& batch, const Draws& draws) {
  const auto is_same = [&](const std::unique_ptr<Kind>& kind) {
    return is_alike(kind->batch.video, batch.video) && is_alike(kind->batch.label, batch.label) &&
           is_alike(kind->batch.target, batch.target) && kind->batch.views == batch.views &&
           kind->draws.numbers == draws.numbers &&
           std::equal(kind->draws.tensors.begin(), kind->draws.tensors.end(), draws.tensors.begin(),
                      draws.tensors.end(), is_alike);
  };
  const auto found = std::find_if(kinds_.begin(), kinds_.end(), is_same);
  if (found != kinds_.end()) return found->get();
  if (!records_) return nullptr;
  if (kinds_.size() == kMostKinds) {
    // Kinds that never come again must not keep out those that do; but where none of them came
    // again, none will.
    const auto rare = std::find_if(kinds_.begin(), kinds_.end(),
                                   [](const auto& kind) { return !kind->recording; });
    const bool none_is_recorded = std::all_of(kinds_.begin(), kinds_.end(),
                                              [](const auto& kind) { return !kind->recording; });
    if (rare == kinds_.end() || none_is_recorded) {
      give_up(
          fmt::format("passes come in more than {} kinds: shapes, or numbers that the objective "
                      "decides, change "
                      "from step to step",
                      kMostKinds));
      return nullptr;
    }
    kinds_.erase(rare);
  }
  kinds_.push_back(make_kind(batch, draws));
  return kinds_.back().get();
}

std::unique_ptr<RecordedPasses::Kind> RecordedPasses::make_kind(const MicroBatch& batch,
                                                                const Draws& draws) const {
  const at::Device device = objective_.parameters().device();
  auto kind = std::make_unique<Kind>();
  // No positions and no step: a recording must not know them.
  kind->batch.video = place_for(batch.video, device);
  kind->batch.label = place_for(batch.label, device);
  kind->batch.target = place_for(batch.target, device);
  kind->batch.views = batch.views;
  kind->draws.numbers = draws.numbers;
  for (const at::Tensor& tensor : draws.tensors)
    kind->draws.tensors.push_back(place_for(tensor, device));
  return kind;
}

void RecordedPasses::compute(Kind& kind) const {
  objective::LossSums sums;
  {
    const Range range("forward");
    const AutocastGuard autocast(use_autocast_, objective_.parameters().device().type());
    sums = objective_.loss(kind.batch, kind.draws, runner_);
  }
  const Range range("backward");
  sums.loss.backward(at::full_like(sums.loss, weight_));
  kind.sums = {sums.loss.detach(), sums.metrics};
}

// What is recorded stays in use.
void RecordedPasses::give_up(const std::string& why) {
  records_ = false;
  spdlog::info(
      "train.cuda_graph: {}; {}", why,
      replays_ > 0 ? "other passes than those recorded run as they are" : "passes run as they are");
}

}  // namespace keiko::train
