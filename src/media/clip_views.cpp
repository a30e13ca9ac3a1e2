#include "media/clip_views.h"

namespace keiko::media {

ClipViews::ClipViews(const ClipRequest& request)
    : request_(request),
      views_{{request.crop, request.flip, request.out}},
      geometry_{request.table->stream, request.crop, request.size,
                request.size,          request.flip, request.filter} {
  views_.insert(views_.end(), request.more_views.begin(), request.more_views.end());
}

void ClipViews::place(int64_t index, const Convert& convert, const Copy& copy) {
  const int64_t plane = int64_t(request_.size) * request_.size, stride = request_.channel_stride;
  int64_t first = -1;  // the moment at which the frame was converted
  for (size_t t = 0; t < request_.frames.size(); ++t) {
    if (request_.frames[t] != index) continue;
    for (size_t v = 0; v < views_.size(); ++v) {
      uint8_t* out = views_[v].out + int64_t(t) * plane;
      if (first < 0) {
        geometry_.crop = views_[v].crop;
        geometry_.flip = views_[v].flip;
        convert(v, geometry_, out);
        continue;
      }
      for (int c = 0; c < 3; ++c)
        copy(out + c * stride, views_[v].out + first * plane + c * stride, size_t(plane));
    }
    if (first < 0) first = int64_t(t);
  }
}

}  // namespace keiko::media
