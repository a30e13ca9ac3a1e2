#include "data/dataset.h"

#include <fmt/ranges.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cmath>
#include <span>

#include "base/error.h"
#include "base/hash.h"
#include "base/rng.h"

namespace keiko::data {
namespace {

// "dx, dy", or how many when there are many.
std::string names_text(const std::vector<std::string>& names) {
  if (names.size() > 8) return fmt::format("{} targets", names.size());
  return names.empty() ? "none" : fmt::format("{}", fmt::join(names, ", "));
}

}  // namespace

void DataSource::bind(config::Binder& b) {
  // Free: what must not change is the content, whose hash is compared apart from the recipe.
  b.key("path", path, "a catalogue made by keiko index, or a pack's folder").required().free();
  b.key("weight", weight, "share of the samples").range(1e-6, 1e6);
  b.key("items_per_class", items_per_class, "only the first n items of each class; 0 is all")
      .at_least(0);
  // Free for the same reason.
  b.key("labels", labels, "list of paths and labels in the place of the catalogue's own").free();
  b.key("targets", targets, "table of paths and numbers to learn, a column each").free();
}

Item Dataset::Set::item(uint64_t index) const {
  Item item = catalogue->item(is_chosen ? chosen.at(index) : int64_t(index));
  if (!labels.empty()) item.label = labels[index];
  return item;
}

std::vector<Dataset::Set> Dataset::open_sets(Env* env, const std::vector<DataSource>& sources,
                                             const ClipOptions& clip) {
  if (sources.empty())
    fail(ErrorKind::kUsage, "data is missing; give a catalogue, such as data=train.kix");
  std::vector<Set> sets;
  for (const DataSource& source : sources) {
    Set set;
    if (!env->status(source.path).exists)
      fail(ErrorKind::kUsage, "data: {} does not exist; make it with keiko index FOLDER --out {}",
           source.path, source.path);
    set.catalogue = Catalogue::open(env, source.path);
    if (set.catalogue->item_count() == 0)
      fail(ErrorKind::kData, "{}: the catalogue has no items", source.path);
    set.class_names = set.catalogue->class_names();
    choose_items(env, source, clip, set);
    if (!sets.empty() && set.class_names != sets[0].class_names)
      fail(ErrorKind::kUsage, "{} and {} have different classes; index them together",
           sources[0].path, source.path);
    if (!sets.empty() && set.targets.names != sets[0].targets.names)
      fail(ErrorKind::kUsage,
           "{} and {} have different targets ({}; {}); give both the same columns in the same "
           "order",
           sources[0].path, source.path, names_text(sets[0].targets.names),
           names_text(set.targets.names));
    sets.push_back(std::move(set));
  }
  return sets;
}

void Dataset::choose_items(Env* env, const DataSource& source, const ClipOptions& clip, Set& set) {
  const bool has_labels = !source.labels.empty(), has_targets = !source.targets.empty();
  const bool has_windows = clip.sample_by == "duration";
  set.is_chosen = has_labels || has_targets || source.items_per_class > 0;
  if (!set.is_chosen && !has_windows) return;
  Labels labels;
  if (has_labels) {
    labels = read_labels(env, source.labels, *set.catalogue);
    set.class_names = labels.class_names;
  }
  Targets targets;
  if (has_targets) targets = read_targets(env, source.targets, *set.catalogue);
  std::vector<int64_t> taken(set.class_names.size() + 1);
  uint64_t windows = 0;
  int64_t unlabelled = 0, untargeted = 0;
  if (has_windows) set.window_ends.reserve(size_t(set.catalogue->item_count()));
  set.catalogue->each_item([&](int64_t index, const Item& item) {
    const int32_t label = has_labels ? labels.of_video[item.video] : item.label;
    const int32_t row = has_targets ? targets.of_video[item.video] : -1;
    const bool lacks_label = has_labels && label < 0, lacks_target = has_targets && row < 0;
    unlabelled += lacks_label;
    untargeted += lacks_target;
    if (lacks_label || lacks_target) return;
    if (source.items_per_class > 0 && taken.at(size_t(label + 1))++ >= source.items_per_class)
      return;
    if (set.is_chosen) set.chosen.push_back(index);
    if (has_labels) set.labels.push_back(label);
    if (has_targets) set.target_rows.push_back(row);
    if (!has_windows) return;
    windows += uint64_t(window_count(item.duration_s, item.frame_count, clip.window_s));
    if (windows > uint64_t{1} << 62)
      fail(ErrorKind::kData, "{}: item {} claims {} s; make the catalogue again with keiko index",
           source.path, index, item.duration_s);
    set.window_ends.push_back(windows);
  });
  if (has_labels) finish_labels(source, labels, unlabelled, set);
  if (has_targets) finish_targets(source, targets, untargeted, set);
}

void Dataset::finish_labels(const DataSource& source, const Labels& labels, int64_t left_out,
                            Set& set) {
  if (set.chosen.empty())
    fail(ErrorKind::kUsage, "{}: no item of {} has a label in it{}", source.labels, source.path,
         source.targets.empty() ? "" : " and a target in " + source.targets);
  std::string text;
  for (const std::string& name : set.class_names) text += name + "\n";
  for (size_t i = 0; i < set.chosen.size(); ++i)
    text.append(reinterpret_cast<const char*>(&set.chosen[i]), 8)
        .append(reinterpret_cast<const char*>(&set.labels[i]), 4);
  set.labels_hash = xxh3(std::string_view(text));
  spdlog::info(
      "labels {}: {} items in {} classes; {} items of {} have no label there and are left out",
      source.labels, set.chosen.size(), set.class_names.size(), left_out, source.path);
  if (labels.unmatched.count > 0)
    spdlog::warn("labels {}: {} of {} lines match no video of {}, such as {}", source.labels,
                 labels.unmatched.count, labels.lines, source.path,
                 fmt::join(labels.unmatched.first, ", "));
}

void Dataset::finish_targets(const DataSource& source, Targets& targets, int64_t left_out,
                             Set& set) {
  if (set.chosen.empty())
    fail(ErrorKind::kUsage, "{}: no item of {} has a target in it", source.targets, source.path);
  const size_t lines = targets.list.paths.size();
  targets.list.paths = {};
  set.targets = std::move(targets.list);
  set.targets_path = source.targets;
  const auto bytes_of = [](const auto* first, size_t count) {
    return std::span(reinterpret_cast<const uint8_t*>(first), count * sizeof(*first));
  };
  RunningXxh3 hash;
  for (const std::string& name : set.targets.names) {
    hash.add(bytes_of(name.data(), name.size()));
    hash.add(bytes_of("\n", 1));
  }
  for (size_t i = 0; i < set.chosen.size(); ++i) {
    hash.add(bytes_of(&set.chosen[i], 1));
    hash.add(bytes_of(set.targets.row(size_t(set.target_rows[i])), set.targets.names.size()));
  }
  set.targets_hash = hash.value();
  spdlog::info("targets {}: {} items with {}; {} items of {} have none there and are left out",
               source.targets, set.chosen.size(), names_text(set.targets.names), left_out,
               source.path);
  if (targets.unmatched.count > 0)
    spdlog::warn("targets {}: {} of {} lines match no video of {}, such as {}", source.targets,
                 targets.unmatched.count, lines, source.path,
                 fmt::join(targets.unmatched.first, ", "));
}

std::vector<TargetColumn> Dataset::target_columns() const {
  std::vector<TargetColumn> columns(target_names().size());
  const auto each_known = [&](const auto& visit) {
    for (const Set& set : sets_)
      for (const int32_t row : set.target_rows)
        for (size_t c = 0; c < columns.size(); ++c)
          if (const float value = set.targets.row(size_t(row))[c]; !std::isnan(value))
            visit(columns[c], value, set, size_t(row));
  };
  each_known([](TargetColumn& column, float value, const Set& set, size_t row) {
    const auto place = [&] {
      return fmt::format("{}:{}", set.targets_path, set.targets.line[row]);
    };
    if (column.known == 0 || value < column.low) {
      column.low = value;
      column.low_place = place();
    }
    if (column.known == 0 || value > column.high) {
      column.high = value;
      column.high_place = place();
    }
    ++column.known;
    column.mean += double(value);
  });
  for (TargetColumn& column : columns) column.mean /= double(std::max<int64_t>(1, column.known));
  // In a second pass: the difference of large sums would lose a small spread.
  std::vector<double> squares(columns.size());
  each_known([&](TargetColumn& column, float value, const Set&, size_t) {
    const double apart = double(value) - column.mean;
    squares[size_t(&column - columns.data())] += apart * apart;
  });
  for (size_t c = 0; c < columns.size(); ++c) {
    columns[c].name = target_names()[c];
    if (columns[c].low < columns[c].high)
      columns[c].std = std::sqrt(squares[c] / double(columns[c].known));
  }
  return columns;
}

std::vector<DataShare> Dataset::shares_of(const std::vector<Set>& sets,
                                          const std::vector<DataSource>& sources) {
  std::vector<DataShare> shares;
  for (size_t i = 0; i < sets.size(); ++i)
    shares.push_back({sets[i].sample_count(), sources[i].weight});
  return shares;
}

Dataset::Dataset(Env* env, const std::vector<DataSource>& sources, const ClipOptions& clip,
                 const AugmentOptions& augment, uint64_t seed, int64_t shuffle_block,
                 const ViewOptions& views)
    : sets_(open_sets(env, sources, clip)),
      clip_(clip),
      augment_(augment),
      views_(views),
      seed_(seed),
      order_(shares_of(sets_, sources), seed, uint64_t(shuffle_block)) {}

void Dataset::plan_sample(uint64_t sample, bool training, ClipPlan& plan) const {
  const Set& set = sets_[plan.data_set];
  const std::vector<uint64_t>& ends = set.window_ends;
  plan.item = sample;
  uint64_t windows = 1;
  if (!ends.empty()) {
    plan.item = uint64_t(std::upper_bound(ends.begin(), ends.end(), sample) - ends.begin());
    const uint64_t before = plan.item == 0 ? 0 : ends[plan.item - 1];
    plan.window = sample - before;
    windows = ends[plan.item] - before;
  }
  const Item item = set.item(plan.item);
  plan.label = item.label;
  if (!set.target_rows.empty()) {
    const float* const row = set.targets.row(size_t(set.target_rows[plan.item]));
    plan.targets.assign(row, row + set.targets.names.size());
  }
  const auto video = set.catalogue->video(item.video);
  if (item.first_frame > video->table.frame_count() - item.frame_count)
    fail(ErrorKind::kData, "{}: an item reaches over the end of {}", set.catalogue->path(),
         video->file.path);
  const media::StreamParameters& stream = video->table.stream;
  ItemShape shape{item.first_frame, item.frame_count, stream.display_width(),
                  stream.display_height()};
  constexpr double kOrdinaryRate = 25;
  const FrameTimes times(video->table, video->has_times, item.first_frame, item.frame_count,
                         clip_.fps > 0 ? clip_.fps : kOrdinaryRate);
  if (clip_.fps > 0 || windows > 1) shape.times = &times;
  if (windows > 1) {
    // A slide show has fewer frames than windows would fit: then they are longer.
    const bool are_longer = int64_t(windows) == item.frame_count;
    const double length = are_longer ? times.duration() / double(windows) : clip_.window_s;
    shape.window_start_s = double(plan.window) * length;
    if (plan.window + 1 < windows) shape.window_end_s = double(plan.window + 1) * length;
  }
  if (training)
    plan_training_clip(clip_, augment_, seed_, shape, plan);
  else
    plan_evaluation_clip(clip_, views_, seed_, shape, plan);
}

ClipPlan Dataset::training_clip(int64_t own_position, uint32_t attempt) const {
  const int64_t position = overfit_ > 0 ? own_position % (overfit_ * group_size()) : own_position;
  const int64_t group = position / group_size();
  const OrderPlace place = order_.at(uint64_t(group));
  ClipPlan plan;
  plan.position = position;
  plan.attempt = attempt;
  plan.data_set = place.data_set;
  plan.epoch = place.epoch;
  uint64_t sample = place.item;
  // A replacement is drawn from the same data set, far behind the order's own draws.
  if (attempt > 0)
    sample = Rng(seed_, Stream::kOrder, uint64_t(group * group_size()), attempt << 16)
                 .below(sets_[place.data_set].sample_count());
  plan_sample(sample, true, plan);
  plan.position = own_position;
  return plan;
}

ClipPlan Dataset::evaluation_clip(int64_t index, int64_t view) const {
  if (index < 0 || index >= sample_count())
    fail(ErrorKind::kInternal, "sample {} is outside the {} of the evaluation data", index,
         sample_count());
  if (view < 0 || view >= views_.count())
    fail(ErrorKind::kInternal, "view {} is outside the {} of a sample", view, views_.count());
  ClipPlan plan;
  plan.position = index;
  plan.view = view;
  uint64_t within = uint64_t(index);
  while (within >= sets_[plan.data_set].sample_count())
    within -= sets_[plan.data_set++].sample_count();
  plan_sample(within, false, plan);
  return plan;
}

int64_t Dataset::sample_count() const {
  uint64_t count = 0;
  for (const Set& set : sets_) count += set.sample_count();
  return int64_t(count);
}

void Dataset::each_video_in_use(
    const std::function<void(const Catalogue&, uint32_t, uint64_t)>& visit) const {
  for (const Set& set : sets_) {
    const std::vector<uint64_t> hashes = set.catalogue->content_hashes();
    auto next = set.chosen.begin();
    set.catalogue->each_item([&](int64_t index, const Item& item) {
      if (set.is_chosen && (next == set.chosen.end() || *next != index)) return;
      if (set.is_chosen) ++next;
      visit(*set.catalogue, item.video, hashes[item.video]);
    });
  }
}

std::shared_ptr<const Video> Dataset::video_of(const ClipPlan& plan) const {
  const Set& set = sets_[plan.data_set];
  return set.catalogue->video(set.item(plan.item).video);
}

uint64_t Dataset::hash() const {
  std::string text;
  for (const Set& set : sets_) {
    text += hex64(set.catalogue->hash());
    if (!set.labels.empty()) text += " labels " + hex64(set.labels_hash);
    if (!set.target_rows.empty()) text += " targets " + hex64(set.targets_hash);
  }
  return xxh3(std::string_view(text));
}

std::string Dataset::describe() const {
  std::string text;
  for (const Set& set : sets_)
    text += fmt::format("{}{} (generation {}, {}, {} items)", text.empty() ? "" : ", ",
                        set.catalogue->path(), set.catalogue->generation(),
                        hex64(set.catalogue->hash()), set.item_count());
  return text;
}

}  // namespace keiko::data
