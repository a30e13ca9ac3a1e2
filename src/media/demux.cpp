#include "media/demux.h"

#include <algorithm>

#include "base/error.h"
#include "media/limits.h"

namespace keiko::media {
namespace {

// Containers that hold their own video. Playlists (hls, dash, concat, image sequences) are left
// out: they name other files.
constexpr const char* kContainers =
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,h264,hevc,ivf,ogg,asf,"
    "obu,m4v,mxf,nut,yuv4mpegpipe,gif,av1,dv,wtv,rm,swf";
constexpr int kBufferSize = 1 << 16;  // bytes

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

// `known`: streams up to here were there when the file was opened. Of later ones that are still
// without a codec any may become video.
void limit_video_streams(const std::string& path, const AVFormatContext* input, unsigned known) {
  int videos = 0;
  for (unsigned i = 0; i < input->nb_streams; ++i) {
    const AVCodecParameters* codec = input->streams[i]->codecpar;
    videos += codec->codec_type == AVMEDIA_TYPE_VIDEO ||
              (i >= known && codec->codec_id == AV_CODEC_ID_NONE);
  }
  if (videos > kMostVideoStreams)
    fail(ErrorKind::kData, "{}: {} video streams, more than {}; split the file", path, videos,
         kMostVideoStreams);
}

// Probing decodes a frame of every stream, all held at once: only so many, of bounded size.
int probe(AVFormatContext* input) {
  const unsigned count = input->nb_streams;
  std::vector<AVDictionary*> options(count, nullptr);
  for (AVDictionary*& one : options) av_dict_set_int(&one, "max_pixels", kMostPixels, 0);
  const int code = avformat_find_stream_info(input, options.data());
  for (AVDictionary*& one : options) av_dict_free(&one);
  return code;
}

// Stands where libavformat would open a second file.
int refuse_to_open(AVFormatContext*, AVIOContext**, const char*, int, AVDictionary**) {
  return AVERROR(EPERM);
}

}  // namespace

int Demuxer::read_source(void* opaque, uint8_t* out, int size) {
  auto& source = *static_cast<Source*>(opaque);
  const int64_t left = source.file->size() - source.at;
  if (left <= 0) return AVERROR_EOF;
  int count = int(std::min<int64_t>(left, size));
  if (source.probed != nullptr) count = std::min(count, kProbingRead);
  source.allowance -= count;
  if (source.allowance < 0) return AVERROR(EIO);
  try {  // an exception must not pass through C code
    if (source.probed != nullptr)
      limit_video_streams(source.file->path(), source.probed, source.known_streams);
    source.file->read(source.at, {out, size_t(count)});
  } catch (...) {
    source.error = std::current_exception();
    return AVERROR(EIO);
  }
  source.at += count;
  return count;
}

int64_t Demuxer::seek_source(void* opaque, int64_t offset, int whence) {
  auto& source = *static_cast<Source*>(opaque);
  return seek_in(source.file->size(), source.at, offset, whence);
}

Demuxer::Demuxer(Env* env, const std::string& path, int stream_index)
    : source_{env->open(path)}, packet_(av_packet_alloc()) {
  limit_ffmpeg();
  io_.reset(avio_alloc_context(static_cast<uint8_t*>(av_malloc(kBufferSize)), kBufferSize, 0,
                               &source_, read_source, nullptr, seek_source));
  source_.allowance = kFreeBytes + kMostReadsPerByte * source_.file->size();
  AVFormatContext* raw = avformat_alloc_context();
  raw->pb = io_.get();
  raw->io_open = refuse_to_open;
  AVDictionary* options = nullptr;
  av_dict_set(&options, "protocol_whitelist", "file", 0);
  av_dict_set(&options, "format_whitelist", kContainers, 0);
  av_dict_set_int(&options, "max_streams", kMostStreams, 0);
  int code = avformat_open_input(&raw, path.c_str(), nullptr, &options);
  av_dict_free(&options);
  if (source_.error) std::rethrow_exception(source_.error);
  if (code < 0)
    fail(ErrorKind::kData, "{}: not a video that FFmpeg can open: {}", path, ffmpeg_error(code));
  input_.reset(raw);
  limit_video_streams(path, raw, raw->nb_streams);
  source_.known_streams = raw->nb_streams;
  if (raw->ctx_flags & AVFMTCTX_NOHEADER) source_.probed = raw;
  code = probe(raw);
  source_.probed = nullptr;
  if (source_.error) std::rethrow_exception(source_.error);
  limit_video_streams(path, raw, raw->nb_streams);
  if (code < 0) fail(ErrorKind::kData, "{}: cannot find its streams: {}", path, ffmpeg_error(code));
  stream_index_ = stream_index == kBestVideo
                      ? av_find_best_stream(raw, AVMEDIA_TYPE_VIDEO, -1, -1, nullptr, 0)
                      : stream_index;
  if (stream_index_ < 0 || stream_index_ >= int(raw->nb_streams))
    fail(ErrorKind::kData, "{}: no video stream (streams: {})", path, list_streams(raw));
  discard_other_streams();
}

// Streams may turn up at any time. Past the limit libavformat makes none, and its MPEG-TS demuxer
// then cuts packets of the others short.
void Demuxer::discard_other_streams() {
  if (int(input_->nb_streams) >= kMostStreams)
    fail(ErrorKind::kData, "{}: {} streams or more; split the file", source_.file->path(),
         kMostStreams);
  for (; discarded_ < input_->nb_streams; ++discarded_)
    if (int(discarded_) != stream_index_) input_->streams[discarded_]->discard = AVDISCARD_ALL;
}

const AVPacket* Demuxer::next() {
  // A file of nothing but damage must still end: each failed read counts, and a thousand in a row
  // is taken for the end.
  for (int failures = 0; failures < 1000;) {
    av_packet_unref(packet_.get());
    source_.allowance = kFreeBytes + kMostReadsPerByte * source_.file->size();
    const int code = av_read_frame(input_.get(), packet_.get());
    if (source_.error) std::rethrow_exception(source_.error);
    discard_other_streams();
    if (code == AVERROR_EOF) return nullptr;
    if (code < 0) {
      ++failures;
      ++corrupt_packets_;
      if (io_->eof_reached) return nullptr;
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
