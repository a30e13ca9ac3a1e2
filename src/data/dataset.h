// The data of a recipe: one catalogue or a weighted mixture, and the plan of any sample in it.

#pragma once
#include <memory>
#include <string>
#include <vector>

#include "config/binder.h"
#include "data/catalogue.h"
#include "data/clip_plan.h"
#include "data/order.h"

namespace keiko::data {

struct DataSource {
  std::string path;             // a catalogue
  double weight = 1;            // share of the samples
  int64_t items_per_class = 0;  // the first n of every class only; 0: all

  void bind(config::Binder& b);
};

// Safe to use from many threads at once.
class Dataset {
 public:
  // Opens all catalogues. Throws Error(kUsage) when there is none, or when their class names
  // differ.
  Dataset(Env* env, const std::vector<DataSource>& sources, const ClipOptions& clip,
          const AugmentOptions& augment, uint64_t seed, int64_t shuffle_block);

  // The sample at a position of the endless training stream. `attempt` > 0 gives its replacements,
  // other items by (seed, position, attempt).
  ClipPlan training_clip(int64_t position, uint32_t attempt = 0) const;
  // The sample of an item in evaluation; indices run over all sources, one after another.
  ClipPlan evaluation_clip(int64_t index) const;

  int64_t item_count() const;
  // Samples in one epoch.
  int64_t epoch_size() const { return int64_t(order_.epoch_size()); }
  const std::vector<std::string>& class_names() const { return sets_[0].catalogue->class_names(); }
  std::shared_ptr<const Video> video_of(const ClipPlan& plan) const;
  const ClipOptions& clip() const { return clip_; }
  // Over all catalogues.
  uint64_t hash() const;
  // "train.kix (generation 1, 3f..)", for run.json and error messages.
  std::string describe() const;

 private:
  struct Set {
    std::shared_ptr<const Catalogue> catalogue;
    std::vector<int64_t> chosen;  // items in use; empty: all
    int64_t size() const {
      return chosen.empty() ? catalogue->item_count() : int64_t(chosen.size());
    }
    Item item(uint64_t index) const {
      return catalogue->item(chosen.empty() ? int64_t(index) : chosen[index]);
    }
  };
  static std::vector<Set> open_sets(Env* env, const std::vector<DataSource>& sources);
  static std::vector<DataShare> shares_of(const std::vector<Set>& sets,
                                          const std::vector<DataSource>& sources);
  ItemShape shape_of(const Set& set, const Item& item) const;

  std::vector<Set> sets_;
  ClipOptions clip_;
  AugmentOptions augment_;
  uint64_t seed_;
  Order order_;
};

}  // namespace keiko::data
