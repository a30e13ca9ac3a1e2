#include "train/evaluation.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <algorithm>

#include "base/error.h"

namespace keiko::train {

objective::MicroBatch view_batch(data::Batch& batch, const data::ClipOptions& clip, int64_t first,
                                 int64_t last) {
  objective::MicroBatch micro;
  const int64_t n = last - first, values = 3 * clip.num_frames * clip.size * clip.size;
  const int gpu = batch.memory == nullptr ? -1 : batch.memory->device();
  const at::Device device =
      gpu < 0 ? at::Device(at::kCPU) : at::Device(at::kCUDA, c10::DeviceIndex(gpu));
  // Told where the memory is, torch does not ask the device.
  micro.video = at::for_blob(batch.video.data() + first * values,
                             {n, 3, clip.num_frames, clip.size, clip.size})
                    .options(at::TensorOptions(at::kByte).device(device))
                    .target_device(device)
                    .make_tensor();
  micro.label = at::empty({n}, at::kLong);
  for (int64_t i = 0; i < n; ++i) {
    const data::ClipPlan& plan = batch.clips[size_t(first + i)];
    micro.label.data_ptr<int64_t>()[i] = plan.label;
    micro.positions.push_back(plan.position);
  }
  const int64_t columns = n > 0 ? int64_t(batch.clips[size_t(first)].targets.size()) : 0;
  if (columns == 0) return micro;
  micro.target = at::empty({n, columns}, at::kFloat);
  for (int64_t i = 0; i < n; ++i)
    std::copy_n(batch.clips[size_t(first + i)].targets.data(), columns,
                micro.target.data_ptr<float>() + i * columns);
  return micro;
}

objective::MicroBatch to_device(objective::MicroBatch micro, at::Device device) {
  if (device.is_cpu()) return micro;
  for (at::Tensor* tensor : {&micro.video, &micro.label, &micro.target})
    if (tensor->defined()) *tensor = tensor->to(device, /*non_blocking=*/true);
  return micro;
}

objective::MicroBatch view_training_batch(data::Batch& batch, const Recipe& recipe, int64_t first,
                                          int64_t last) {
  objective::MicroBatch micro = view_batch(batch, recipe.clip, first, last);
  micro.step = batch.step;
  micro.batch_first = batch.step * recipe.batch_size;
  micro.batch_last = micro.batch_first + recipe.batch_size;
  return micro;
}

at::Tensor gather_rows(Env* env, const data::Dataset& dataset, const EvalOptions& options,
                       int decode_threads, dist::Communicator& communicator,
                       const data::MakeDecoder& make_decoder,
                       const std::function<void(int64_t, int64_t)>& progress,
                       const std::function<at::Tensor(const objective::MicroBatch&)>& rows_of,
                       const media::MakeBuffer& make_buffer) {
  const c10::NoGradGuard no_grad;
  const int64_t items = options.max_items > 0 ? std::min(options.max_items, dataset.sample_count())
                                              : dataset.sample_count();
  const int64_t rank = communicator.rank(), world = communicator.world_size();
  const int64_t first = items * rank / world, last = items * (rank + 1) / world;
  const int64_t views = dataset.views().count();
  const int64_t items_at_once = std::max<int64_t>(1, options.batch_size / views);
  const auto slice_of = [&](int64_t step) {
    const int64_t from = std::min(last, first + step * items_at_once);
    return data::Slice{from * views, std::min(last, from + items_at_once) * views};
  };
  data::Loader loader(env, dataset, slice_of, 0, false, decode_threads, 2, make_decoder,
                      make_buffer);
  // Ranks hold up to one item more than others: padded to the longest, cut again after the gather.
  const int64_t longest = (items + world - 1) / world;
  at::Tensor mine;
  int64_t columns = 0;
  for (int64_t done = 0; done < last - first;) {
    data::Batch& batch = loader.next();
    const int64_t clips = int64_t(batch.clips.size()), n = clips / views;
    objective::MicroBatch micro = view_batch(batch, dataset.clip(), 0, clips);
    micro.views = views;
    const at::Tensor rows = rows_of(micro);
    if (rows.size(0) != n)
      fail(ErrorKind::kUsage,
           "eval.views = {} x {}: this objective gave {} rows for {} items, so it does not average "
           "over views; set both to 1",
           dataset.views().temporal, dataset.views().spatial, rows.size(0), n);
    if (!mine.defined()) {
      columns = rows.size(1);
      mine = at::zeros({longest, columns}, at::kDouble);
    }
    mine.narrow(0, done, n).copy_(rows);
    done += n;
    if (progress) progress(done * world, items);
  }
  // A rank without items does not know how wide a row is.
  at::Tensor width = at::tensor({columns}, at::kLong);
  width = communicator.all_gather(width).max();
  if (!mine.defined()) mine = at::zeros({longest, width.item<int64_t>()}, at::kDouble);
  const at::Tensor all = communicator.all_gather(mine);
  std::vector<at::Tensor> rows;
  for (int64_t r = 0; r < world; ++r)
    rows.push_back(all[r].narrow(0, 0, items * (r + 1) / world - items * r / world));
  return at::cat(rows);
}

at::Tensor evaluate_rows(Env* env, objective::Objective& objective, const data::Dataset& dataset,
                         const EvalOptions& options, int decode_threads,
                         dist::Communicator& communicator, const data::MakeDecoder& make_decoder,
                         const std::function<void(int64_t, int64_t)>& progress,
                         const media::MakeBuffer& make_buffer) {
  return gather_rows(
      env, dataset, options, decode_threads, communicator, make_decoder, progress,
      [&](const objective::MicroBatch& micro) {
        if (objective.needs_label() && micro.label.lt(0).any().item<bool>())
          fail(ErrorKind::kData, "{}: an item has no label, which evaluating this objective needs",
               dataset.describe());
        return objective.evaluate(to_device(micro, objective.parameters().device()));
      },
      make_buffer);
}

nlohmann::ordered_json evaluate(Env* env, objective::Objective& objective,
                                const data::Dataset& dataset, const EvalOptions& options,
                                int decode_threads, dist::Communicator& communicator,
                                const data::MakeDecoder& make_decoder,
                                const std::function<void(int64_t, int64_t)>& progress,
                                const media::MakeBuffer& make_buffer) {
  return objective.summarize(evaluate_rows(env, objective, dataset, options, decode_threads,
                                           communicator, make_decoder, progress, make_buffer));
}

Features collect_features(Env* env, objective::Objective& objective, const data::Dataset& dataset,
                          const EvalOptions& options, int decode_threads,
                          dist::Communicator& communicator, const data::MakeDecoder& make_decoder,
                          const std::function<void(int64_t, int64_t)>& progress,
                          const media::MakeBuffer& make_buffer) {
  const at::Tensor rows = gather_rows(
      env, dataset, options, decode_threads, communicator, make_decoder, progress,
      [&](const objective::MicroBatch& micro) {
        const at::Tensor features =
            objective.features(to_device(micro, objective.parameters().device()));
        if (!features.defined())
          fail(ErrorKind::kUsage, "this objective has no encoder of whole clips");
        const at::Tensor label = micro.label.view({-1, micro.views}).select(1, 0).unsqueeze(1);
        return at::cat({label.to(at::kDouble), features.to(at::kDouble)}, 1);
      },
      make_buffer);
  return {rows.narrow(1, 1, rows.size(1) - 1).contiguous(), rows.select(1, 0).to(at::kLong)};
}

at::Tensor knn_scores(const Features& known, const at::Tensor& asked, int64_t k, int64_t classes,
                      double temperature) {
  const auto unit = [](const at::Tensor& x) { return x / x.norm(2, {1}, true).clamp_min(1e-12); };
  const at::Tensor from = unit(known.features).t(), to = unit(asked);
  const at::Tensor votes = at::zeros({asked.size(0), classes}, at::kDouble);
  constexpr int64_t kAtOnce = 256;  // rows of similarities in memory
  for (int64_t first = 0; first < asked.size(0); first += kAtOnce) {
    const int64_t n = std::min(kAtOnce, asked.size(0) - first);
    const auto [nearest, index] =
        at::matmul(to.narrow(0, first, n), from).topk(std::min(k, known.features.size(0)), 1);
    votes.narrow(0, first, n)
        .scatter_add_(1, known.labels.index_select(0, index.flatten()).view(index.sizes()),
                      (nearest / temperature).exp());
  }
  return votes;
}

}  // namespace keiko::train
