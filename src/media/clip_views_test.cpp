#include "media/clip_views.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

namespace keiko::media {
namespace {

// A clip of two views that shows frame 7 three times, in places that a byte tells apart.
TEST(ClipViews, AFrameIsConvertedOnceForEachViewAndCopiedToItsOtherMoments) {
  PacketTable table;
  const std::vector<int64_t> frames = {7, 3, 7, 9, 7};
  constexpr int kSize = 2;
  constexpr int64_t kPlane = kSize * kSize, kStride = 5 * kPlane + 3;
  std::vector<uint8_t> first(3 * kStride, 0), second(3 * kStride, 0);
  ClipRequest request;
  request.table = &table;
  request.frames = frames;
  request.crop = {1, 2, 30, 40};
  request.size = kSize;
  request.out = first.data();
  request.channel_stride = kStride;
  const ClipView other = {{5, 6, 10, 10}, true, second.data()};
  request.more_views = {&other, 1};
  ClipViews views(request);
  ASSERT_EQ(views.count(), 2u);
  std::string converted;
  for (const int64_t index : {3, 7, 9})
    views.place(
        index,
        [&](size_t view, const PixelGeometry& g, uint8_t* out) {
          converted += std::to_string(index) + (view == 0 ? "a " : "b ");
          EXPECT_EQ(g.crop, view == 0 ? request.crop : other.crop);
          EXPECT_EQ(g.flip, view == 1);
          EXPECT_EQ(g.out_width, kSize);
          for (int64_t c = 0; c < 3; ++c)
            for (int64_t i = 0; i < kPlane; ++i)
              out[c * kStride + i] = uint8_t(100 * view + 10 * size_t(index) + size_t(c));
        },
        [](uint8_t* to, const uint8_t* from, size_t bytes) { std::copy_n(from, bytes, to); });
  EXPECT_EQ(converted, "3a 3b 7a 7b 9a 9b ");
  for (size_t view = 0; view < 2; ++view) {
    const std::vector<uint8_t>& seen = view == 0 ? first : second;
    for (int64_t c = 0; c < 3; ++c) {
      for (size_t t = 0; t < frames.size(); ++t)
        for (int64_t i = 0; i < kPlane; ++i)
          EXPECT_EQ(seen[size_t(c * kStride + int64_t(t) * kPlane + i)],
                    uint8_t(100 * view + 10 * size_t(frames[t]) + size_t(c)))
              << "view " << view << " channel " << c << " moment " << t;
      for (int64_t i = 5 * kPlane; i < kStride; ++i)
        EXPECT_EQ(seen[size_t(c * kStride + i)], 0) << "between channels";
    }
  }
}

}  // namespace
}  // namespace keiko::media
