// Frames to pixels: Keiko's ways, swscale, zimg and libyuv on the same frames, compared with the
// float64 reference and timed in interleaved rounds.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/machine.h"
#include "media/clip_decoder.h"
#include "pixels_rivals.h"

namespace keiko::bench {
namespace {

constexpr int kFrames = 16, kStride = 4;

std::vector<media::FramePointer> decode(const media::PacketTable& table, const std::string& path) {
  std::vector<int64_t> wanted;
  for (int i = 0; i < kFrames; ++i) {
    const int64_t frame = i * kStride;
    wanted.push_back(std::min(frame, table.frame_count() - 1));
  }
  std::vector<media::FramePointer> frames;
  media::CpuClipDecoder(default_env())
      .decode_frames(table, path, wanted, [&](int64_t, const AVFrame& frame) {
        frames.emplace_back(av_frame_clone(&frame));
      });
  return frames;
}

struct Score {
  std::string name;
  double mean_error = 0, psnr = 0;
  int largest = 0, largest_inside = 0;  // inside: three pixels away from the crop's border
  std::vector<double> ms;               // for all frames, by round
};

void compare(const std::vector<uint8_t>& a, const std::vector<uint8_t>& b, int size, Score& score) {
  double sum = 0, squares = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const int d = std::abs(int(a[i]) - int(b[i]));
    sum += d;
    squares += d * d;
    score.largest = std::max(score.largest, d);
    const int x = int(i % size_t(size)), y = int(i / size_t(size) % size_t(size));
    if (std::min(x, y) >= 3 && std::max(x, y) < size - 3)
      score.largest_inside = std::max(score.largest_inside, d);
  }
  score.mean_error = sum / double(a.size());
  score.psnr = squares == 0 ? 99 : 10 * std::log10(255.0 * 255.0 * double(a.size()) / squares);
}

std::vector<Score> bench_file(const std::string& path, int size, media::Filter filter,
                              const std::string& only, int rounds) {
  const media::PacketTable table = media::scan_video(path);
  const auto frames = decode(table, path);
  media::PixelGeometry g;
  g.stream = table.stream;
  g.stream.sample_aspect_num = g.stream.sample_aspect_den = 1;  // the libraries know no other
  const int w = table.stream.width, h = table.stream.height, side = std::min(w, h) & ~1;
  g.crop = {double((w - side) / 2 & ~1), double((h - side) / 2 & ~1), double(side), double(side)};
  g.out_width = g.out_height = size;
  g.filter = filter;
  const size_t plane = size_t(size) * size, clip = 3 * plane * frames.size();

  std::vector<uint8_t> truth(clip), out(clip);
  if (only.empty())
    for (size_t f = 0; f < frames.size(); ++f) {
      uint8_t* at = truth.data() + 3 * plane * f;
      media::ReferencePixels().convert(*frames[f], g, at, at + plane, at + 2 * plane, size);
    }
  std::vector<PixelWay> ways = pixel_ways(*frames[0], g);
  if (!only.empty()) std::erase_if(ways, [&](const PixelWay& way) { return way.name != only; });
  std::vector<Score> scores(ways.size());
  for (int round = -1; round < rounds; ++round)
    for (size_t i = 0; i < ways.size(); ++i) {
      const double start = monotonic_s();
      for (size_t f = 0; f < frames.size(); ++f)
        ways[i].convert(*frames[f], out.data() + 3 * plane * f);
      const double ms = (monotonic_s() - start) * 1e3;
      scores[i].name = ways[i].name;
      if (round >= 0)
        scores[i].ms.push_back(ms);
      else if (only.empty())
        compare(out, truth, size, scores[i]);
    }
  for (Score& score : scores) std::sort(score.ms.begin(), score.ms.end());
  return scores;
}

void print(const std::vector<Score>& scores) {
  std::printf(
      "| way | mean error, levels | largest | inside | PSNR, dB | ms: min, median, max |\n");
  std::printf("|---|---|---|---|---|---|\n");
  for (const Score& s : scores)
    std::printf("| %s | %.4f | %d | %d | %.1f | %.2f, %.2f, %.2f |\n", s.name.c_str(), s.mean_error,
                s.largest, s.largest_inside, s.psnr, s.ms.front(), s.ms[s.ms.size() / 2],
                s.ms.back());
}

int run(int argc, char** argv) {
  CLI::App app("Frames to pixels: accuracy against the float64 reference, and time");
  std::vector<std::string> files;
  std::string only;
  int size = 224, rounds = 11;
  bool bicubic = false, json = false, kernels = false;
  app.add_option("files", files, "Videos, yuv420p");
  app.add_option("--size", size, "Output is SIZE x SIZE, from the centre square");
  app.add_option("--rounds", rounds, "Timed rounds, after one that is not")
      ->check(CLI::PositiveNumber);
  app.add_option("--only", only, "One way by its name, without the reference: for profilers");
  app.add_flag("--bicubic", bicubic, "Instead of bilinear");
  app.add_flag("--kernels", kernels, "Compare and time the kernels one by one, too");
  app.add_flag("--json", json, "JSON instead of tables");
  CLI11_PARSE(app, argc, argv);

  const media::Filter filter = bicubic ? media::Filter::kBicubic : media::Filter::kBilinear;
  nlohmann::json all;
  for (const std::string& file : files) {
    const std::vector<Score> scores = bench_file(file, size, filter, only, rounds);
    if (!json) {
      std::printf("\n%s, %d frames to %dx%d, %s\n\n", file.c_str(), kFrames, size, size,
                  bicubic ? "bicubic" : "bilinear");
      print(scores);
    }
    for (const Score& s : scores)
      all.push_back({{"file", file},
                     {"way", s.name},
                     {"size", size},
                     {"bicubic", bicubic},
                     {"mean_error", s.mean_error},
                     {"largest", s.largest},
                     {"largest_inside", s.largest_inside},
                     {"psnr", s.psnr},
                     {"ms", s.ms}});
  }
  if (json) std::printf("%s\n", all.dump(1).c_str());
  return kernels && bench_kernels(rounds) > 0 ? 1 : 0;
}

}  // namespace
}  // namespace keiko::bench

int main(int argc, char** argv) {
  try {
    return keiko::bench::run(argc, argv);
  } catch (const keiko::Error& error) {
    std::fprintf(stderr, "pixels_bench: %s\n", error.what());
    return keiko::exit_code(error.kind());
  }
}
