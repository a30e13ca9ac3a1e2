#include "media/video_writer.h"

#include <algorithm>

extern "C" {
#include <libavutil/display.h>
}

#include "base/error.h"

namespace keiko::media {
namespace {

constexpr int kBufferSize = 1 << 18;  // bytes; most patches then happen in memory

}  // namespace

int VideoWriter::write_sink(void* opaque, WrittenByte* bytes, int size) {
  Sink& sink = *static_cast<Sink*>(opaque);
  if (sink.error) return AVERROR(EIO);
  try {  // an exception must not pass through C code
    if (sink.at > sink.size)
      fail(ErrorKind::kInternal, "a muxer leaves a gap at byte {} of {}", sink.size, sink.at);
    const int64_t old = std::min<int64_t>(size, sink.size - sink.at);
    if (old > 0) sink.file->overwrite(sink.at, {bytes, size_t(old)});
    if (old < size) {
      sink.file->append({bytes + old, size_t(size - old)});
      sink.size += size - old;
    }
  } catch (...) {
    sink.error = std::current_exception();
    return AVERROR(EIO);
  }
  sink.at += size;
  return size;
}

int64_t VideoWriter::seek_sink(void* opaque, int64_t offset, int whence) {
  Sink& sink = *static_cast<Sink*>(opaque);
  return seek_in(sink.size, sink.at, offset, whence);
}

// The disk's own error first: what libavformat makes of it says nothing of the file.
void VideoWriter::check(int code, const char* what) {
  if (sink_.error) std::rethrow_exception(sink_.error);
  if (code < 0) fail(ErrorKind::kData, "cannot {}: {}", what, ffmpeg_error(code));
}

VideoWriter::VideoWriter(Env* env, const std::string& path, const char* container,
                         const AVCodecParameters& stream, AVRational time_base, int rotation)
    : env_(env), path_(path), time_base_(time_base) {
  av_log_set_level(AV_LOG_FATAL);
  AVFormatContext* raw = nullptr;
  check(avformat_alloc_output_context2(&raw, nullptr, container, nullptr), "make a muxer");
  output_.reset(raw);
  output_->flags |= AVFMT_FLAG_BITEXACT;
  AVStream* out = avformat_new_stream(raw, nullptr);
  check(avcodec_parameters_copy(out->codecpar, &stream), "copy the codec parameters");
  // A tag of the source's container may mean nothing in this one; the muxer knows its own.
  if (av_codec_get_id(output_->oformat->codec_tag, out->codecpar->codec_tag) !=
      out->codecpar->codec_id)
    out->codecpar->codec_tag = 0;
  out->time_base = time_base;
  out->sample_aspect_ratio = stream.sample_aspect_ratio;
  if (rotation != 0) {
    int32_t* matrix = new_display_matrix(out);
    if (matrix == nullptr) fail(ErrorKind::kIo, "out of memory for a muxer");
    av_display_rotation_set(matrix, rotation);
  }
  sink_.file = env_->create(beside());
  try {
    io_.reset(avio_alloc_context(static_cast<uint8_t*>(av_malloc(kBufferSize)), kBufferSize, 1,
                                 &sink_, nullptr, write_sink, seek_sink));
    output_->pb = io_.get();
    check(avformat_write_header(raw, nullptr), "write the file's header");
  } catch (...) {
    discard();
    throw;
  }
}

VideoWriter::~VideoWriter() { discard(); }

void VideoWriter::discard() {
  output_.reset();
  io_.reset();
  if (!sink_.file) return;
  sink_.file.reset();
  try {
    env_->remove(beside());
  } catch (const Error&) {
    // The error that kept it from being finished says more.
  }
}

void VideoWriter::write(AVPacket& packet) {
  packet.stream_index = 0;
  av_packet_rescale_ts(&packet, time_base_, output_->streams[0]->time_base);
  check(av_interleaved_write_frame(output_.get(), &packet), "write a packet");
}

int64_t VideoWriter::finish() {
  check(av_write_trailer(output_.get()), "write the file's end");
  avio_flush(io_.get());
  check(io_->error, "write the file");
  sink_.file->sync();
  env_->rename(beside(), path_);
  sink_.file.reset();
  env_->sync_folder(parent_folder(path_));
  return sink_.size;
}

}  // namespace keiko::media
