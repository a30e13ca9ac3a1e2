#include "cuda/nvdec_session_key.h"

#include <fmt/format.h>

#include <algorithm>

extern "C" {
#include <libavcodec/avcodec.h>
#include <libavutil/pixdesc.h>
}

namespace keiko::cuda {
namespace {

struct SampleFormat {
  int bit_depth;
  Chroma chroma;
};

// Empty for what no NVDEC decodes to: RGB, palettes, alpha, 4:1:1 and the like.
std::optional<SampleFormat> sample_format(const std::string& name) {
  const AVPixFmtDescriptor* d = av_pix_fmt_desc_get(av_get_pix_fmt(name.c_str()));
  constexpr uint64_t kForeign = AV_PIX_FMT_FLAG_RGB | AV_PIX_FMT_FLAG_PAL | AV_PIX_FMT_FLAG_ALPHA |
                                AV_PIX_FMT_FLAG_HWACCEL | AV_PIX_FMT_FLAG_BITSTREAM |
                                AV_PIX_FMT_FLAG_BAYER | AV_PIX_FMT_FLAG_FLOAT;
  if (d == nullptr || (d->flags & kForeign)) return std::nullopt;
  const int depth = d->comp[0].depth;
  if (d->nb_components == 1) return SampleFormat{depth, Chroma::kMonochrome};
  if (d->log2_chroma_w == 1 && d->log2_chroma_h == 1) return SampleFormat{depth, Chroma::k420};
  if (d->log2_chroma_w == 1 && d->log2_chroma_h == 0) return SampleFormat{depth, Chroma::k422};
  if (d->log2_chroma_w == 0 && d->log2_chroma_h == 0) return SampleFormat{depth, Chroma::k444};
  return std::nullopt;
}

// Frames that a decoder of H.264 must be able to keep: Table A-1, MaxDpbMbs by level_idc.
int h264_references(int level, int width, int height) {
  constexpr struct {
    int level, macroblocks;
  } kLevels[] = {{9, 396},     {10, 396},    {11, 900},    {12, 2376},   {13, 2376},
                 {20, 2376},   {21, 4752},   {22, 8100},   {30, 8100},   {31, 18000},
                 {32, 20480},  {40, 32768},  {41, 32768},  {42, 34816},  {50, 110400},
                 {51, 184320}, {52, 184320}, {60, 696320}, {61, 696320}, {62, 696320}};
  const int64_t picture = int64_t((width + 15) / 16) * ((height + 15) / 16);
  for (const auto& row : kLevels)
    if (row.level == level)
      return int(std::clamp<int64_t>(row.macroblocks / std::max<int64_t>(picture, 1), 1, 16));
  return 16;
}

// The same for HEVC: A.4.2, MaxLumaPs by general_level_idc (30 times the level), and equation A-2.
int hevc_references(int level, int width, int height) {
  constexpr struct {
    int level;
    int64_t samples;
  } kLevels[] = {{30, 36864},     {60, 122880},    {63, 245760},   {90, 552960},   {93, 983040},
                 {120, 2228224},  {123, 2228224},  {150, 8912896}, {153, 8912896}, {156, 8912896},
                 {180, 35651584}, {183, 35651584}, {186, 35651584}};
  const int64_t picture = int64_t(width) * height;
  for (const auto& row : kLevels) {
    if (row.level != level) continue;
    if (picture <= row.samples / 4) return 16;
    if (picture <= row.samples / 2) return 12;
    if (picture <= row.samples * 3 / 4) return 8;
    return 7;  // maxDpbPicBuf 6, and the picture that is decoded now
  }
  return 17;
}

bool is_known_codec(const std::string& codec) {
  return codec == "h264" || codec == "hevc" || codec == "vp9" || codec == "av1";
}

}  // namespace

const char* chroma_name(Chroma chroma) {
  switch (chroma) {
    case Chroma::kMonochrome:
      return "4:0:0";
    case Chroma::k420:
      return "4:2:0";
    case Chroma::k422:
      return "4:2:2";
    default:
      return "4:4:4";
  }
}

int surfaces_of(const media::StreamParameters& s, int mapped) {
  constexpr int kWorking = 5;        // ff_nvdec_frame_params adds 2, ff_decode_get_hw_frames_ctx 3
  constexpr int kMostSurfaces = 32;  // more "might fail", says libavcodec/nvdec.c
  int kept = 8;                      // VP9 and AV1 have eight slots
  if (s.codec == "h264") kept = h264_references(s.level, s.width, s.height) + s.reorder_depth;
  if (s.codec == "hevc") kept = hevc_references(s.level, s.width, s.height);
  return std::clamp(kept + kWorking + mapped, 1, kMostSurfaces);
}

std::optional<NvdecSessionKey> nvdec_session_key(const media::StreamParameters& s, int mapped) {
  const std::optional<SampleFormat> format = sample_format(s.pixel_format);
  if (!format || !is_known_codec(s.codec)) return std::nullopt;
  const bool brings_sets = s.codec == "h264" || s.codec == "hevc";
  return NvdecSessionKey{s.codec,
                         s.profile,
                         s.width,
                         s.height,
                         format->bit_depth,
                         format->chroma,
                         brings_sets && s.extradata.empty(),
                         surfaces_of(s, mapped)};
}

int64_t estimated_bytes(const NvdecSessionKey& key) {
  constexpr int64_t kBeside = int64_t{32} << 20;
  const auto up = [](int64_t value, int64_t to) { return (value + to - 1) / to * to; };
  const int64_t sample = key.bit_depth > 8 ? 2 : 1;
  const int64_t luma = up(up(key.width, 64) * sample, 512) * up(key.height, 64);
  // NVDEC writes 4:0:0 as 4:2:0.
  const int64_t twice = key.chroma == Chroma::k444 ? 6 : key.chroma == Chroma::k422 ? 4 : 3;
  return kBeside + 2 * key.surfaces * luma * twice / 2;
}

std::string why_not_nvdec(const media::StreamParameters& s, const AskNvdecCaps& ask) {
  if (!is_known_codec(s.codec))
    return fmt::format("Keiko decodes h264, hevc, vp9 and av1 with NVDEC, not {}", s.codec);
  const std::optional<SampleFormat> format = sample_format(s.pixel_format);
  if (!format)
    return fmt::format("no NVDEC decodes to {}",
                       s.pixel_format.empty() ? "an unknown format" : s.pixel_format);
  // The driver is asked by format alone; these two profiles have tools that no NVDEC has. Their
  // numbers are H.264's profile_idc (ITU-T H.264, A.2.3 and A.2.11).
  constexpr int kExtended = 88;
  constexpr int kCavlc444 = 44;
  if (s.codec == "h264" && s.profile == kExtended)
    return "no NVDEC takes h264 of the Extended profile";
  if (s.codec == "h264" && s.profile == kCavlc444)
    return "no NVDEC takes h264 of the CAVLC 4:4:4 profile";
  const NvdecCaps caps = ask(s.codec, format->chroma, format->bit_depth);
  if (!caps.is_supported)
    return fmt::format("NVDEC of this GPU does not take {} of {} bits, {}", s.codec,
                       format->bit_depth, chroma_name(format->chroma));
  const int64_t macroblocks = int64_t((s.width + 15) / 16) * ((s.height + 15) / 16);
  if (s.width < caps.min_width || s.height < caps.min_height || s.width > caps.max_width ||
      s.height > caps.max_height || macroblocks > caps.max_macroblocks)
    return fmt::format(
        "NVDEC of this GPU takes {} from {}x{} to {}x{} and {} macroblocks, not {}x{}", s.codec,
        caps.min_width, caps.min_height, caps.max_width, caps.max_height, caps.max_macroblocks,
        s.width, s.height);
  return "";
}

}  // namespace keiko::cuda
