#include <cmath>
#include <map>

#include <spdlog/spdlog.h>
#include "base/error.h"
#include "cli/command.h"
#include "cli/frames_option.h"
#include "cli/npy.h"
#include "media/clip_decoder.h"
#include "report/picture.h"

namespace keiko::cli {
namespace {

struct DecodeOptions {
  std::string video, frames = "all", out;
  int64_t size = 0;
  bool md5 = false;
};

void print_md5s(const media::PacketTable& table, const DecodeOptions& o,
                const std::vector<int64_t>& frames) {
  std::map<int64_t, std::string> md5s;
  media::CpuClipDecoder(default_env())
      .decode_frames(table, o.video, frames, [&](int64_t index, const AVFrame& frame) {
        md5s[index] = media::raw_md5(frame);
      });
  for (int64_t frame : frames) {
    const int64_t pts = table.frame_pts[size_t(frame)];
    std::printf("%lld %s %s\n", static_cast<long long>(frame),
                pts == media::kNoTime ? "-" : std::to_string(pts).c_str(), md5s.at(frame).c_str());
  }
}

// An array of bytes [T, H, W, 3].
void write_npy(const std::string& path, const std::vector<report::Picture>& pictures) {
  const auto file = create_npy(
      default_env(), path, "|u1",
      {int64_t(pictures.size()), int64_t(pictures[0].height), int64_t(pictures[0].width), 3});
  for (const auto& picture : pictures) file->append(std::span<const uint8_t>(picture.rgb));
}

}  // namespace

void add_decode(CLI::App& app, Action& action) {
  auto* c =
      app.add_subcommand("decode", "Decode frames of a video to PNG files, one .npy, or checksums");
  auto o = std::make_shared<DecodeOptions>();
  c->add_option("video", o->video, "The video file")->required();
  c->add_option("--frames", o->frames, "all, 0,4,8 or 10-19; presentation order, from 0")
      ->capture_default_str();
  c->add_option("--size", o->size,
                "Cut the centre square and resize it to this many pixels; 0: the whole frame")
      ->check(CLI::Range(0, 8192));
  c->add_flag("--md5", o->md5,
              "Print `index pts md5` of the raw planes, as ffmpeg -f framemd5 has them");
  c->add_option("--out", o->out,
                "Folder for PNG files, or NAME.npy for one array [frames, height, width, 3]");
  c->callback([o, &action] {
    action = [o] {
      if (!o->md5 && o->out.empty())
        fail(ErrorKind::kUsage, "give --out DIR, --out NAME.npy or --md5");
      const media::PacketTable table = media::scan_video(o->video);
      const std::vector<int64_t> frames = parse_frames(o->frames, table.frame_count());
      if (o->md5) {
        print_md5s(table, *o, frames);
        return 0;
      }
      const double w = table.stream.display_width(), h = table.stream.display_height();
      media::PixelConverter<float>::Geometry g;
      g.stream = table.stream;
      g.crop = {0, 0, w, h};
      g.out_width = int(std::lround(w));
      g.out_height = int(std::lround(h));
      if (o->size > 0) {
        const double side = std::min(w, h);
        g.crop = {(w - side) / 2, (h - side) / 2, side, side};
        g.out_width = g.out_height = int(o->size);
      }
      const bool npy = o->out.size() > 4 && o->out.substr(o->out.size() - 4) == ".npy";
      if (!npy) default_env()->make_folder(o->out);
      const size_t plane = size_t(g.out_width) * g.out_height;
      std::map<int64_t, report::Picture> pictures;
      std::vector<uint8_t> planes(3 * plane);
      media::PixelConverter<float> converter;
      media::CpuClipDecoder(default_env())
          .decode_frames(table, o->video, frames, [&](int64_t index, const AVFrame& frame) {
            converter.convert(frame, g, planes.data(), planes.data() + plane,
                              planes.data() + 2 * plane, g.out_width);
            auto picture =
                report::from_planes(planes.data(), int64_t(plane), g.out_width, g.out_height);
            if (npy)
              pictures[index] = std::move(picture);
            else
              report::write_png(default_env(), fmt::format("{}/frame-{:06}.png", o->out, index),
                                picture);
          });
      if (npy) {
        std::vector<report::Picture> ordered;
        for (int64_t frame : frames) ordered.push_back(pictures.at(frame));
        write_npy(o->out, ordered);
      }
      spdlog::info("{}: {} frames of {}x{}", o->out, frames.size(), g.out_width, g.out_height);
      return 0;
    };
  });
}

}  // namespace keiko::cli
