// Turns small videos into seeds for the targets that do not take a video as it is.
//
//   make_seeds VIDEOS OUT    writes OUT/clip, OUT/catalogue, OUT/journal, OUT/packets

#include <algorithm>
#include <iterator>

#include "data/catalogue.h"
#include "data/index_journal.h"
#include "fuzz/target.h"
#include "media/demux.h"

namespace keiko::fuzz {
namespace {

std::string little_endian(uint64_t value, int bytes) {
  std::string out;
  for (int i = 0; i < bytes; ++i) out += char(value >> (8 * i));
  return out;
}

void write(const std::string& path, const std::string& content) {
  default_env()->create(path)->append(content);
}

// As packets_fuzz.cpp reads it; packets longer than 255 bytes keep their start.
std::string packets_seed(const std::string& path, const media::StreamParameters& stream) {
  constexpr const char* kCodecs[] = {"h264", "hevc",       "vp8",        "vp9",
                                     "av1",  "mpeg2video", "mpeg1video", "mpeg4"};
  const auto codec = std::find(std::begin(kCodecs), std::end(kCodecs), stream.codec);
  if (codec == std::end(kCodecs)) return "";
  std::string seed(1, char(codec - kCodecs));
  std::string extradata = text_of(stream.extradata).substr(0, 255);
  seed += char(extradata.size());
  seed += extradata;
  media::Demuxer demuxer(default_env(), path, stream.stream_index);
  for (int i = 0; i < 4; ++i) {
    const AVPacket* packet = demuxer.next();
    if (packet == nullptr) break;
    const size_t size = std::min<size_t>(255, size_t(packet->size));
    seed += char(size);
    seed += text_of({packet->data, size});
  }
  return seed;
}

void make_seeds(const std::string& videos, const std::string& out) {
  Env* env = default_env();
  for (const char* target : {"clip", "catalogue", "journal", "packets"})
    env->make_folder(out + "/" + target);
  const std::string everything = out + "/catalogue/everything.kix";
  data::CatalogueWriter all(env, everything);
  int made = 0;
  for (const std::string& name : env->list(videos)) {
    const std::string path = videos + "/" + name;
    data::Video video;
    if (!survives([&] { video.table = media::scan_video(path); })) continue;
    ++made;
    const std::string content = read_text(env, path);
    video.file = {"video.mp4", int64_t(content.size()), 1, 1, false};
    const std::string record = data::serialize_video(video);
    write(out + "/clip/" + name, little_endian(record.size(), 4) + record + content);

    data::Item item;
    item.frame_count = video.table.frame_count();
    data::CatalogueWriter one(env, out + "/catalogue/" + name);
    item.video = one.add_video(video);
    one.add_item(item);
    one.publish();
    item.video = all.add_video(video);
    item.label = made % 2;
    all.add_item(item);

    const std::string packets = packets_seed(path, video.table.stream);
    if (!packets.empty()) write(out + "/packets/" + name, packets);

    // As journal_fuzz.cpp has the video's file.
    data::VideoSummary summary = data::summarize(video);
    summary.file = {"/nowhere/video.mp4", 1000, 1, 1, false};
    video.file.path.clear();
    data::JournalWriter journal(env, out + "/journal/" + name, 0);
    for (int i = 0; i < 1 + made % 2; ++i) journal.append(summary, data::serialize_video(video));
  }
  all.set_class_names({"one", "two"});
  all.publish();
  if (made == 0) fail(ErrorKind::kData, "{}: no video could be scanned", videos);
}

}  // namespace
}  // namespace keiko::fuzz

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: make_seeds VIDEOS OUT\n");
    return 2;
  }
  try {
    keiko::fuzz::make_seeds(argv[1], argv[2]);
  } catch (const keiko::Error& e) {
    std::fprintf(stderr, "make_seeds: %s\n", e.what());
    return 1;
  }
}
