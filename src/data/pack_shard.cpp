#include "data/pack_shard.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/hash.h"
#include "base/json_text.h"
#include "data/tar.h"

namespace keiko::data {
namespace {

using nlohmann::ordered_json;

std::string shard_path(const std::string& folder, int64_t shard, const char* suffix) {
  return folder + "/" + shard_name(shard) + suffix;
}

std::string name_of(const Catalogue& source, int64_t item) {
  return member_name(item, source.video(source.item(item).video)->file.path);
}

// Hands bytes [offset, offset + size) of a file to `receive` in pieces, and returns their hash.
// Throws Error(kData) when the file does not reach so far.
uint64_t read_pieces(Env* env, const std::string& path, int64_t offset, int64_t size,
                     const std::function<void(std::span<const uint8_t>)>& receive) {
  constexpr int64_t kPiece = 1 << 20;
  const auto file = env->open(path);
  // What was written of a part or member may be damaged.
  if (offset < 0 || size < 0 || size > file->size() || offset > file->size() - size)
    fail(ErrorKind::kData, "{}: ends at byte {}, but {} bytes at byte {} were expected", path,
         file->size(), size, offset);
  RunningXxh3 hash;
  std::vector<uint8_t> bytes(static_cast<size_t>(std::min(size, kPiece)));
  for (int64_t done = 0; done < size; done += int64_t(bytes.size())) {
    bytes.resize(size_t(std::min(kPiece, size - done)));
    file->read(offset + done, bytes);
    hash.add(bytes);
    receive(bytes);
  }
  return hash.value();
}

// The member's table with positions in the shard. Geometry, colour and rotation are the source's
// own: not every container can say them.
media::PacketTable table_in_shard(Env* env, const std::string& part_path, int64_t offset,
                                  const media::StreamParameters& source, bool is_exact) {
  media::PacketTable table = media::scan_video(part_path, env);
  for (int64_t& position : table.position) position += offset;
  media::StreamParameters& s = table.stream;
  s.rotation = source.rotation;
  if (is_exact) {
    s.sample_aspect_num = source.sample_aspect_num;
    s.sample_aspect_den = source.sample_aspect_den;
    s.color_range = source.color_range;
    s.color_primaries = source.color_primaries;
    s.color_transfer = source.color_transfer;
    s.color_space = source.color_space;
    s.chroma_location = source.chroma_location;
  }
  return table;
}

}  // namespace

bool shard_is_done(Env* env, const std::string& folder, int64_t shard) {
  return env->status(shard_path(folder, shard, ".kix")).exists;
}

void write_shard(Env* env, const Catalogue& source, const PackPlan& plan, const std::string& folder,
                 int64_t shard, const std::function<void()>& working) {
  const std::string parts = folder + "/parts", tar = shard_path(folder, shard, ".tar");
  ShardSummary summary;
  std::vector<std::pair<Item, Video>> members;
  std::vector<std::string> done;  // files under parts/ that are no longer needed
  {
    const auto file = env->create(tar + ".tmp");
    for (int64_t i = plan.first_items[size_t(shard)]; i < plan.last_item(shard); ++i) {
      const std::string name = name_of(source, i);
      PackPart part;
      if (!read_part(env, parts, name, part))
        fail(ErrorKind::kData, "{}/{}: the part is gone; run the same command again", parts, name);
      const Item item = source.item(i);
      const auto video = source.video(item.video);
      done.push_back(parts + "/" + name + ".json");
      if (!part.skipped.empty()) {
        summary.skipped.push_back({i, video->file.path, part.skipped});
        continue;
      }
      const std::string path = parts + "/" + part.file;
      done.push_back(path);
      const std::string header = tar_header(part.file, part.bytes);
      const int64_t offset = summary.bytes + int64_t(header.size());
      file->append(header);
      const uint64_t hash =
          read_pieces(env, path, 0, part.bytes, [&](std::span<const uint8_t> bytes) {
            file->append(bytes);
            if (working) working();
          });
      if (hash != part.hash) {
        env->remove(parts + "/" + name + ".json");
        fail(ErrorKind::kData,
             "{}: its bytes changed since it was written; run the same command again, and look at "
             "that disk",
             path);
      }
      const std::string padding = tar_padding(part.bytes);
      file->append(padding);
      summary.bytes = offset + part.bytes + int64_t(padding.size());
      summary.totals.add(part.totals);
      Video packed;
      packed.file.path = tar;
      packed.file.is_verified = true;
      packed.file.member = {part.file, offset, part.bytes, part.hash};
      packed.table = table_in_shard(env, path, offset, video->table.stream, plan.choice.is_exact());
      members.push_back({{0, item.label, part.first_frame, part.frame_count}, std::move(packed)});
    }
    file->append(tar_end());
    summary.bytes += int64_t(tar_end().size());
    file->sync();
  }
  env->rename(tar + ".tmp", tar);
  env->sync_folder(folder);

  ordered_json skipped = ordered_json::array();
  for (const SkippedItem& s : summary.skipped)
    skipped.push_back({{"item", s.item}, {"path", s.path}, {"reason", s.reason}});
  const ordered_json j = {{"bytes", summary.bytes},
                          {"totals", ordered_json::parse(totals_to_text(summary.totals))},
                          {"skipped", skipped}};
  publish(env, shard_path(folder, shard, ".json"), json_text(j) + "\n");

  CatalogueWriter writer(env, shard_path(folder, shard, ".kix"));
  writer.set_class_names(source.class_names());
  const uint64_t content_hash = sampled_xxh3_of_file(tar, env);
  for (auto& [item, video] : members) {
    video.file.size = summary.bytes;
    video.file.content_hash = content_hash;
    // No modification time: a pack is copied as a whole, and its content decides.
    video.file.mtime_ns = 0;
    item.video = writer.add_video(video);
    writer.add_item(item);
  }
  writer.publish();
  for (const std::string& path : done) env->remove(path);
}

ShardSummary read_shard_summary(Env* env, const std::string& folder, int64_t shard) {
  const std::string path = shard_path(folder, shard, ".json");
  const auto j = nlohmann::json::parse(read_text(env, path), nullptr, false);
  try {
    ShardSummary s;
    s.bytes = j.at("bytes");
    s.totals = totals_from_text(j.at("totals").dump());
    for (const auto& one : j.at("skipped"))
      s.skipped.push_back({one.at("item"), one.at("path"), one.at("reason")});
    return s;
  } catch (const nlohmann::json::exception& e) {
    fail(ErrorKind::kData, "{}: not the summary of a shard ({}); remove {} and run again", path,
         e.what(), shard_path(folder, shard, ".kix"));
  }
}

void join_shards(Env* env, const Catalogue& source, const PackPlan& plan,
                 const std::string& folder) {
  CatalogueWriter writer(env, folder + "/pack.kix");
  writer.set_class_names(source.class_names());
  for (int64_t s = 0; s < plan.shard_count(); ++s) {
    const auto shard = Catalogue::open(env, shard_path(folder, s, ".kix"));
    for (int64_t i = 0; i < shard->item_count(); ++i) {
      Item item = shard->item(i);
      item.video = writer.add_video(*shard->video(item.video));
      writer.add_item(item);
    }
  }
  writer.publish();
}

void check_source(Env* env, const Video& video) {
  const std::string& path = video.file.path;
  const FileStatus status = env->status(path);
  if (!status.exists)
    fail(ErrorKind::kIo,
         "{}: the video is gone; it was there when it was indexed. Bring it back, or run keiko "
         "index again",
         path);
  if (status.size != video.file.size ||
      (status.mtime_ns != video.file.mtime_ns &&
       sampled_xxh3_of_file(path, env) != video.file.content_hash))
    fail(ErrorKind::kIo,
         "{}: the video changed since it was indexed ({} bytes then, {} now); run keiko index "
         "again",
         path, video.file.size, status.size);
}

std::string damage_of_member(Env* env, const Video& video) {
  const VideoFile::Member& m = video.file.member;
  if (m.name.empty()) return fmt::format("{}: not a member of a shard", video.file.path);
  try {
    const std::string expected = tar_header(m.name, m.size);
    std::string header;
    read_pieces(env, video.file.path, m.offset - kTarBlock, kTarBlock,
                [&](std::span<const uint8_t> bytes) { header.assign(bytes.begin(), bytes.end()); });
    if (header != expected)
      return fmt::format("{}: the tar header of {} is damaged", video.file.path, m.name);
    if (read_pieces(env, video.file.path, m.offset, m.size, [](std::span<const uint8_t>) {}) !=
        m.hash)
      return fmt::format("{}: the bytes of {} are damaged", video.file.path, m.name);
  } catch (const Error& e) {
    if (e.kind() != ErrorKind::kData) throw;
    return e.what();
  }
  return "";
}

}  // namespace keiko::data
