// When each shown frame of a video is on the screen, for choosing frames and windows by time.
//
// Times are those of the packet table, so a variable frame rate is followed as it is. A table
// without usable times counts as one of constant frame rate.

#pragma once
#include <cstdint>

#include "media/packet_table.h"

namespace keiko::data {

// True when every shown frame has a time, and times do not go back. Cost: O(frames).
bool times_are_usable(const media::PacketTable& table);

// The stretch [first, first + count) of a table's frames, with times in seconds from its first
// frame. Holds a reference to the table.
class FrameTimes {
 public:
  // `has_times` is what times_are_usable said. `assumed_fps` (> 0) stands for a rate that the table
  // does not know. 0 <= first, 0 < count, first + count <= table.frame_count().
  FrameTimes(const media::PacketTable& table, bool has_times, int64_t first, int64_t count,
             double assumed_fps);

  int64_t first() const { return first_; }
  int64_t count() const { return count_; }
  // When the frame comes on; `index` in [0, count).
  double time(int64_t index) const;
  // How long the stretch is on the screen. Its last frame stays until the next frame of the video,
  // or, at the video's end, as long as the average frame.
  double duration() const { return duration_; }
  // The last frame, in [0, count), that comes on no later than `time`; the first one for times
  // before it. Cost: O(log frames).
  int64_t frame_at(double time) const;

 private:
  double ticks(int64_t index) const;

  const media::PacketTable& table_;
  bool has_times_;
  int64_t first_, count_;
  double seconds_per_tick_ = 1;  // a tick is a frame when times are not usable
  double duration_ = 0;
};

}  // namespace keiko::data
