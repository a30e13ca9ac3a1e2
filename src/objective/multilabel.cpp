#include "objective/multilabel.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

namespace keiko::objective {
namespace {

constexpr size_t kMostListed = 1000;  // classes whose figures are written one by one

class MultiLabel : public Task {
 public:
  MultiLabel(std::vector<std::string> names, double label_smoothing)
      : names_(std::move(names)), label_smoothing_(label_smoothing) {}

  LossSums loss(const at::Tensor& outputs, const MicroBatch& batch,
                const MixTensors& mix) const override {
    const at::Tensor wanted = mixed_columns(batch.target, mix);
    const at::Tensor is_known = wanted.isnan().logical_not();
    const at::Tensor smoothed =
        wanted.nan_to_num(0.0) * (1 - label_smoothing_) + label_smoothing_ / 2;
    const at::Tensor is_right = outputs.detach().ge(0).eq(wanted.ge(0.5));
    return {mean_over_known(cross_entropy(outputs, smoothed), is_known).sum(),
            mean_over_known(is_right.to(at::kDouble), is_known).sum().view({1})};
  }
  std::vector<std::string> metric_names() const override { return {"accuracy"}; }

  std::vector<std::string> evaluation_columns() const override {
    std::vector<std::string> columns = {"loss"};
    for (const std::string& name : names_) columns.push_back("score_" + name);
    for (const std::string& name : names_) columns.push_back("target_" + name);
    return columns;
  }

  // The score is the logit of the mean probability: far from 1/2 it still tells clips apart.
  at::Tensor rows(const at::Tensor& outputs, const MicroBatch& batch) const override {
    at::Tensor score = outputs.to(at::kDouble), target = batch.target.to(at::kDouble);
    if (batch.views > 1) {
      const int64_t items = score.size(0) / batch.views;
      const at::Tensor views = score.view({items, batch.views, -1});
      score = at::log_sigmoid(views).logsumexp(at::IntArrayRef{1}) -
              at::log_sigmoid(-views).logsumexp(at::IntArrayRef{1});
      target = target.view({items, batch.views, -1}).select(1, 0);
    }
    const at::Tensor loss =
        mean_over_known(cross_entropy(score, target.nan_to_num(0.0)), target.isnan().logical_not());
    return at::cat({loss.unsqueeze(1), score, target}, 1);
  }

  nlohmann::ordered_json summarize(const at::Tensor& rows) const override {
    const int64_t classes = int64_t(names_.size());
    const at::Tensor score = rows.narrow(1, 1, classes);
    const at::Tensor target = rows.narrow(1, 1 + classes, classes);
    const at::Tensor is_known = target.isnan().logical_not();
    const at::Tensor is_positive = target.ge(0.5), is_said = score.ge(0).logical_and(is_known);
    nlohmann::ordered_json out;
    out["clips"] = rows.size(0);
    out["loss"] = mean_loss(rows.select(1, 0), is_known);

    nlohmann::ordered_json by_class;
    double sum = 0, chance = 0;
    int64_t judged = 0;
    for (int64_t c = 0; c < classes; ++c) {
      const at::Tensor which = is_known.select(1, c);
      const at::Tensor positives = is_positive.select(1, c).index({which});
      const double precision = average_precision(score.select(1, c).index({which}), positives);
      if (std::isnan(precision)) continue;
      by_class[names_[size_t(c)]] = precision;
      sum += precision;
      chance += positives.to(at::kDouble).mean().item<double>();
      ++judged;
    }
    if (judged > 0) {
      out["map"] = sum / double(judged);
      out["map_chance"] = chance / double(judged);
    }
    const auto count = [](const at::Tensor& is) { return is.sum().item<double>(); };
    const double hits = count(is_said.logical_and(is_positive));
    const double said = count(is_said), positive = count(is_positive);
    if (said + positive > 0) out["f1"] = 2 * hits / (said + positive);
    if (names_.size() <= kMostListed && judged > 0) out["ap_by_class"] = by_class;
    return out;
  }

  std::string problem_type() const override { return "multi_label_classification"; }

 private:
  static at::Tensor cross_entropy(const at::Tensor& logits, const at::Tensor& target) {
    return at::binary_cross_entropy_with_logits(logits, target.to(logits.scalar_type()), {}, {},
                                                at::Reduction::None);
  }

  std::vector<std::string> names_;
  double label_smoothing_;
};

}  // namespace

std::unique_ptr<Task> make_multilabel(std::vector<std::string> names, double label_smoothing) {
  return std::make_unique<MultiLabel>(std::move(names), label_smoothing);
}

double average_precision(const at::Tensor& score_in, const at::Tensor& is_positive_in) {
  const at::Tensor score = score_in.contiguous(), is_positive = is_positive_in.contiguous();
  std::vector<std::pair<double, bool>> all;
  for (int64_t i = 0; i < score.numel(); ++i) {
    const double value = score.const_data_ptr<double>()[i];
    all.emplace_back(std::isnan(value) ? -std::numeric_limits<double>::infinity() : value,
                     is_positive.const_data_ptr<bool>()[i]);
  }
  std::sort(all.begin(), all.end(), std::greater<>());
  double sum = 0;
  int64_t hits = 0;
  for (size_t first = 0, last = 0; first < all.size(); first = last) {
    int64_t gained = 0;
    while (last < all.size() && all[last].first == all[first].first) gained += all[last++].second;
    hits += gained;
    sum += double(gained) * double(hits) / double(last);
  }
  return hits > 0 ? sum / double(hits) : std::numeric_limits<double>::quiet_NaN();
}

}  // namespace keiko::objective
