// Arbitrary bytes as a catalogue: opening it, every item, every video, and the plans made of them.
//
// Checksums hold in this build. The file's own size is written where the catalogue keeps it unless
// the input says otherwise there, because a mutation that changes the length would stop at it.

#include <cstring>
#include <iterator>

#include "data/catalogue.h"
#include "data/dataset.h"
#include "fuzz/memory_env.h"
#include "media/decode_plan.h"

namespace keiko::fuzz {
namespace {

// The last 24 bytes are the file's size, a checksum and the end mark (docs/formats.md).
void correct_file_size(std::string& content) {
  if (content.size() < 24) return;
  char* field = &content[content.size() - 24];
  uint64_t stated;
  std::memcpy(&stated, field, sizeof(stated));
  if (stated >> 32 != 0) return;
  const uint64_t actual = content.size();
  std::memcpy(field, &actual, sizeof(actual));
}

void read_everything(const data::Catalogue& catalogue) {
  constexpr int64_t kMost = 64;  // a small file can claim no more than its bytes, but be quick
  for (int64_t i = 0; i < std::min(kMost, catalogue.item_count()); ++i)
    survives([&] { catalogue.item(i); });
  for (int64_t i = 0; i < std::min(kMost, catalogue.video_count()); ++i) {
    survives([&] { catalogue.summary(uint32_t(i)); });
    survives([&] { catalogue.video(uint32_t(i)); });
  }
  survives([&] { catalogue.each_item([](int64_t, const data::Item&) {}); });
  survives([&] { catalogue.each_summary([](uint32_t, const data::VideoSummary&) {}); });
  survives([&] { catalogue.content_hashes(); });
}

// The samples that training and evaluation would take.
void plan_samples(Env* env, const data::ClipOptions& clip) {
  data::AugmentOptions augment;
  augment.multi_scale_crop = {1, 0.66};
  augment.flip = 0.5;
  data::DataSource source;
  source.path = "/hostile.kix";
  const data::Dataset dataset(env, {source}, clip, augment, 1, 2);
  for (int64_t i = 0; i < 4; ++i) {
    survives([&] {
      const data::ClipPlan plan = dataset.training_clip(i);
      media::plan_decode(dataset.video_of(plan)->table, plan.frames);
    });
    if (i < dataset.sample_count())
      survives([&] {
        const data::ClipPlan plan = dataset.evaluation_clip(i);
        media::plan_decode(dataset.video_of(plan)->table, plan.frames);
      });
  }
}

}  // namespace
}  // namespace keiko::fuzz

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

// Besides libFuzzer's own mutations: whole numbers of the header, the places and the items, set to
// what overflows when an offset or a size is added.
extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned int seed) {
  constexpr uint64_t kNasty[] = {0,
                                 1,
                                 0xffffffff,
                                 0x7fffffffffffffff,
                                 0x7fffffffffffffc0,
                                 0x8000000000000000,
                                 0xffffffffffffffff,
                                 0xffffffffffffffc0};
  if (seed % 4 != 0 || size < 8) return LLVMFuzzerMutate(data, size, max_size);
  const uint64_t value = kNasty[seed / 4 % std::size(kNasty)] + seed / 1024 % 3 - 1;
  // Half of them in the last 256 bytes: that is where the sections are told.
  const size_t range = seed / 32 % 2 == 0 ? std::min<size_t>(size, 256) : size;
  std::memcpy(data + size - (1 + seed / 4096 % (range / 8)) * 8, &value, sizeof(value));
  return size;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace keiko;
  fuzz::MemoryEnv env;
  std::string& content = env.files["/hostile.kix"];
  content = fuzz::text_of({data, size});
  fuzz::correct_file_size(content);
  const bool opened =
      fuzz::survives([&] { fuzz::read_everything(*data::Catalogue::open(&env, "/hostile.kix")); });
  if (!opened) return 0;
  data::ClipOptions clip;
  fuzz::survives([&] { fuzz::plan_samples(&env, clip); });
  clip.frames = "shuffled";
  clip.fps = 10;
  clip.sample_by = "duration";
  clip.window_s = 0.1;
  fuzz::survives([&] { fuzz::plan_samples(&env, clip); });
  return 0;
}
