// Files made to do harm: to fill memory, to hang, or to make whoever indexes them open other files
// and addresses. Each is a few hundred bytes, written here box by box.

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/inotify.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/env.h"
#include "base/error.h"
#include "base/machine.h"
#include "base/temp_folder.h"
#include "media/clip_decoder.h"
#include "media/clip_encoder.h"
#include "media/ffmpeg.h"
#include "media/frame_decoder.h"
#include "media/packet_table.h"

namespace keiko::media {
namespace {

std::string big_endian(uint64_t value, int bytes) {
  std::string out;
  for (int i = bytes - 1; i >= 0; --i) out += char(value >> (8 * i));
  return out;
}
std::string u16(uint64_t value) { return big_endian(value, 2); }
std::string u32(uint64_t value) { return big_endian(value, 4); }
std::string box(const std::string& name, const std::string& content) {
  return u32(content.size() + 8) + name + content;
}
std::string full_box(const std::string& name, const std::string& content) {
  return box(name, u32(0) + content);
}

struct Mp4 {
  uint32_t width = 32, height = 32;
  std::string codec = "jpeg";
  std::string data_reference = full_box("url ", "").replace(11, 1, "\x01");  // flag 1: in this file
  std::string sample_sizes = u32(0) + u32(1) + u32(16);  // stsz: a table of one sample
  uint32_t sample_count = 1;

