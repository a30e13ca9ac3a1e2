#include "data/index.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <filesystem>
#include <mutex>
#include <optional>
#include <thread>
#include <tuple>
#include <unordered_map>
#include <unordered_set>

#include "base/error.h"
#include "base/hash.h"
#include "base/retry.h"
#include "data/catalogue.h"
#include "data/index_journal.h"
#include "data/index_ranks.h"
#include "data/sources.h"
#include "media/trial.h"

namespace keiko::data {
namespace {

namespace fs = std::filesystem;

// What became of one source. Tables stay on the disk, so that memory does not grow with them.
struct Outcome {
  enum { kNotYet, kKnown, kScanned, kSkipped, kRepeated } state = kNotYet;
  RecordPlace place;       // kKnown; of kScanned `where` alone, in this run's journal
  uint64_t path_hash = 0;  // xxh3 of the absolute path
  std::string reason;      // kSkipped
  bool is_missing = false;
};

std::string canonical(const std::string& path) { return fs::weakly_canonical(path).string(); }

std::shared_ptr<const Catalogue> open_previous(Env* env, const std::string& path) {
  const FileStatus status = env->status(path);
  if (!status.exists || (status.size == 0 && !status.is_folder)) return nullptr;
  if (status.is_folder || !Catalogue::is_one(env, path))
    fail(ErrorKind::kUsage, "{}: exists and is not a catalogue; choose another --out, or remove it",
         path);
  try {
    return Catalogue::open(env, path);
  } catch (const Error& e) {
    if (e.kind() != ErrorKind::kData) throw;
    // A damaged catalogue, or one of another version, is replaced, and everything scanned again.
    return nullptr;
  }
}

Video scan(Env* env, const std::string& path, bool verify) {
  const FileStatus status = env->status(path);
  Video video;
  video.file.path = path;
  video.file.size = status.size;
  video.file.mtime_ns = status.mtime_ns;
  video.table = media::scan_video(path, env);
  video.file.content_hash = sampled_xxh3_of_file(path, env);
  if (verify) {
    media::verify_video(env, path, video.table);
    video.file.is_verified = true;
  }
  return video;
}

// One run of build_catalogue on one rank.
class Indexing {
 public:
  Indexing(Env* env, const IndexOptions& options,
           const std::function<void(int64_t, int64_t)>& progress)
      : env_(env),
        options_(options),
        progress_(progress),
        sources_(find_videos(env, options.sources)),
        outcomes_(sources_.size()),
        ranks_(env, options.out, options.rank, options.world_size, options.timeout_s),
        known_(env) {}

  IndexReport run();

 private:
  void add_all_journals();
  void process(int64_t rank);
  Video scan_patiently(const std::string& path) const;
  void process_one(size_t i);
  ShareReport report_share_to_rank_0() const;
  IndexReport report_share() const;
  VideoSummary add_video(CatalogueWriter& writer, size_t i, uint32_t fresh, uint32_t& index);
  IndexReport publish_catalogue();

