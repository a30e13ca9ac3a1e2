#include "train/batch_cut.h"

#include "base/error.h"

namespace keiko::train {

int64_t group_of(const Recipe& recipe) {
  const auto& options = recipe.objective.options;
  return recipe.augment.repeats * (options ? options->group_size() : 1);
}

void check_batch(const Recipe& recipe, int64_t group, int64_t world_size) {
  const auto check = [&](const char* key, int64_t value) {
    if (value % group == 0) return;
    const int64_t below = value / group * group;
    fail(ErrorKind::kUsage,
         "{} = {} is not a multiple of {}, the clips that belong together (augment.repeats = {} "
         "views of an item{}); use {}{}",
         key, value, group, recipe.augment.repeats,
         group > recipe.augment.repeats ? ", mixup partners" : "",
         below > 0 ? std::to_string(below) + " or " : "", below + group);
  };
  check("batch_size", recipe.batch_size);
  check("micro_batch_size", recipe.micro_batch_size);
  if (recipe.batch_size / group >= world_size) return;
  if (group == 1)
    fail(ErrorKind::kUsage,
         "batch_size = {} is smaller than the world size {}; every rank needs a clip",
         recipe.batch_size, world_size);
  fail(ErrorKind::kUsage,
       "batch_size = {} holds {} groups of {} clips (augment.repeats = {}), fewer than the world "
       "size {}; every rank needs a group",
       recipe.batch_size, recipe.batch_size / group, group, recipe.augment.repeats, world_size);
}

data::Slice slice_of_rank(int64_t step, int64_t batch_size, int64_t group, int64_t rank,
                          int64_t world_size) {
  const int64_t groups = batch_size / group, first = step * batch_size;
  return {first + groups * rank / world_size * group,
          first + groups * (rank + 1) / world_size * group};
}

int64_t micro_batch_of(const Recipe& recipe, int64_t clips, int64_t group) {
  const int64_t micro =
      recipe.micro_batch_size > 0 ? recipe.micro_batch_size : std::max<int64_t>(1, clips);
  if (clips % group != 0 || (micro < clips && micro % group != 0))
    fail(ErrorKind::kInternal, "{} clips in micro-batches of {} cut groups of {}", clips, micro,
         group);
  return micro;
}

int64_t most_micro_batches(const Recipe& recipe, int64_t group, int64_t world_size) {
  const int64_t groups = recipe.batch_size / group;
  const int64_t clips = (groups + world_size - 1) / world_size * group;
  const int64_t micro = micro_batch_of(recipe, clips, group);
  return (clips + micro - 1) / micro;
}

}  // namespace keiko::train
