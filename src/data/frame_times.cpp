#include "data/frame_times.h"

#include <algorithm>
#include <cmath>

namespace keiko::data {

bool times_are_usable(const media::PacketTable& table) {
  const std::vector<int64_t>& pts = table.frame_pts;
  if (pts.size() != table.frame_packet.size() || table.stream.time_base_num <= 0) return false;
  for (size_t i = 0; i < pts.size(); ++i) {
    if (pts[i] == media::kNoTime || (i > 0 && pts[i] < pts[i - 1])) return false;
    // Differences must not overflow: a table may hold anything.
    if (std::abs(double(pts[i])) > 0x1p61) return false;
  }
  return pts.size() < 2 || pts.back() > pts.front();
}

FrameTimes::FrameTimes(const media::PacketTable& table, bool has_times, int64_t first,
                       int64_t count, double assumed_fps)
    : table_(table), has_times_(has_times), first_(first), count_(count) {
  const double rate = table.stream.frames_per_second();
  const double fps = std::isfinite(rate) && rate > 0 ? rate : assumed_fps;
  if (!has_times_) {
    seconds_per_tick_ = 1 / fps;
    duration_ = double(count) / fps;
    return;
  }
  seconds_per_tick_ = double(table.stream.time_base_num) / double(table.stream.time_base_den);
  if (first + count < table.frame_count()) {
    duration_ = ticks(count) * seconds_per_tick_;
    return;
  }
  const std::vector<int64_t>& pts = table.frame_pts;
  const double average =
      pts.size() > 1 ? double(pts.back() - pts.front()) / double(pts.size() - 1) * seconds_per_tick_
                     : 1 / fps;
  duration_ = time(count - 1) + average;
}

double FrameTimes::ticks(int64_t index) const {
  if (!has_times_) return double(index);
  return double(table_.frame_pts[size_t(first_ + index)] - table_.frame_pts[size_t(first_)]);
}

double FrameTimes::time(int64_t index) const { return ticks(index) * seconds_per_tick_; }

int64_t FrameTimes::frame_at(double time) const {
  // A millionth of a tick forgives the rounding of seconds: a time that was meant to be a frame's
  // own must find that frame.
  const double wanted = std::floor(time / seconds_per_tick_ + 1e-6);
  if (!has_times_)
    return std::clamp<int64_t>(int64_t(std::clamp(wanted, 0.0, 9e15)), 0, count_ - 1);
  int64_t low = 0, high = count_;  // the frame is in [low, high)
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    (ticks(middle) <= wanted ? low : high) = middle;
  }
  return low;
}

}  // namespace keiko::data
