#include "media/demux.h"

#include "base/error.h"

namespace keiko::media {
namespace {

// Containers that hold their own video. Playlists (hls, dash, concat, image sequences) are left
// out: they name other files.
constexpr const char* kContainers =
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,h264,hevc,ivf,ogg,asf,"
    "obu,m4v,mxf,nut,yuv4mpegpipe,gif,av1,dv,wtv,rm,swf";

// What the operating system refused, as against what the file holds.
bool is_system_error(int code) {
  for (int system : {ENOENT, EACCES, EPERM, EIO, ESTALE, EMFILE, ENFILE, ENOMEM, ETIMEDOUT, EBUSY})
    if (code == AVERROR(system)) return true;
  return false;
}

std::string list_streams(const AVFormatContext* input) {
  std::string text;
  for (unsigned i = 0; i < input->nb_streams; ++i) {
    const AVCodecParameters* codec = input->streams[i]->codecpar;
    const char* type = av_get_media_type_string(codec->codec_type);
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", type == nullptr ? "unknown" : type,
                        avcodec_get_name(codec->codec_id));
  }
  return text.empty() ? "none" : text;
}

}  // namespace

Demuxer::Demuxer(const std::string& path, int stream_index) : packet_(av_packet_alloc()) {
  av_log_set_level(AV_LOG_FATAL);  // libav's own complaints name no file; ours do
  AVFormatContext* raw = nullptr;
  AVDictionary* options = nullptr;
  av_dict_set(&options, "protocol_whitelist", "file", 0);
  av_dict_set(&options, "format_whitelist", kContainers, 0);
  // "file:" keeps a path such as "http:x.mp4" or "concat:a|b" from being taken for a protocol.
  int code = avformat_open_input(&raw, ("file:" + path).c_str(), nullptr, &options);
  av_dict_free(&options);
  if (code < 0)
    fail(is_system_error(code) ? ErrorKind::kIo : ErrorKind::kData,
         "{}: not a video that FFmpeg can open: {}", path, ffmpeg_error(code));
  input_.reset(raw);
  code = avformat_find_stream_info(raw, nullptr);
  if (code < 0) fail(ErrorKind::kData, "{}: cannot find its streams: {}", path, ffmpeg_error(code));
  stream_index_ = stream_index == kBestVideo
                      ? av_find_best_stream(raw, AVMEDIA_TYPE_VIDEO, -1, -1, nullptr, 0)
                      : stream_index;
  if (stream_index_ < 0 || stream_index_ >= int(raw->nb_streams))
    fail(ErrorKind::kData, "{}: no video stream (streams: {})", path, list_streams(raw));
  for (unsigned i = 0; i < raw->nb_streams; ++i)
    raw->streams[i]->discard = int(i) == stream_index_ ? AVDISCARD_DEFAULT : AVDISCARD_ALL;
}

const AVPacket* Demuxer::next() {
  // A file of nothing but damage must still end: each failed read counts, and a thousand in a row
  // is taken for the end.
  for (int failures = 0; failures < 1000;) {
    av_packet_unref(packet_.get());
    const int code = av_read_frame(input_.get(), packet_.get());
    if (code == AVERROR_EOF) return nullptr;
    if (code < 0) {
      ++failures;
      ++corrupt_packets_;
      if (input_->pb != nullptr && is_system_error(input_->pb->error))
        fail(ErrorKind::kIo, "{}: cannot read: {}", input_->url, ffmpeg_error(input_->pb->error));
      if (input_->pb != nullptr && (input_->pb->eof_reached || input_->pb->error < 0))
        return nullptr;
      continue;
    }
    if (packet_->stream_index == stream_index_ && packet_->size > 0) {
      if (packet_->flags & AV_PKT_FLAG_CORRUPT) ++corrupt_packets_;
      return packet_.get();
    }
  }
  return nullptr;
}

}  // namespace keiko::media
