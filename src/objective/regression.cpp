#include "objective/regression.h"

#include <ATen/ATen.h>

#include <cmath>
#include <map>
#include <numeric>

namespace keiko::objective {
namespace {

class Regression : public Task {
 public:
  Regression(const std::vector<TargetColumn>& targets, const std::string& loss)
      : is_smooth_l1_(loss == "smooth_l1") {
    std::vector<double> means, stds;
    for (const TargetColumn& target : targets) {
      names_.push_back(target.name);
      means.push_back(target.mean);
      stds.push_back(target.std);
    }
    mean_ = at::tensor(means, at::kDouble);
    std_ = at::tensor(stds, at::kDouble);
  }

  void move_to(at::Device device) override {
    mean_ = mean_.to(device);
    std_ = std_.to(device);
  }

  LossSums loss(const at::Tensor& outputs, const MicroBatch& batch,
                const MixTensors& mix) const override {
    const at::Tensor wanted = (mixed_columns(batch.target, mix) - mean_) / std_;
    const at::Tensor is_known = wanted.isnan().logical_not();
    const at::Tensor known = wanted.nan_to_num(0.0);
    const at::Tensor apart = (outputs.detach().to(at::kDouble) - known).abs();
    return {mean_over_known(distance(outputs, known), is_known).sum(),
            mean_over_known(apart, is_known).sum().view({1})};
  }
  // In standardised units: the mean over targets of unlike units would mean nothing.
  std::vector<std::string> metric_names() const override { return {"scaled_mae"}; }

  std::vector<std::string> evaluation_columns() const override {
    std::vector<std::string> columns = {"loss"};
    for (const std::string& name : names_) columns.push_back("predicted_" + name);
    for (const std::string& name : names_) columns.push_back("target_" + name);
    return columns;
  }

  at::Tensor rows(const at::Tensor& outputs, const MicroBatch& batch) const override {
    at::Tensor predicted = outputs.to(at::kDouble), target = batch.target.to(at::kDouble);
    if (batch.views > 1) {
      const int64_t items = predicted.size(0) / batch.views;
      predicted = predicted.view({items, batch.views, -1}).mean(1);
      target = target.view({items, batch.views, -1}).select(1, 0);
    }
    const at::Tensor wanted = ((target - mean_) / std_).nan_to_num(0.0);
    const at::Tensor loss =
        mean_over_known(distance(predicted, wanted), target.isnan().logical_not());
    return at::cat({loss.unsqueeze(1), predicted * std_ + mean_, target}, 1);
  }

  nlohmann::ordered_json summarize(const at::Tensor& rows) const override {
    const int64_t columns = int64_t(names_.size());
    const at::Tensor predicted = rows.narrow(1, 1, columns);
    const at::Tensor target = rows.narrow(1, 1 + columns, columns);
    const at::Tensor is_known = target.isnan().logical_not();
    nlohmann::ordered_json out, by_target;
    out["clips"] = rows.size(0);
    out["loss"] = mean_loss(rows.select(1, 0), is_known);
    std::map<std::string, std::vector<double>> over_targets;
    for (int64_t c = 0; c < columns; ++c) {
      const at::Tensor which = is_known.select(1, c);
      const at::Tensor p = predicted.select(1, c).index({which});
      const at::Tensor t = target.select(1, c).index({which});
      if (t.numel() == 0) continue;
      by_target[names_[size_t(c)]] = judge(p, t);
      for (const auto& [key, value] : by_target.back().items())
        over_targets[key].push_back(value.get<double>());
    }
    // Errors of unlike units have no mean.
    for (const char* key : {"mae", "rmse", "r2", "pearson"}) {
      const std::vector<double>& values = over_targets[key];
      const bool has_unit = key != std::string("r2") && key != std::string("pearson");
      if (values.empty() || (has_unit && columns > 1)) continue;
      out[key] = std::accumulate(values.begin(), values.end(), 0.0) / double(values.size());
    }
    if (!by_target.is_null()) out["by_target"] = by_target;
    return out;
  }

  std::vector<model::NamedTensor> statistics() const override {
    return {{kTargetMean, mean_}, {kTargetStd, std_}};
  }
  std::string problem_type() const override { return "regression"; }

 private:
  at::Tensor distance(const at::Tensor& outputs, const at::Tensor& wanted_in) const {
    const at::Tensor wanted = wanted_in.to(outputs.scalar_type());
    return is_smooth_l1_ ? at::smooth_l1_loss(outputs, wanted, at::Reduction::None, /*beta=*/1.0)
                         : at::mse_loss(outputs, wanted, at::Reduction::None);
  }

  // Of one target. R^2 is beside the mean of the very items that are judged. Without a spread there
  // is no R^2 and no correlation.
  static nlohmann::ordered_json judge(const at::Tensor& predicted, const at::Tensor& target) {
    const at::Tensor error = predicted - target;
    const at::Tensor t = target - target.mean(), p = predicted - predicted.mean();
    const auto sum = [](const at::Tensor& x) { return x.sum().item<double>(); };
    const double squares = sum(error.square()), spread = sum(t.square());
    const double n = double(target.numel());
    // Not by the sum of squares, which rounding keeps from being 0.
    const auto varies = [](const at::Tensor& x) { return x.max().gt(x.min()).item<bool>(); };
    nlohmann::ordered_json figures = {
        {"clips", target.numel()}, {"mae", sum(error.abs()) / n}, {"rmse", std::sqrt(squares / n)}};
    if (varies(target)) figures["r2"] = 1 - squares / spread;
    if (varies(target) && varies(predicted))
      figures["pearson"] = sum(p * t) / std::sqrt(spread * sum(p.square()));
    return figures;
  }

  std::vector<std::string> names_;
  bool is_smooth_l1_;
  at::Tensor mean_, std_;  // float64 [targets]
};

}  // namespace

std::unique_ptr<Task> make_regression(const std::vector<TargetColumn>& targets,
                                      const std::string& loss) {
  return std::make_unique<Regression>(targets, loss);
}

}  // namespace keiko::objective
