// The data of a recipe: one catalogue or a weighted mixture, and the plan of any sample in it.

#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "config/binder.h"
#include "data/catalogue.h"
#include "data/clip_plan.h"
#include "data/labels.h"
#include "data/order.h"
#include "data/targets.h"

namespace keiko::data {

struct DataSource {
  std::string path;             // a catalogue
  double weight = 1;            // share of the samples
  int64_t items_per_class = 0;  // the first n of every class only; 0: all
  std::string labels;           // a list of paths and labels for this run; "": the catalogue's own
  std::string targets;          // a list of paths and numbers to learn; "": none

  void bind(config::Binder& b);
};

// Safe to use from many threads at once.
class Dataset {
 public:
  // Opens all catalogues. Throws Error(kUsage) when there is none, when their class names or the
  // names of their targets differ, or when a list of labels or targets cannot be used. Logs what
  // such a list leaves out. `views` is what evaluation sees of each sample.
  Dataset(Env* env, const std::vector<DataSource>& sources, const ClipOptions& clip,
          const AugmentOptions& augment, uint64_t seed, int64_t shuffle_block,
          const ViewOptions& views = {});

  // The sample at a position of the endless training stream. The positions of a group, [g * R,
  // (g + 1) * R) with R = group_size(), are views of the same frames. `attempt` > 0 gives its
  // replacements, other items by (seed, first position of the group, attempt).
  ClipPlan training_clip(int64_t position, uint32_t attempt = 0) const;
  // Shows the first `samples` samples of the stream over and over (0: the whole stream): position p
  // shows what p modulo samples * group_size() shows, with the same crop and augmentation, but
  // keeps its own number, from which masks are drawn. Call before the first training_clip().
  void overfit(int64_t samples) { overfit_ = samples; }
  // A view, one of views().count(), of a sample of evaluation, one of sample_count(); indices run
  // over all sources, one after another. Throws Error(kInternal) for another index or view.
  ClipPlan evaluation_clip(int64_t index, int64_t view = 0) const;

  // Consecutive positions of the training stream that belong together (augment.repeats): batches,
  // slices and micro-batches hold whole groups.
  int64_t group_size() const { return augment_.repeats; }
  const ViewOptions& views() const { return views_; }
  // Items in use, or their windows with clip.sample_by = duration.
  int64_t sample_count() const;
  // Positions in one epoch: every sample, group_size() times.
  int64_t epoch_size() const { return int64_t(order_.epoch_size()) * group_size(); }
  const std::vector<std::string>& class_names() const { return sets_[0].class_names; }
  // In the order of ClipPlan::targets; empty: the data has none.
  const std::vector<std::string>& target_names() const { return sets_[0].targets.names; }
  // The same over the items in use, each once (whatever the weight of its source). Cost: a pass
  // over all of them.
  std::vector<TargetColumn> target_columns() const;
  std::shared_ptr<const Video> video_of(const ClipPlan& plan) const;
  const ClipOptions& clip() const { return clip_; }
  // Calls `visit` for the video of every item in use. Cost: reads the items and 8 bytes a video.
  void each_video_in_use(const std::function<void(const Catalogue& catalogue, uint32_t video,
                                                  uint64_t content_hash)>& visit) const;
  // Over all catalogues, the labels that take the place of their own, and the targets.
  uint64_t hash() const;
  // "train.kix (generation 1, 3f..)", for run.json and error messages.
  std::string describe() const;

 private:
  // One source. Memory: nothing for a whole catalogue; 8 bytes an item when some are chosen, 4 more
  // with labels, 4 more with targets (and the list itself), 8 more with windows.
  struct Set {
    std::shared_ptr<const Catalogue> catalogue;
    bool is_chosen = false;             // `chosen` holds the items in use; else all are
    std::vector<int64_t> chosen;        // ascending
    std::vector<int32_t> labels;        // of the chosen; empty: the items' own
    std::vector<uint64_t> window_ends;  // windows of all items up to each one; empty: by item
    std::vector<std::string> class_names;
    uint64_t labels_hash = 0;          // of `labels` with their names
    std::string targets_path;          // the list
    TargetList targets;                // without its paths; no names: there is none
    std::vector<int32_t> target_rows;  // of the chosen, in `targets`
    uint64_t targets_hash = 0;

    uint64_t item_count() const {
      return is_chosen ? chosen.size() : uint64_t(catalogue->item_count());
    }
    uint64_t sample_count() const {
      return window_ends.empty() ? item_count() : window_ends.back();
    }
    Item item(uint64_t index) const;
  };
  static std::vector<Set> open_sets(Env* env, const std::vector<DataSource>& sources,
                                    const ClipOptions& clip);
  static void choose_items(Env* env, const DataSource& source, const ClipOptions& clip, Set& set);
  static void finish_labels(const DataSource& source, const Labels& labels, int64_t left_out,
                            Set& set);
  static void finish_targets(const DataSource& source, Targets& targets, int64_t left_out,
                             Set& set);
  static std::vector<DataShare> shares_of(const std::vector<Set>& sets,
                                          const std::vector<DataSource>& sources);
  // Fills item, window, label, targets, frames, crop, flip and augment for the sample with this
  // index in its set.
  void plan_sample(uint64_t sample, bool training, ClipPlan& plan) const;

  std::vector<Set> sets_;
  ClipOptions clip_;
  AugmentOptions augment_;
  ViewOptions views_;
  uint64_t seed_;
  int64_t overfit_ = 0;  // samples; 0: all
  Order order_;          // over groups
};

}  // namespace keiko::data
