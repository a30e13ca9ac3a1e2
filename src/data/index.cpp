#include "data/index.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <filesystem>
#include <map>
#include <mutex>
#include <numeric>
#include <optional>
#include <thread>
#include <tuple>

#include "base/error.h"
#include "base/hash.h"
#include "data/catalogue.h"
#include "data/sources.h"
#include "media/clip_decoder.h"

namespace keiko::data {
namespace {

namespace fs = std::filesystem;

// Videos already scanned, by absolute path.
using Known = std::map<std::string, std::shared_ptr<const Video>>;

std::string canonical(const std::string& path) { return fs::weakly_canonical(path).string(); }

// Journal records: u64 size, u64 xxh3, bytes. A torn tail is where an earlier run was stopped.
void read_journal(Env* env, const std::string& path, Known& known, int64_t& good_length) {
  good_length = 0;
  if (!env->status(path).exists) return;
  const std::string text = read_text(env, path);
  while (text.size() - size_t(good_length) >= 16) {
    uint64_t size, hash;
    std::memcpy(&size, text.data() + good_length, 8);
    std::memcpy(&hash, text.data() + good_length + 8, 8);
    if (size > text.size() - size_t(good_length) - 16) return;
    const std::string_view bytes(text.data() + good_length + 16, size);
    if (xxh3(bytes) != hash) return;
    // Copied, because FlatBuffers wants its own alignment.
    const std::vector<uint8_t> aligned(bytes.begin(), bytes.end());
    try {
      auto video = std::make_shared<Video>(parse_video(aligned, path));
      known[video->file.path] = video;
    } catch (const Error&) {
      return;  // written by another version: cut off like a torn tail
    }
    good_length += 16 + int64_t(size);
  }
}

void read_previous(Env* env, const std::string& path, Known& known, uint64_t& generation) {
  const FileStatus status = env->status(path);
  if (!status.exists || status.size == 0) return;
  if (status.is_folder || !Catalogue::is_one(env, path))
    fail(ErrorKind::kUsage, "{}: exists and is not a catalogue; choose another --out, or remove it",
         path);
  try {
    const auto catalogue = Catalogue::open(env, path);
    generation = catalogue->generation();
    for (uint32_t i = 0; i < catalogue->video_count(); ++i) {
      auto video = std::make_shared<Video>(*catalogue->video(i));
      video->file.path = canonical(video->file.path);
      known[video->file.path] = video;
    }
  } catch (const Error& e) {
    if (e.kind() != ErrorKind::kData) throw;
    // A damaged catalogue, or one of another version, is replaced, and everything scanned again.
  }
}

Video scan(Env* env, const std::string& path, bool verify) {
  const FileStatus status = env->status(path);
  Video video;
  video.file.path = path;
  video.file.size = status.size;
  video.file.mtime_ns = status.mtime_ns;
  video.table = media::scan_video(path);
  video.file.content_hash = sampled_xxh3_of_file(path);
  if (verify) {
    std::vector<int64_t> all(size_t(video.table.frame_count()));
    std::iota(all.begin(), all.end(), int64_t{0});
    media::CpuClipDecoder(env).decode_frames(video.table, path, all,
                                             [](int64_t, const AVFrame&) {});
    if (video.table.corrupt_packets > 0)
      fail(ErrorKind::kData, "{}: {} damaged packets", path, video.table.corrupt_packets);
    video.file.is_verified = true;
  }
  return video;
}

}  // namespace

IndexReport build_catalogue(Env* env, const IndexOptions& options,
                            const std::function<void(int64_t, int64_t)>& progress) {
  const std::vector<SourceVideo> sources = find_videos(env, options.sources);
  Known known;
  uint64_t generation = 0;
  read_previous(env, options.out, known, generation);
  const std::string journal_path = options.out + ".journal";
  int64_t journal_length = 0;
  read_journal(env, journal_path, known, journal_length);
  const auto journal = env->append_to(journal_path, journal_length);

  struct Outcome {
    std::shared_ptr<const Video> video;
    std::string reason;
    bool was_known = false;
  };
  std::vector<Outcome> outcomes(sources.size());
  std::atomic<size_t> next{0};
  std::mutex mutex;
  int64_t done = 0;
  std::optional<Error> fatal;
  auto work = [&] {
    while (true) {
      const size_t i = next++;
      if (i >= sources.size()) return;
      Outcome& outcome = outcomes[i];
      std::string record;
      try {
        const std::string path = canonical(sources[i].path);
        const FileStatus status = env->status(path);
        const auto found = known.find(path);
        if (found != known.end() && found->second->file.size == status.size &&
            found->second->file.mtime_ns == status.mtime_ns &&
            (!options.verify || found->second->file.is_verified)) {
          outcome.video = found->second;
          outcome.was_known = true;
        } else {
          outcome.video = std::make_shared<Video>(scan(env, path, options.verify));
          record = serialize_video(*outcome.video);
        }
      } catch (const Error& e) {
        outcome.reason = e.what();
      } catch (const std::exception& e) {
        outcome.reason = sources[i].path + ": " + e.what();
      }
      std::lock_guard lock(mutex);
      if (fatal) return;
      ++done;
      try {
        if (!record.empty()) {
          const uint64_t head[2] = {record.size(), xxh3(std::string_view(record))};
          journal->append(std::string(reinterpret_cast<const char*>(head), 16) + record);
        }
      } catch (const Error& e) {
        fatal = e;
        return;
      }
      if (progress) progress(done, int64_t(sources.size()));
    }
  };
  std::vector<std::thread> threads;
  for (int t = 1; t < options.threads; ++t) threads.emplace_back(work);
  work();
  for (std::thread& thread : threads) thread.join();
  if (fatal) throw *fatal;

  IndexReport report;
  for (size_t i = 0; i < sources.size(); ++i)
    if (!sources[i].label.empty() && outcomes[i].video)
      report.class_names.push_back(sources[i].label);
  std::sort(report.class_names.begin(), report.class_names.end(),
            [](const std::string& a, const std::string& b) {
              // Numbers first and in their own order, so that class 10 comes after class 9.
              const auto key = [](const std::string& name) {
                const bool is_number = name.find_first_not_of("0123456789") == std::string::npos;
                return std::tuple(!is_number, is_number ? name.size() : 0, name);
              };
              return key(a) < key(b);
            });
  report.class_names.erase(std::unique(report.class_names.begin(), report.class_names.end()),
                           report.class_names.end());

  CatalogueWriter writer(options.out);
  writer.set_class_names(report.class_names);
  writer.set_generation(generation + 1);
  std::map<std::string, int32_t> label_of;
  for (size_t i = 0; i < report.class_names.size(); ++i)
    label_of[report.class_names[i]] = int32_t(i);
  for (size_t i = 0; i < sources.size(); ++i) {
    const Outcome& outcome = outcomes[i];
    if (!outcome.video) {
      report.skipped.push_back({sources[i].path, outcome.reason});
      continue;
    }
    Item item;
    item.video = writer.add_video(*outcome.video);
    item.label = sources[i].label.empty() ? -1 : label_of.at(sources[i].label);
    item.frame_count = outcome.video->table.frame_count();
    writer.add_item(item);
    ++report.videos;
    report.reused += outcome.was_known;
    report.frames += item.frame_count;
    report.bytes += outcome.video->file.size;
    report.direct_read += outcome.video->table.direct_read;
  }
  if (report.videos == 0) {
    env->remove(journal_path);
    std::string reasons;
    constexpr size_t kMostShown = 20;
    for (size_t i = 0; i < std::min(kMostShown, report.skipped.size()); ++i)
      reasons += "\n  " + report.skipped[i].reason;
    if (report.skipped.size() > kMostShown)
      reasons += fmt::format("\n  and {} more", report.skipped.size() - kMostShown);
    fail(ErrorKind::kData, "none of {} files could be indexed:{}", sources.size(), reasons);
  }
  writer.publish(env);
  env->remove(journal_path);
  return report;
}

}  // namespace keiko::data
