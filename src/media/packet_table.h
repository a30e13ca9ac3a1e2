// What is known of one video without decoding it: its codec and where every packet lies.
//
// Made once by scan_video, kept in the catalogue, and enough at training time to plan, read and
// decode any frame without opening, probing or seeking the container again.

#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "base/env.h"

namespace keiko::media {

constexpr int64_t kNoTime = INT64_MIN;  // a packet without pts or dts

// The codec parameters of a stream, by name where FFmpeg's numbers could change between versions.
struct StreamParameters {
  int stream_index = 0;      // within the container
  std::string format_name;   // container, FFmpeg's name ("mov,mp4,m4a,3gp,3g2,mj2")
  std::string codec;         // FFmpeg's name ("h264")
  std::string pixel_format;  // FFmpeg's name ("yuv420p")
  uint32_t codec_tag = 0;
  int profile = 0, level = 0;
  int width = 0, height = 0;  // pixels as coded, after cropping, before rotation
  int sample_aspect_num = 1, sample_aspect_den = 1;  // width of a pixel over its height
  int rotation = 0;  // degrees clockwise to turn the picture for display: 0, 90, 180, 270
  int color_range = 0, color_primaries = 0, color_transfer = 0, color_space = 0;  // ITU-T H.273
  int chroma_location = 0;  // AVChromaLocation
  int field_order = 0;      // AVFieldOrder
  int reorder_depth = 0;    // frames; libavcodec drops late frames when it starts too small
  int bits_per_raw_sample = 0;
  std::vector<uint8_t> extradata;
  int64_t time_base_num = 1, time_base_den = 1;    // seconds per tick
  int64_t frame_rate_num = 0, frame_rate_den = 1;  // average frames per second; 0: unknown

  friend bool operator==(const StreamParameters&, const StreamParameters&) = default;

  // The size a person sees: square pixels, turned upright.
  double display_width() const;
  double display_height() const;
  double frames_per_second() const { return double(frame_rate_num) / double(frame_rate_den); }
};

enum PacketFlag : uint8_t {
  kKeyPacket = 1,     // the container calls it a key frame
  kRandomAccess = 2,  // decoding may start here and be exact from this frame on
  kDroppable = 4,     // no other frame needs it
  kDiscard = 8,       // to be decoded, never shown
};

struct PacketTable {
  StreamParameters stream;

  // Columns over the stream's packets, in decode order.
  std::vector<int64_t> position;  // first byte in the file; meaningful only when direct_read
  std::vector<uint32_t> size;     // bytes
  std::vector<int64_t> pts, dts;  // ticks, or kNoTime
  std::vector<uint8_t> flags;     // PacketFlag bits

  // Column over the frames that a player shows, in presentation order.
  std::vector<uint32_t> frame_packet;  // ordinal of the packet that a frame comes from

  // Columns that follow from the others: see complete_table.
  std::vector<int64_t> frame_pts;     // ticks, never kNoTime, not descending
  std::vector<uint32_t> frame_start;  // mapped_by_decoding: where decoding for a frame starts
  std::vector<uint32_t> frame_last;   // mapped_by_decoding: the last packet to feed for a frame
  std::vector<uint32_t> frame_turn;   // frames before it from the same packet; empty: never any

  bool direct_read = false;     // reading [position, size) gives the bytes that the demuxer gives
  std::string direct_read_off;  // why not, when not
  bool skipping = false;        // droppable packets are known
  std::string skipping_off;     // why not, when not
  // Why a decoder that decoded this stream may not go on with another clip; empty: it may.
  std::string reuse_off;
  bool mapped_by_decoding = false;  // frame_packet was seen, not concluded
  int64_t corrupt_packets = 0;      // packets that the demuxer could not read

  int64_t packet_count() const { return int64_t(size.size()); }
  int64_t frame_count() const { return int64_t(frame_packet.size()); }
};

// Fills the columns that follow from the stored ones. Frame times are the pts of the frames'
// packets; where packets have none (AVI), the dts in ascending order, which is what the container
// means, and without those the average frame rate. Cost: O(packets).
void complete_table(PacketTable& table);

// Demuxes the whole file and builds its table for the best video stream (FFmpeg's choice).
// Reads each packet once more from the file to check direct reading. Opens nothing but this file,
// and that through `env`.
// Cost: reads the file. When container or codec do not tell by rule which frames come out and where
// decoding may start, it decodes the file too, once to see the frames and once or more to try the
// shortcuts (trial.h). Throws Error(kData) when the file holds no video that can be decoded,
// Error(kIo).
PacketTable scan_video(const std::string& path, Env* env = default_env());

}  // namespace keiko::media
