#include "data/dataset.h"

#include "base/error.h"
#include "base/hash.h"
#include "base/rng.h"

namespace keiko::data {

void DataSource::bind(config::Binder& b) {
  // Free: what must not change is the content, whose hash is compared apart from the recipe.
  b.key("path", path, "a catalogue made by keiko index").required().free();
  b.key("weight", weight, "share of the samples").range(1e-6, 1e6);
  b.key("items_per_class", items_per_class, "only the first n items of each class; 0 is all")
      .at_least(0);
}

std::vector<Dataset::Set> Dataset::open_sets(Env* env, const std::vector<DataSource>& sources) {
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
    if (source.items_per_class > 0) {
      std::vector<int64_t> taken(set.catalogue->class_names().size() + 1);
      for (int64_t i = 0; i < set.catalogue->item_count(); ++i)
        if (taken.at(size_t(set.catalogue->item(i).label + 1))++ < source.items_per_class)
          set.chosen.push_back(i);
    }
    if (!sets.empty() && set.catalogue->class_names() != sets[0].catalogue->class_names())
      fail(ErrorKind::kUsage, "{} and {} have different classes; index them together",
           sources[0].path, source.path);
    sets.push_back(std::move(set));
  }
  return sets;
}

std::vector<DataShare> Dataset::shares_of(const std::vector<Set>& sets,
                                          const std::vector<DataSource>& sources) {
  std::vector<DataShare> shares;
  for (size_t i = 0; i < sets.size(); ++i)
    shares.push_back({uint64_t(sets[i].size()), sources[i].weight});
  return shares;
}

Dataset::Dataset(Env* env, const std::vector<DataSource>& sources, const ClipOptions& clip,
                 const AugmentOptions& augment, uint64_t seed, int64_t shuffle_block)
    : sets_(open_sets(env, sources)),
      clip_(clip),
      augment_(augment),
      seed_(seed),
      order_(shares_of(sets_, sources), seed, uint64_t(shuffle_block)) {}

ItemShape Dataset::shape_of(const Set& set, const Item& item) const {
  const auto video = set.catalogue->video(item.video);
  if (item.first_frame > video->table.frame_count() - item.frame_count)
    fail(ErrorKind::kData, "{}: an item reaches over the end of {}", set.catalogue->path(),
         video->file.path);
  const media::StreamParameters& stream = video->table.stream;
  return {item.first_frame, item.frame_count, stream.display_width(), stream.display_height()};
}

ClipPlan Dataset::training_clip(int64_t position, uint32_t attempt) const {
  const OrderPlace place = order_.at(uint64_t(position));
  const Set& set = sets_[place.data_set];
  ClipPlan plan;
  plan.position = position;
  plan.attempt = attempt;
  plan.data_set = place.data_set;
  plan.epoch = place.epoch;
  plan.item = place.item;
  // A replacement is drawn from the same data set, far behind the order's own draws.
  if (attempt > 0)
    plan.item =
        Rng(seed_, Stream::kOrder, uint64_t(position), attempt << 16).below(uint64_t(set.size()));
  const Item item = set.item(plan.item);
  plan.label = item.label;
  plan_training_clip(clip_, augment_, seed_, shape_of(set, item), plan);
  return plan;
}

ClipPlan Dataset::evaluation_clip(int64_t index) const {
  ClipPlan plan;
  plan.position = index;
  int64_t within = index;
  while (within >= sets_[plan.data_set].size()) within -= sets_[plan.data_set++].size();
  const Set& set = sets_[plan.data_set];
  plan.item = uint64_t(within);
  const Item item = set.item(plan.item);
  plan.label = item.label;
  plan_evaluation_clip(clip_, seed_, shape_of(set, item), plan);
  return plan;
}

int64_t Dataset::item_count() const {
  int64_t count = 0;
  for (const Set& set : sets_) count += set.size();
  return count;
}

std::shared_ptr<const Video> Dataset::video_of(const ClipPlan& plan) const {
  const Set& set = sets_[plan.data_set];
  return set.catalogue->video(set.item(plan.item).video);
}

uint64_t Dataset::hash() const {
  std::string text;
  for (const Set& set : sets_) text += hex64(set.catalogue->hash());
  return xxh3(std::string_view(text));
}

std::string Dataset::describe() const {
  std::string text;
  for (const Set& set : sets_)
    text += fmt::format("{}{} (generation {}, {}, {} items)", text.empty() ? "" : ", ",
                        set.catalogue->path(), set.catalogue->generation(),
                        hex64(set.catalogue->hash()), set.size());
  return text;
}

}  // namespace keiko::data
