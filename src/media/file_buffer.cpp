#include "media/file_buffer.h"

#include <climits>

extern "C" {
#include <libavutil/display.h>
}

#include "base/error.h"

namespace keiko::media {
namespace {

void check(int code, const char* what) {
  if (code < 0) fail(ErrorKind::kData, "cannot {}: {}", what, ffmpeg_error(code));
}

}  // namespace

FileBuffer::FileBuffer(const char* container, const AVCodecParameters& stream, AVRational time_base,
                       int rotation)
    : time_base_(time_base) {
  av_log_set_level(AV_LOG_FATAL);
  check(avformat_alloc_output_context2(&output_, nullptr, container, nullptr), "make a muxer");
  try {
    output_->flags |= AVFMT_FLAG_BITEXACT;
    check(avio_open_dyn_buf(&output_->pb), "open a memory buffer");
    AVStream* out = avformat_new_stream(output_, nullptr);
    check(avcodec_parameters_copy(out->codecpar, &stream), "copy the codec parameters");
    // A tag of the source's container may mean nothing in this one; the muxer knows its own.
    if (av_codec_get_id(output_->oformat->codec_tag, out->codecpar->codec_tag) !=
        out->codecpar->codec_id)
      out->codecpar->codec_tag = 0;
    out->time_base = time_base;
    out->sample_aspect_ratio = stream.sample_aspect_ratio;
    if (rotation != 0) {
      auto* matrix = reinterpret_cast<int32_t*>(
          av_stream_new_side_data(out, AV_PKT_DATA_DISPLAYMATRIX, sizeof(int32_t) * 9));
      if (matrix == nullptr) fail(ErrorKind::kIo, "out of memory for a muxer");
      av_display_rotation_set(matrix, rotation);
    }
    check(avformat_write_header(output_, nullptr), "write the file's header");
  } catch (...) {
    this->~FileBuffer();
    throw;
  }
}

FileBuffer::~FileBuffer() {
  if (output_ == nullptr) return;
  if (output_->pb != nullptr) {
    uint8_t* bytes = nullptr;
    avio_close_dyn_buf(output_->pb, &bytes);
    av_free(bytes);
  }
  avformat_free_context(output_);
  output_ = nullptr;
}

void FileBuffer::write(AVPacket& packet) {
  packet.stream_index = 0;
  av_packet_rescale_ts(&packet, time_base_, output_->streams[0]->time_base);
  check(av_interleaved_write_frame(output_, &packet), "write a packet");
  if (avio_tell(output_->pb) > INT_MAX - (64 << 20))
    fail(ErrorKind::kData, "more than 2 GiB in one video; cut it into shorter items");
}

std::vector<uint8_t> FileBuffer::finish() {
  check(av_write_trailer(output_), "write the file's end");
  uint8_t* bytes = nullptr;
  const int size = avio_close_dyn_buf(output_->pb, &bytes);
  output_->pb = nullptr;
  std::vector<uint8_t> file(bytes, bytes + size);
  av_free(bytes);
  return file;
}

}  // namespace keiko::media