  // ISO/IEC 14496-12 clause 8: one video track, all of its samples in one chunk of `mdat`.
  std::string bytes() const {
    const std::string entry =
        box(codec, std::string(6, '\0') + u16(1) + std::string(16, '\0') + u16(width) +
                       u16(height) + u32(0x480000) + u32(0x480000) + u32(0) + u16(1) +
                       std::string(32, '\0') + u16(24) + u16(0xffff));
    const std::string ftyp = box("ftyp", "isom" + u32(0x200) + "isom");
    const auto moov = [&](uint32_t data_at) {
      const std::string table =
          box("stbl", full_box("stsd", u32(1) + entry) +
                          full_box("stts", u32(1) + u32(sample_count) + u32(1)) +
                          full_box("stsc", u32(1) + u32(1) + u32(sample_count) + u32(1)) +
                          full_box("stsz", sample_sizes) + full_box("stco", u32(1) + u32(data_at)));
      const std::string minf =
          box("minf", full_box("vmhd", std::string(8, '\0')) +
                          box("dinf", full_box("dref", u32(1) + data_reference)) + table);
      const std::string mdia =
          box("mdia", full_box("mdhd", u32(0) + u32(0) + u32(25) + u32(25) + u32(0)) +
                          full_box("hdlr", u32(0) + "vide" + std::string(13, '\0')) + minf);
      return box("moov",
                 full_box("mvhd", u32(0) + u32(0) + u32(25) + u32(25) + std::string(80, '\0')) +
                     box("trak", full_box("tkhd", u32(0) + u32(0) + u32(1) + u32(0) + u32(25) +
                                                      std::string(60, '\0')) +
                                     mdia));
    };
    const size_t header = ftyp.size() + moov(0).size();
    return ftyp + moov(uint32_t(header + 8)) + box("mdat", std::string(16, '\xff'));
  }
};

// A GIF of one picture that claims to be this large.
std::string gif(int width, int height) {
  const auto little = [](int v) { return std::string{char(v), char(v >> 8)}; };
  const std::string size = little(width) + little(height);
  return "GIF89a" + size + std::string("\xf0\0\0", 3) + std::string(6, '\x7f') + ',' +
         std::string(4, '\0') + size + '\0' + std::string("\x02\x02\x4c\x01\0;", 6);
}

// An AVI-like stream of bits, for the few headers that are needed here.
struct Bits {
  std::string bytes;
  int free = 0;
  void put(uint64_t value, int count) {
    for (int i = count - 1; i >= 0; --i) {
      if (free == 0) bytes += '\0', free = 8;
      bytes.back() = char(bytes.back() | (value >> i & 1) << --free);
    }
  }
  void ue(uint64_t value) {  // exponential Golomb, H.264 9.1
    int length = 0;
    while ((value + 1) >> (length + 1)) ++length;
    put(0, length);
    put(value + 1, length + 1);
  }
};

// Annex B H.264: parameter sets of a picture this many macroblocks wide and high, and the start of
// an IDR slice (H.264 7.3.2.1, 7.3.2.2, 7.3.3). Baseline.
std::string h264(uint64_t macroblocks) {
  Bits sps;
  for (int byte : {0x67, 66, 0, 62}) sps.put(uint64_t(byte), 8);
  for (int v : {0, 0, 2, 16}) sps.ue(uint64_t(v));  // id, frame_num, poc type, reference frames
  sps.put(0, 1);
  sps.ue(macroblocks - 1);
  sps.ue(macroblocks - 1);
  sps.put(0b11001, 5);  // frames only, direct 8x8, no cropping, no VUI, stop bit
  Bits pps;
  pps.put(0x68, 8);
  pps.ue(0);
  pps.ue(0);
  pps.put(0, 2);
  for (int i = 0; i < 3; ++i) pps.ue(0);
  pps.put(0, 3);
  for (int i = 0; i < 3; ++i) pps.ue(0);
  pps.put(0b0001, 4);
  Bits slice;
  slice.put(0x65, 8);
  for (int v : {0, 7, 0}) slice.ue(uint64_t(v));  // first macroblock, I slices, parameter set
  slice.put(0, 4);
  slice.ue(0);
  slice.put(0, 2);
  slice.put(0x123456789abcdef, 60);
  const std::string start("\0\0\0\1", 4);
  std::string out;
  for (int i = 0; i < 8; ++i) out += start + sps.bytes + start + pps.bytes + start + slice.bytes;
  return out;
}

std::string scan_error(const std::string& path) {
  try {
    scan_video(path);
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

struct Cost {
  int status = 0;  // of waitpid; 0: it ended by itself
  int64_t memory_mib = 0;
  double seconds = 0;
};

// What some work costs in a process of its own. An Error is an end like any other.
template <class Work>
Cost cost_of(Work work) {
  const double start = monotonic_s();
  const pid_t child = ::fork();
  if (child == 0) {
    ::alarm(60);
    try {
      work();
    } catch (const Error&) {
    }
    ::_exit(0);
  }
  Cost cost;
  rusage usage{};
  ::wait4(child, &cost.status, 0, &usage);
  cost.memory_mib = usage.ru_maxrss / 1024;
  cost.seconds = monotonic_s() - start;
  return cost;
}

Cost cost_of_scanning(const std::string& path) {
  return cost_of([&] { scan_video(path); });
}

TEST(HostileVideo, AFewBytesCostNoMoreThanAFewHundredMegabytes) {
  std::map<std::string, std::string> bombs;
  bombs["65535.gif"] = gif(65535, 65535);
  bombs["12000.gif"] = gif(12000, 12000);  // FFmpeg's own limit lets this one pass: 576 MB
  bombs["65535.mp4"] = Mp4{.width = 65535, .height = 65535}.bytes();
  bombs["65535.y4m"] = "YUV4MPEG2 W65535 H65535 F25:1 C420\nFRAME\n" + std::string(1000, 'x');
  bombs["16000.y4m"] = "YUV4MPEG2 W16000 H16000 F25:1 C420\nFRAME\n" + std::string(1000, 'x');
  bombs["4096.h264"] = h264(4096);
  bombs["1000.h264"] = h264(1000);
  for (uint32_t samples : {0x7fffffffu, 0xffffffffu, 1'000'000'000u, 80'000'000u, 13'000'000u})
    for (uint32_t size : {0u, 1u, 0x7fffffffu}) {
      Mp4 many{.sample_sizes = u32(size) + u32(samples), .sample_count = samples};
      bombs[fmt::format("{} samples of {}.mp4", samples, size)] = many.bytes();
    }
  const TempFolder folder;
  for (const auto& [name, bytes] : bombs) {
    const std::string path = folder.path() + "/" + name;
    publish(default_env(), path, bytes);
    const Cost cost = cost_of_scanning(path);
    EXPECT_EQ(cost.status, 0) << name << " ended with status " << cost.status << " after "
                              << cost.seconds << " s";
    EXPECT_LT(cost.memory_mib, 800) << name << " of " << bytes.size() << " bytes";
    EXPECT_LT(cost.seconds, 30) << name;
  }
}

TEST(HostileVideo, APictureTooLargeForMemoryIsRefusedByTheDecoderToo) {
  // An index that lies reaches the decoder without a scan.
  StreamParameters stream;
  stream.codec = "gif";
  stream.pixel_format = "bgra";
  stream.width = stream.height = 12000;
  EXPECT_THROW(FrameDecoder decoder(stream), Error);
  // Nor may the packets grow what the index says.
  stream.width = stream.height = 32;
  FrameDecoder decoder(stream);
  int frames = 0;
  const std::string bytes = gif(12000, 12000);
  decoder.feed({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}, 0, false,
               [&](uint32_t, const AVFrame&) { ++frames; });
  decoder.drain([&](uint32_t, const AVFrame&) { ++frames; });
  EXPECT_EQ(frames, 0);
  EXPECT_GT(decoder.complaints(), 0);
}

TEST(HostileVideo, AnIndexThatClaimsGigabytesTakesNoMemoryForThem) {
  const TempFolder folder;
  const std::string path = folder.path() + "/small.mp4";
  const auto clip = encode_mp4(std::vector<uint8_t>(32 * 32 * 4, 77), {});
  publish(default_env(), path, {reinterpret_cast<const char*>(clip.data()), clip.size()});
  PacketTable table = scan_video(path);
  ASSERT_TRUE(table.direct_read);
  for (size_t i = 0; i < table.size.size(); ++i) {
    table.size[i] = 1 << 30;
    table.position[i] = int64_t(i) << 30;
  }
  const std::vector<int64_t> frames = {table.frame_count() - 1};
  const Cost cost = cost_of([&] {
    CpuClipDecoder(default_env()).decode_frames(table, path, frames, [](int64_t, const AVFrame&) {
    });
  });
  EXPECT_EQ(cost.status, 0);
  EXPECT_LT(cost.memory_mib, 800);
}

TEST(HostileVideo, OnlyVideoDecodersAreOpened) {
  StreamParameters stream;
  stream.width = stream.height = 32;
  for (const char* codec : {"aac", "pcm_s16le", "subrip", "bin_data", "", "no such codec"}) {
    stream.codec = codec;
    EXPECT_THROW(FrameDecoder decoder(stream), Error) << codec;
  }
}

TEST(HostileVideo, APipeIsRefusedInsteadOfWaitedFor) {
  const TempFolder folder;
  const std::string path = folder.path() + "/pipe.mp4";
  ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
  const Cost cost = cost_of_scanning(path);
  EXPECT_EQ(cost.status, 0) << "scanning a pipe did not end by itself";
  EXPECT_NE(scan_error(path).find("not a regular file"), std::string::npos) << scan_error(path);
}

// Sees every opening of a file.
class Watch {
 public:
  explicit Watch(const std::string& path) : fd_(::inotify_init1(IN_NONBLOCK)) {
    EXPECT_GE(::inotify_add_watch(fd_, path.c_str(), IN_OPEN), 0) << path;
  }
  ~Watch() { ::close(fd_); }
  bool was_opened() {
    char events[4096];
    return ::read(fd_, events, sizeof(events)) > 0;
  }

 private:
  int fd_;
};

// A server that nobody should ever call.
class Listener {
 public:
  Listener() : fd_(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    EXPECT_EQ(::bind(fd_, reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(::listen(fd_, 8), 0);
    EXPECT_EQ(::getsockname(fd_, reinterpret_cast<sockaddr*>(&address), &size), 0);
    port_ = ntohs(address.sin_port);
  }
  ~Listener() { ::close(fd_); }
  std::string host() const { return "127.0.0.1:" + std::to_string(port_); }
  int port() const { return port_; }
  bool was_called() {
    const int call = ::accept(fd_, nullptr, nullptr);
    if (call >= 0) ::close(call);
    return call >= 0;
  }

 private:
  int fd_, port_ = 0;
};

// An alias record (Inside Macintosh: Files) that leads to another file, as libavformat reads it.
std::string alias_to(const std::string& path) {
  std::string record = std::string(10, '\0') + std::string(28, '\0') + std::string(12, '\0') +
                       std::string(64, '\0') + std::string(16, '\0') + u16(0) + u16(0) +
                       std::string(16, '\0');
  std::string name = path;
  if (name.size() % 2 != 0) name += '\0';
  record += u16(2) + u16(name.size()) + name + u16(0xffff) + u16(0);
  record.resize(std::max<size_t>(record.size(), 200));
  return full_box("alis", record);
}

// Opens a file the way a player would, with nothing forbidden.
void open_without_care(const std::string& path) {
  AVFormatContext* raw = nullptr;
  AVDictionary* options = nullptr;
  av_dict_set(&options, "enable_drefs", "1", 0);
  av_dict_set(&options, "use_absolute_path", "1", 0);
  if (avformat_open_input(&raw, path.c_str(), nullptr, &options) >= 0) {
    const InputPointer input(raw);
    avformat_find_stream_info(raw, nullptr);
  }
  av_dict_free(&options);
}

TEST(HostileVideo, NothingButTheFileItselfIsOpened) {
  const TempFolder folder;
  const std::string target = folder.path() + "/target.mp4";
  const auto clip = encode_mp4(std::vector<uint8_t>(32 * 32 * 4, 77), {});
  publish(default_env(), target, {reinterpret_cast<const char*>(clip.data()), clip.size()});
  Listener listener;
  const std::string url = "http://" + listener.host() + "/x.mp4";

  std::map<std::string, std::string> lures;
  lures["alias.mov"] = Mp4{.data_reference = alias_to(target)}.bytes();
  lures["url.mp4"] = Mp4{.data_reference = full_box("url ", url + '\0')}.bytes();
  lures["file url.mp4"] =
      Mp4{.data_reference = full_box("url ", "file://" + target + '\0')}.bytes();
  for (const std::string& to : {url, "file://" + target, target, std::string("target.mp4")}) {
    const std::string name = std::to_string(lures.size());
    lures["reference movie " + name + ".mov"] =
        box("moov",
            box("rmra", box("rmda", full_box("rdrf", "url " + u32(to.size() + 1) + to + '\0'))));
    lures["hls " + name + ".mp4"] =
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n" + to + "\n#EXT-X-ENDLIST\n";
    lures["hls " + name + ".m3u8"] = lures["hls " + name + ".mp4"];
    lures["concat " + name + ".mp4"] = "ffconcat version 1.0\nfile '" + to + "'\n";
    lures["dash " + name + ".mpd"] =
        "<?xml version=\"1.0\"?><MPD xmlns=\"urn:mpeg:dash:schema:mpd:2011\" "
        "type=\"static\"><Period><AdaptationSet><Representation id=\"1\" mimeType=\"video/mp4\">"
        "<BaseURL>" +
        to + "</BaseURL></Representation></AdaptationSet></Period></MPD>";
  }
  lures["session.sdp"] = fmt::format(
      "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {} RTP/AVP/TCP "
      "96\na=rtpmap:96 H264/90000\n",
      listener.port());

  Watch watch(target);
  // First that the lures are real: without Keiko's care, the file is opened and the server called.
  publish(default_env(), folder.path() + "/control.mov", lures["alias.mov"]);
  open_without_care(folder.path() + "/control.mov");
  EXPECT_TRUE(watch.was_opened()) << "the alias record leads nowhere: this test shows nothing";
  publish(default_env(), folder.path() + "/control.ffconcat",
          "ffconcat version 1.0\nfile target.mp4\n");
  open_without_care(folder.path() + "/control.ffconcat");
  EXPECT_TRUE(watch.was_opened()) << "the playlist leads nowhere: this test shows nothing";
  const int caller = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(uint16_t(listener.port()));
  EXPECT_EQ(::connect(caller, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  ::close(caller);
  EXPECT_TRUE(listener.was_called());

  for (const auto& [name, bytes] : lures) {
    const std::string path = folder.path() + "/" + name;
    publish(default_env(), path, bytes);
    scan_error(path);
    EXPECT_FALSE(watch.was_opened()) << name << " made the scan open another file";
    EXPECT_FALSE(listener.was_called()) << name << " made the scan call a server";
  }
  // A path that libavformat would take for a protocol is a file's name, and there is none.
  for (const std::string& path :
       {url, "concat:" + target + "|" + target, "file:" + target,
        "subfile,,start,0,end,9,,:" + target, "tcp://" + listener.host(), "cache:" + target}) {
    EXPECT_NE(scan_error(path).find("No such file"), std::string::npos) << path;
    EXPECT_FALSE(watch.was_opened()) << path;
    EXPECT_FALSE(listener.was_called()) << path;
  }
}

}  // namespace
}  // namespace keiko::media