  Env* env_;
  const IndexOptions& options_;
  const std::function<void(int64_t, int64_t)>& progress_;
  std::vector<SourceVideo> sources_;
  std::vector<Outcome> outcomes_;
  IndexRanks ranks_;
  KnownVideos known_;
  uint64_t previous_generation_ = 0;
  std::unique_ptr<JournalWriter> journal_;
  std::unordered_map<std::string, SkippedFile> skipped_by_others_;
  int64_t scanned_by_others_ = 0;
  std::mutex mutex_;                              // of what follows
  std::unordered_map<uint64_t, size_t> claimed_;  // path hash -> the source that is scanned
  int64_t done_ = 0;
};

IndexReport Indexing::run() {
  try_patiently([&] {
    if (const auto previous = open_previous(env_, options_.out)) {
      previous_generation_ = previous->generation();
      known_.add_catalogue(previous);
    }
  });
  int64_t length = 0;
  add_all_journals();
  try_patiently([&] { known_.add_journal(ranks_.journal(), &length); });
  journal_ = std::make_unique<JournalWriter>(env_, ranks_.journal(), length);
  if (options_.rank != 0) {
    try {
      process(options_.rank);
    } catch (const std::exception& e) {
      ranks_.finish_share({}, e.what());
      throw;
    }
    ranks_.finish_share(report_share_to_rank_0(), "");
    return report_share();
  }
  process(0);
  if (options_.world_size > 1) {
    ShareReport others = ranks_.wait_for_shares();
    scanned_by_others_ = others.scanned;
    for (SkippedFile& f : others.skipped) skipped_by_others_[f.path] = std::move(f);
    add_all_journals();
    // What the others have scanned is known now; whatever is not (a file that changed meanwhile)
    // is scanned here.
    for (int64_t r = 1; r < options_.world_size; ++r) process(r);
  }
  return publish_catalogue();
}

// What is added again after a failed read replaces what was added before.
void Indexing::add_all_journals() {
  for (const std::string& path : ranks_.all_journals())
    try_patiently([&] { known_.add_journal(path, nullptr); });
}

void Indexing::process(int64_t rank) {
  std::atomic<size_t> next{size_t(rank)};
  std::optional<Error> fatal;
  const int64_t total = int64_t(sources_.size());
  auto work = [&] {
    while (true) {
      const size_t i = next.fetch_add(size_t(options_.world_size));
      if (i >= sources_.size()) return;
      try {
        process_one(i);
      } catch (const Error& e) {
        std::lock_guard lock(mutex_);
        if (!fatal) fatal = e;
      }
      std::lock_guard lock(mutex_);
      if (fatal) return;
      ++done_;
      if (progress_)
        progress_(options_.rank == 0 ? done_ : std::min(total, done_ * options_.world_size), total);
    }
  };
  std::vector<std::thread> threads;
  for (int t = 1; t < options_.threads; ++t) threads.emplace_back(work);
  work();
  for (std::thread& thread : threads) thread.join();
  if (fatal) throw *fatal;
}

// A read that fails is tried again, as the loader does: a network file system may only be late.
Video Indexing::scan_patiently(const std::string& path) const {
  Video video;
  try_patiently([&] { video = scan(env_, path, options_.verify); });
  return video;
}

// Throws only what must end the run: a journal that cannot be written, or a file that cannot be
// read although nothing is wrong with it.
void Indexing::process_one(size_t i) {
  Outcome& outcome = outcomes_[i];
  outcome.state = Outcome::kSkipped;  // unless nothing throws
  VideoSummary summary;
  std::string record;
  try {
    const std::string path = canonical(sources_[i].path);
    outcome.path_hash = xxh3(std::string_view(path));
    {
      std::lock_guard lock(mutex_);
      if (!claimed_.try_emplace(outcome.path_hash, i).second) {
        outcome.state = Outcome::kRepeated;
        return;
      }
    }
    FileStatus status;
    try_patiently([&] { status = env_->status(path); });
    if (!status.exists) {
      outcome.is_missing = true;
      outcome.reason = sources_[i].path + ": no such file";
      return;
    }
    const auto found = known_.find(path);
    if (found && found->size == status.size && found->mtime_ns == status.mtime_ns &&
        (!options_.verify || found->is_verified)) {
      outcome.state = Outcome::kKnown;
      outcome.place = found->place;
      return;
    }
    const auto skipped = skipped_by_others_.find(path);
    if (skipped != skipped_by_others_.end() && skipped->second.size == status.size &&
        skipped->second.mtime_ns == status.mtime_ns) {
      outcome.reason = skipped->second.reason;
      return;
    }
    Video video = scan_patiently(path);
    summary = summarize(video);
    video.file.path.clear();
    record = serialize_video(video);
  } catch (const std::exception& e) {
    const auto* error = dynamic_cast<const Error*>(&e);
    // What may not be opened (no permission, a pipe) is a fact about that file; a disk or a network
    // that fails is not, and would leave good videos out.
    outcome.is_missing = error != nullptr && error->cause() == ENOENT;  // since a moment ago
    if (error != nullptr && error->kind() == ErrorKind::kIo && !is_lasting(*error) &&
        !outcome.is_missing)
      fail(ErrorKind::kIo,
           "{}. It was tried several times. Mend the disk or the network and run the same command "
           "again: what was scanned is kept beside {}",
           e.what(), options_.out);
    outcome.reason = e.what();
    if (outcome.reason.find(sources_[i].path) == std::string::npos)
      outcome.reason = sources_[i].path + ": " + outcome.reason;
    return;
  }
  outcome.place.where = journal_->append(summary, record);
  outcome.state = Outcome::kScanned;
}

ShareReport Indexing::report_share_to_rank_0() const {
  ShareReport report;
  for (size_t i = 0; i < sources_.size(); ++i) {
    report.scanned += outcomes_[i].state == Outcome::kScanned;
    if (outcomes_[i].state != Outcome::kSkipped || outcomes_[i].is_missing) continue;
    const std::string path = canonical(sources_[i].path);
    const FileStatus status = env_->status(path);
    report.skipped.push_back({path, status.size, status.mtime_ns, outcomes_[i].reason});
  }
  return report;
}

IndexReport Indexing::report_share() const {
  IndexReport report;
  report.is_published = false;
  for (size_t i = 0; i < sources_.size(); ++i) {
    const Outcome& outcome = outcomes_[i];
    report.videos += outcome.state == Outcome::kKnown || outcome.state == Outcome::kScanned;
    report.reused += outcome.state == Outcome::kKnown;
    report.missing += outcome.is_missing;
    if (outcome.state == Outcome::kSkipped)
      report.skipped.push_back({sources_[i].path, outcome.reason});
  }
  return report;
}

// Adds the video of a source that was scanned, now or before, and says what is known of it.
// Throws Error(kData) when its record was damaged and it cannot be scanned again.
VideoSummary Indexing::add_video(CatalogueWriter& writer, size_t i, uint32_t fresh,
                                 uint32_t& index) {
  RecordPlace place = outcomes_[i].place;
  if (outcomes_[i].state == Outcome::kScanned) place.source = fresh;
  VideoSummary summary;
  std::vector<uint8_t> record;
  try {
    try_patiently([&] { summary = known_.read(place, record); });
  } catch (const Error& e) {
    if (e.kind() != ErrorKind::kData) throw;
    const Video video = scan_patiently(canonical(sources_[i].path));
    index = writer.add_video(video);
    outcomes_[i].state = Outcome::kScanned;
    return summarize(video);
  }
  index = writer.add_record(summary, record);
  return summary;
}

IndexReport Indexing::publish_catalogue() {
  IndexReport report;
  uint32_t fresh = 0;
  try_patiently([&] { fresh = known_.add_journal(ranks_.journal(), nullptr); });
  CatalogueWriter writer(env_, options_.out);
  constexpr uint32_t kNone = UINT32_MAX;
  std::vector<uint32_t> item_of(sources_.size(), kNone);  // of the source that was scanned
  std::vector<bool> seen(sources_.size());
  std::vector<std::pair<Item, size_t>> items;       // and their sources
  std::unordered_map<uint64_t, size_t> by_content;  // content hash -> source
  for (size_t i = 0; i < sources_.size(); ++i) {
    const auto claim = claimed_.find(outcomes_[i].path_hash);
    const size_t first = claim == claimed_.end() ? i : claim->second;
    if (seen[first]) {
      if (++report.duplicate_paths <= int64_t(IndexReport::kMostNamed))
        report.first_duplicate_paths.push_back(sources_[i].path);
      if (item_of[first] != kNone) items.emplace_back(items[item_of[first]].first, i);
      continue;
    }
    seen[first] = true;
    Outcome& outcome = outcomes_[first];
    Item item;
    VideoSummary summary;
    if (outcome.state != Outcome::kSkipped) {
      try {
        summary = add_video(writer, first, fresh, item.video);
      } catch (const Error& e) {
        if (e.kind() != ErrorKind::kData) throw;
        outcome.state = Outcome::kSkipped;
        outcome.reason = e.what();
      }
    }
    if (outcome.state == Outcome::kSkipped) {
      report.skipped.push_back({sources_[i].path, outcome.reason});
      report.missing += outcome.is_missing;
      continue;
    }
    const auto twin = by_content.try_emplace(summary.file.content_hash, i);
    if (!twin.second && ++report.duplicate_contents <= int64_t(IndexReport::kMostNamed))
      report.first_duplicate_contents.emplace_back(sources_[i].path,
                                                   sources_[twin.first->second].path);
    item.frame_count = summary.frame_count;
    item_of[first] = uint32_t(items.size());
    items.emplace_back(item, i);
    ++report.videos;
    report.reused += outcome.state == Outcome::kKnown;
    report.frames += item.frame_count;
    report.bytes += summary.file.size;
    report.direct_read += summary.direct_read;
  }
  if (items.empty()) {
    ranks_.clean_up();
    std::string reasons;
    constexpr size_t kMostShown = 20;
    for (size_t i = 0; i < std::min(kMostShown, report.skipped.size()); ++i)
      reasons += "\n  " + report.skipped[i].reason;
    if (report.skipped.size() > kMostShown)
      reasons += fmt::format("\n  and {} more", report.skipped.size() - kMostShown);
    fail(ErrorKind::kData, "none of {} files could be indexed:{}", sources_.size(), reasons);
  }
  std::vector<std::string> labels;
  for (const auto& [item, source] : items)
    if (!sources_[source].label.empty()) labels.push_back(sources_[source].label);
  report.class_names = sort_class_names(labels);
  std::unordered_map<std::string, int32_t> label_of;
  for (size_t i = 0; i < report.class_names.size(); ++i)
    label_of[report.class_names[i]] = int32_t(i);
  for (auto& [item, source] : items) {
    const std::string& label = sources_[source].label;
    item.label = label.empty() ? -1 : label_of.at(label);
    writer.add_item(item);
  }
  report.items = int64_t(items.size());
  // Videos that other ranks scanned in this run were known to this one, but not reused.
  report.reused = std::max<int64_t>(0, report.reused - scanned_by_others_);
  writer.set_class_names(report.class_names);
  writer.set_generation(previous_generation_ + 1);
  writer.publish();
  ranks_.clean_up();
  return report;
}

}  // namespace

std::vector<std::string> sort_class_names(const std::vector<std::string>& labels) {
  // Repeats go first: there are as many labels as videos, and few names.
  const std::unordered_set<std::string> distinct(labels.begin(), labels.end());
  std::vector<std::string> names(distinct.begin(), distinct.end());
  std::sort(names.begin(), names.end(), [](const std::string& a, const std::string& b) {
    // Numbers first and in their own order, so that class 10 comes after class 9.
    const auto key = [](const std::string& name) {
      const bool is_number = name.find_first_not_of("0123456789") == std::string::npos;
      return std::tuple(!is_number, is_number ? name.size() : 0, name);
    };
    return key(a) < key(b);
  });
  return names;
}

IndexReport build_catalogue(Env* env, const IndexOptions& options,
                            const std::function<void(int64_t, int64_t)>& progress) {
  return Indexing(env, options, progress).run();
}

}  // namespace keiko::data
