#include <spdlog/spdlog.h>
#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/hash.h"
#include "base/json_text.h"
#include "cli/command.h"
#include "cli/frames_option.h"
#include "data/catalogue.h"
#include "data/overlap.h"
#include "media/decode_plan.h"
#include "report/metrics.h"
#include "report/progress.h"
#include "train/checkpoint.h"

namespace keiko::cli {
namespace {

using nlohmann::ordered_json;

ordered_json describe_video(const std::string& path, const std::string& plan_frames) {
  const media::PacketTable t = media::scan_video(path);
  const media::StreamParameters& s = t.stream;
  const auto with = [&](media::PacketFlag flag) {
    return std::count_if(t.flags.begin(), t.flags.end(), [&](uint8_t f) { return f & flag; });
  };
  ordered_json j = {{"video", path},
                    {"container", s.format_name},
                    {"stream", s.stream_index},
                    {"codec", s.codec},
                    {"pixel_format", s.pixel_format},
                    {"width", s.width},
                    {"height", s.height},
                    {"rotation", s.rotation},
                    {"display_width", s.display_width()},
                    {"display_height", s.display_height()},
                    {"frames_per_second", s.frames_per_second()},
                    {"frames", t.frame_count()},
                    {"packets", t.packet_count()},
                    {"key_packets", with(media::kKeyPacket)},
                    {"random_access_points", with(media::kRandomAccess)},
                    {"droppable_packets", with(media::kDroppable)},
                    {"discarded_packets", with(media::kDiscard)},
                    {"corrupt_packets", t.corrupt_packets},
                    {"reorder_depth", s.reorder_depth}};
  j["direct_read"] = t.direct_read ? ordered_json(true) : ordered_json("off: " + t.direct_read_off);
  j["skipping"] = t.skipping ? ordered_json(true) : ordered_json("off: " + t.skipping_off);
  j["reuse"] = t.reuse_off.empty() ? ordered_json(true) : ordered_json("off: " + t.reuse_off);
  j["mapped_by_decoding"] = t.mapped_by_decoding;
  if (!plan_frames.empty()) {
    const auto plan = media::plan_decode(t, parse_frames(plan_frames, t.frame_count()));
    int64_t bytes = 0;
    ordered_json reads = ordered_json::array();
    for (const auto& r : plan.reads) {
      reads.push_back({r.offset, r.size});
      bytes += r.size;
    }
    j["plan"] = {{"frames", plan.frames},
                 {"packets", plan.packets},
                 {"restarts", plan.restarts},
                 {"reads", reads},
                 {"packets_decoded", plan.packets.size()},
                 {"packets_dropped", plan.dropped},
                 {"bytes", bytes}};
  }
  return j;
}

// `against`: another catalogue whose videos are looked for in this one, or "".
ordered_json describe_catalogue(const std::string& path, const std::string& against) {
  const auto c = data::Catalogue::open(default_env(), path);
  ordered_json j = {{"catalogue", path},        {"generation", c->generation()},
                    {"created", c->created()},  {"hash", hex64(c->hash())},
                    {"items", c->item_count()}, {"videos", c->video_count()}};
  std::map<std::string, int64_t> codecs, classes;
  int64_t frames = 0, bytes = 0, direct = 0, skipping = 0;
  // Summaries alone: reading every table of a million videos would take minutes.
  c->each_summary([&](uint32_t index, const data::VideoSummary& s) {
    frames += s.frame_count;
    bytes += s.file.size;
    direct += s.direct_read;
    if (!s.codec.empty()) {
      ++codecs[s.codec];
      skipping += s.skipping;
      return;
    }
    const media::PacketTable table = data::parse_video(c->record(index), path).table;
    ++codecs[table.stream.codec];
    skipping += table.skipping;
  });
  double seconds = 0;
  c->each_item([&](int64_t, const data::Item& item) {
    ++classes[item.label < 0 ? "(none)" : c->class_names()[size_t(item.label)]];
    seconds += item.duration_s;
  });
  j["frames"] = frames;
  j["hours"] = seconds / 3600;
  j["bytes"] = bytes;
  j["codecs"] = codecs;
  j["videos_read_directly"] = direct;
  j["videos_with_skipping"] = skipping;
  if (!against.empty()) {
    const auto overlap = data::find_overlap(*c, *data::Catalogue::open(default_env(), against));
    j["against"] = against;
    j["videos_also_in_this"] = overlap.count;
    j["first_of_them"] = overlap.first_paths;
  }
  j["items_by_class"] = classes;
  return j;
}

ordered_json describe_checkpoint(const std::string& path) {
  ordered_json j = {{"checkpoint", path}};
  j["committed"] = default_env()->status(path + "/COMMIT").exists;
  j["state"] = ordered_json::parse(read_text(default_env(), path + "/state.json"));
  int64_t numbers = 0;
  const auto loaded = train::load_checkpoint(default_env(), path);
  for (const auto& [name, tensor] : loaded.weights) numbers += tensor.numel();
  j["tensors"] = loaded.weights.size();
  j["parameters"] = numbers;
  return j;
}

ordered_json describe_run(const std::string& path) {
  ordered_json j = {{"run", path}};
  j["checkpoints"] = train::list_checkpoints(default_env(), path + "/checkpoints");
  const auto lines = report::read_json_lines(default_env(), path + "/metrics.jsonl");
  for (const char* kind : {"train", "eval"})
    for (auto line = lines.rbegin(); line != lines.rend(); ++line)
      if (line->value("kind", "") == kind) {
        j[std::string("last_") + kind] = *line;
        break;
      }
  if (default_env()->status(path + "/run.json").exists)
    j["starts"] = ordered_json::parse(read_text(default_env(), path + "/run.json"))["starts"];
  return j;
}

void print_words(const ordered_json& j, int indent, bool are_user_names = false) {
  for (const auto& [key, value] : j.items()) {
    std::string name = key;
    // Field names read better with spaces; names that the user gave stay as they are.
    if (!are_user_names) std::replace(name.begin(), name.end(), '_', ' ');
    const std::string start = std::string(size_t(indent), ' ') + name;
    if (value.is_object()) {
      std::printf("%s\n", start.c_str());
      print_words(value, indent + 2, key.find("by_class") != std::string::npos);
      continue;
    }
    std::string text = value.is_string() ? value.get<std::string>() : value.dump();
    if (value.is_number_integer() && name != "stream")
      text = report::count_text(value.get<int64_t>());
    if (text.size() > 160) text = text.substr(0, 157) + "...";
    std::printf("%-*s %s\n", 26, start.c_str(), text.c_str());
  }
}

}  // namespace

void add_inspect(CLI::App& app, Action& action) {
  auto* c =
      app.add_subcommand("inspect", "Say what a video, catalogue, checkpoint or run folder holds");
  struct Options {
    std::string what, plan, against;
    bool json = false;
  };
  auto o = std::make_shared<Options>();
  c->add_option("what", o->what, "A video file, NAME.kix, a checkpoint folder or a run folder")
      ->required();
  c->add_option("--plan", o->plan,
                "Of a video: the decode plan of these frames (all, 0,4,8 or 10-19)");
  c->add_option("--against", o->against,
                "Of a catalogue: another one; count its videos that are in the first, by content");
  c->add_flag("--json", o->json, "Print JSON");
  c->callback([o, &action] {
    action = [o] {
      Env* env = default_env();
      const FileStatus status = env->status(o->what);
      if (!status.exists) fail(ErrorKind::kUsage, "{}: no such file or folder", o->what);
      ordered_json j;
      if (status.is_folder && env->status(o->what + "/state.json").exists)
        j = describe_checkpoint(o->what);
      else if (status.is_folder && env->status(o->what + "/metrics.jsonl").exists)
        j = describe_run(o->what);
      else if (status.is_folder && env->status(o->what + "/pack.kix").exists)
        j = describe_catalogue(o->what, o->against);
      else if (status.is_folder)
        fail(ErrorKind::kUsage,
             "{}: neither a run folder, a checkpoint nor a finished pack (no metrics.jsonl, "
             "state.json or pack.kix)",
             o->what);
      else if (o->what.size() > 4 && o->what.substr(o->what.size() - 4) == ".kix")
        j = describe_catalogue(o->what, o->against);
      else
        j = describe_video(o->what, o->plan);
      if (o->json)
        std::printf("%s\n", json_text(j, 2).c_str());
      else
        print_words(j, 0);
      return 0;
    };
  });
}

}  // namespace keiko::cli
