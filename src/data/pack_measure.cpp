#include "data/pack_measure.h"

#include <algorithm>
#include <cmath>

#include "base/machine.h"
#include "base/rng.h"
#include "media/clip_decoder.h"

namespace keiko::data {
namespace {

constexpr int64_t kFrames = 16, kStride = 4;
constexpr int kSize = 224;

struct Clip {
  std::shared_ptr<const Video> video;
  std::vector<int64_t> frames;
  double best_s = 1e30;
};

// 16 frames from a start between 0 and 1 of what the item allows; a short item gets a smaller
// stride, as in training.
Clip make_clip(const Catalogue& catalogue, const Item& item, double start, int64_t stride) {
  Clip clip;
  clip.video = catalogue.video(item.video);
  while (stride > 1 && (kFrames - 1) * stride + 1 > item.frame_count) --stride;
  const int64_t room = std::max<int64_t>(0, item.frame_count - (kFrames - 1) * stride - 1);
  const int64_t first = int64_t(start * double(room));
  for (int64_t t = 0; t < kFrames; ++t)
    clip.frames.push_back(item.first_frame + std::min(item.frame_count - 1, first + t * stride));
  return clip;
}

void decode(media::CpuClipDecoder& decoder, Clip& clip, ClipSpeed& speed,
            std::vector<uint8_t>& out) {
  const media::StreamParameters& s = clip.video->table.stream;
  const double w = s.display_width(), h = s.display_height(), side = std::min(w, h);
  media::ClipRequest request;
  request.table = &clip.video->table;
  request.path = &clip.video->file.path;
  request.frames = clip.frames;
  request.crop = {(w - side) / 2, (h - side) / 2, side, side};
  request.size = kSize;
  request.out = out.data();
  request.channel_stride = kFrames * kSize * kSize;
  request.allow_concealed = true;  // an exact pack may hold damage; speed is what is measured
  const double start = monotonic_s();
  const media::ClipCost cost = decoder.decode(request);
  clip.best_s = std::min(clip.best_s, monotonic_s() - start);
  speed.decode_ms += 1000 * cost.decode_s;
  speed.convert_ms += 1000 * cost.convert_s;
  speed.packets += double(cost.packets_decoded);
  speed.bytes += double(cost.bytes);
}

void finish(const std::vector<Clip>& clips, int rounds, ClipSpeed& speed) {
  double seconds = 0;
  for (const Clip& clip : clips) seconds += clip.best_s;
  const double n = double(clips.size());
  speed.clips_per_s = n / seconds;
  for (double* sum : {&speed.decode_ms, &speed.convert_ms, &speed.packets, &speed.bytes})
    *sum /= n * rounds;
}

}  // namespace

PackGain measure_gain(Env* env, const Catalogue& source, const Catalogue& pack, int64_t clips,
                      int rounds) {
  PackGain gain;
  gain.clips = std::min(clips, pack.item_count() * 4);
  std::vector<Clip> before, after;
  double kept = 0;
  for (int64_t i = 0; i < gain.clips; ++i) {
    const Item packed = pack.item(i * pack.item_count() / gain.clips % pack.item_count());
    // A member's name begins with the number of the item it was made of.
    const int64_t number = std::stoll(pack.video(packed.video)->file.member.name);
    const Item item = source.item(number);
    const double ratio = double(item.frame_count) / double(packed.frame_count);
    kept += ratio / double(gain.clips);
    const int64_t stride = std::max<int64_t>(1, std::llround(double(kStride) / ratio));
    const double start = Rng(1, Stream::kClip, uint64_t(i)).uniform();
    before.push_back(make_clip(source, item, start, kStride));
    after.push_back(make_clip(pack, packed, start, stride));
  }
  gain.stride_of_pack = std::max<int64_t>(1, std::llround(double(kStride) / kept));
  media::CpuClipDecoder from_source(env), from_pack(env);
  std::vector<uint8_t> out(size_t(3 * kFrames * kSize * kSize));
  for (int round = 0; round < rounds; ++round)
    for (size_t i = 0; i < before.size(); ++i) {
      decode(from_source, before[i], gain.source, out);
      decode(from_pack, after[i], gain.pack, out);
    }
  finish(before, rounds, gain.source);
  finish(after, rounds, gain.pack);
  return gain;
}

}  // namespace keiko::data
