// Where the frames of a clip go: every view of it, and every moment at which it shows a frame.
//
// What CPU and GPU decoding share, so that they cannot differ in where a pixel lies. Who makes the
// pixels and who copies them is the caller's.

#pragma once
#include <cstdint>
#include <functional>
#include <vector>

#include "media/clip_decoder.h"

namespace keiko::media {

// Not thread-safe. The request outlives it.
class ClipViews {
 public:
  explicit ClipViews(const ClipRequest& request);

  size_t count() const { return views_.size(); }
  // ClipRequest's own crop, flip and out first, then more_views.
  const std::vector<ClipView>& all() const { return views_; }

  // Makes the pixels of view `view` at `out`, a plane of `geometry`'s size for each channel,
  // ClipRequest::channel_stride apart.
  using Convert = std::function<void(size_t view, const PixelGeometry& geometry, uint8_t* out)>;
  // Copies what was made, from one place of a view to another.
  using Copy = std::function<void(uint8_t* to, const uint8_t* from, size_t bytes)>;
  // Puts frame `index` (a presentation index) wherever the clip shows it: it is converted once for
  // each view, and copied to the other moments that show it.
  void place(int64_t index, const Convert& convert, const Copy& copy);

 private:
  const ClipRequest& request_;
  std::vector<ClipView> views_;
  PixelGeometry geometry_;
};

}  // namespace keiko::media
