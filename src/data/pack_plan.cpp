#include "data/pack_plan.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

extern "C" {
#include <libavutil/mathematics.h>
#include <libavutil/rational.h>
}

#include "base/error.h"
#include "base/hash.h"
#include "base/json_text.h"

namespace keiko::data {
namespace {

using nlohmann::ordered_json;

std::string plan_path(const std::string& folder) { return folder + "/plan.json"; }

ordered_json to_json(const PackChoice& c) {
  return {{"for", c.purpose},
          {"short_side", c.short_side},
          {"fps", c.frames_per_second},
          {"crf", c.crf},
          {"gop", c.gop},
          {"shard_bytes", c.shard_bytes}};
}

}  // namespace

PackChoice default_choice(const std::string& purpose) {
  PackChoice c;
  c.purpose = purpose;
  if (purpose == "speed") return c;
  if (purpose == "size") {
    c.crf = 23;
    c.gop = 48;
    return c;
  }
  if (purpose == "exact") {
    c.short_side = 0;
    c.crf = c.gop = 0;
    return c;
  }
  fail(ErrorKind::kUsage, "--for {} is not known; use speed, size or exact", purpose);
}

PackPlan make_pack_plan(const Catalogue& catalogue, const PackChoice& choice) {
  PackPlan plan;
  plan.choice = choice;
  plan.catalogue = catalogue.path();
  plan.catalogue_hash = catalogue.hash();
  plan.item_count = catalogue.item_count();
  int64_t bytes = 0;
  for (int64_t i = 0; i < plan.item_count; ++i) {
    const Item item = catalogue.item(i);
    const auto video = catalogue.video(item.video);
    const double share = double(item.frame_count) / double(video->table.frame_count());
    const int64_t own = int64_t(double(video->file.size) * std::min(1.0, share));
    if (i == 0 || bytes + own > choice.shard_bytes) {
      plan.first_items.push_back(i);
      bytes = 0;
    }
    bytes += own;
  }
  return plan;
}

void write_pack_plan(Env* env, const std::string& folder, const PackPlan& plan) {
  const ordered_json j = {{"version", 1},
                          {"catalogue", plan.catalogue},
                          {"catalogue_hash", hex64(plan.catalogue_hash)},
                          {"items", plan.item_count},
                          {"options", to_json(plan.choice)},
                          {"first_items", plan.first_items}};
  publish(env, plan_path(folder), json_text(j) + "\n");
}

PackPlan read_pack_plan(Env* env, const std::string& folder) {
  const auto j = nlohmann::json::parse(read_text(env, plan_path(folder)), nullptr, false);
  try {
    PackPlan plan;
    if (j.at("version") != 1) fail(ErrorKind::kData, "version {}", j.at("version").dump());
    plan.catalogue = j.at("catalogue");
    plan.catalogue_hash = std::stoull(j.at("catalogue_hash").get<std::string>(), nullptr, 16);
    plan.item_count = j.at("items");
    plan.first_items = j.at("first_items").get<std::vector<int64_t>>();
    const auto& o = j.at("options");
    plan.choice = {o.at("for"), o.at("short_side"), o.at("fps"),
                   o.at("crf"), o.at("gop"),        o.at("shard_bytes")};
    return plan;
  } catch (const std::exception& e) {
    fail(ErrorKind::kData, "{}: not a plan that this Keiko can read ({}); use --restart",
         plan_path(folder), e.what());
  }
}

void check_same_plan(const std::string& folder, const PackPlan& there, const Catalogue& catalogue,
                     const PackChoice& wanted) {
  std::string differences;
  const auto differ = [&](const std::string& what, const std::string& then,
                          const std::string& now) {
    differences +=
        fmt::format("{}{} was {}, is {}", differences.empty() ? "" : "; ", what, then, now);
  };
  const ordered_json a = to_json(there.choice), b = to_json(wanted);
  for (const auto& [name, value] : a.items())
    if (value != b.at(name)) {
      std::string option = "--" + name;
      std::replace(option.begin(), option.end(), '_', '-');
      differ(option, value.dump(), b.at(name).dump());
    }
  if (there.catalogue_hash != catalogue.hash())
    differ("the catalogue",
           fmt::format("{} ({}, {} items)", there.catalogue, hex64(there.catalogue_hash),
                       there.item_count),
           fmt::format("{} ({}, {} items)", catalogue.path(), hex64(catalogue.hash()),
                       catalogue.item_count()));
  if (!differences.empty())
    fail(ErrorKind::kUsage,
         "{} was begun with other options: {}. Use the same ones, another --out, or --restart to "
         "throw away what is there",
         folder, differences);
}

std::string shard_name(int64_t shard) { return fmt::format("shard-{:05}", shard); }

std::string member_name(int64_t item, const std::string& source_path) {
  std::string stem = std::filesystem::path(source_path).stem().string().substr(0, 60);
  for (char& c : stem)
    if (!std::isalnum(uint8_t(c)) && c != '.' && c != '_' && c != '-') c = '_';
  return fmt::format("{:08}-{}", item, stem);
}

FrameChoice choose_frames(const media::PacketTable& table, const Item& item,
                          double frames_per_second) {
  const media::StreamParameters& s = table.stream;
  FrameChoice c;
  if (s.frame_rate_num > 0) {
    c.rate_num = s.frame_rate_num;
    c.rate_den = s.frame_rate_den;
  }
  // Times must ascend, or the frames are taken as a constant rate apart.
  std::vector<int64_t> pts(table.frame_pts.begin() + item.first_frame,
                           table.frame_pts.begin() + item.first_frame + item.frame_count);
  bool has_times = pts[0] != media::kNoTime;
  for (size_t i = 1; i < pts.size() && has_times; ++i)
    has_times = pts[i] != media::kNoTime && pts[i] > pts[i - 1];
  c.time_base_num = has_times ? s.time_base_num : c.rate_den;
  c.time_base_den = has_times ? s.time_base_den : c.rate_num;
  for (size_t i = pts.size(); i-- > 0;) pts[i] = has_times ? pts[i] - pts[0] : int64_t(i);

  const double own_rate = double(c.rate_num) / double(c.rate_den);
  if (frames_per_second <= 0 || own_rate <= frames_per_second * 1.001) {
    for (int64_t i = 0; i < item.frame_count; ++i) c.frames.push_back(item.first_frame + i);
    c.pts = std::move(pts);
    return c;
  }
  const AVRational rate = av_d2q(frames_per_second, 1 << 20);
  const AVRational ticks{int(c.time_base_num), int(c.time_base_den)};
  int64_t at = 0;
  for (int64_t k = 0;; ++k) {
    const int64_t time = av_rescale_q(k, av_inv_q(rate), ticks);  // rounded to the nearest tick
    if (time > pts.back()) break;
    while (at + 1 < item.frame_count && pts[size_t(at + 1)] <= time) ++at;
    const int64_t frame = item.first_frame + at;
    if (!c.frames.empty() && c.frames.back() == frame) {
      // A gap in a variable rate, which may be millions of years long in a damaged file: on to the
      // first k at or after the next frame.
      const int64_t next_time = pts[size_t(std::min(at + 1, item.frame_count - 1))];
      k = std::max(k, av_rescale_q_rnd(next_time, ticks, av_inv_q(rate), AV_ROUND_DOWN) - 1);
      continue;
    }
    c.frames.push_back(frame);
    c.pts.push_back(k);
  }
  c.time_base_num = c.rate_den = rate.den;
  c.time_base_den = c.rate_num = rate.num;
  return c;
}

}  // namespace keiko::data
