// Runs augmentation steps on raw frames, so that they can be compared with another program's.
//
//   augment_frames FRAMES SIZE [bicubic] [repeat=N] OP=ARGUMENT...  < in > out
//
// Frames are uint8 [3, FRAMES, SIZE, SIZE]. Steps are named as in `keiko preview`: Rotate=21.3,
// Invert=0, erase=X,Y,W,H,SEED. With repeat=N the milliseconds of the fastest of N runs go to
// stderr.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "base/machine.h"
#include "data/augment.h"

using namespace keiko;

namespace {

bool add_step(const std::string& text, data::AugmentPlan& plan) {
  const size_t equals = text.find('=');
  if (equals == std::string::npos) return false;
  const std::string name = text.substr(0, equals), value = text.substr(equals + 1);
  if (name == "erase") {
    data::ErasedBox box;
    unsigned long long seed = 0;
    if (std::sscanf(value.c_str(), "%d,%d,%d,%d,%llu", &box.x, &box.y, &box.width, &box.height,
                    &seed) != 5)
      return false;
    box.noise_seed = seed;
    plan.erased = box;
    return true;
  }
  for (int op = 0; op <= int(data::PictureOp::kHue); ++op)
    if (name == data::name_of(data::PictureOp(op))) {
      plan.steps.push_back({data::PictureOp(op), std::atof(value.c_str())});
      return true;
    }
  return false;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "augment_frames: FRAMES and SIZE are missing\n");
    return 2;
  }
  const int64_t frames = std::atoll(argv[1]), size = std::atoll(argv[2]);
  data::AugmentPlan plan;
  int repeat = 1;
  for (int i = 3; i < argc; ++i) {
    const std::string text = argv[i];
    if (text == "bicubic") {
      plan.bicubic = true;
    } else if (text.rfind("repeat=", 0) == 0) {
      repeat = std::max(1, std::atoi(text.c_str() + 7));
    } else if (!add_step(text, plan)) {
      std::fprintf(stderr, "augment_frames: %s is no step\n", text.c_str());
      return 2;
    }
  }
  std::vector<uint8_t> in(size_t(3 * frames * size * size));
  if (std::fread(in.data(), 1, in.size(), stdin) != in.size()) {
    std::fprintf(stderr, "augment_frames: stdin ends before %zu bytes\n", in.size());
    return 2;
  }
  data::AugmentScratch scratch;
  std::vector<uint8_t> out;
  double best = 1e9;
  for (int i = 0; i < repeat; ++i) {
    out = in;
    const double start = monotonic_s();
    data::apply_augment(plan, out.data(), frames, size, scratch);
    best = std::min(best, monotonic_s() - start);
  }
  if (repeat > 1) std::fprintf(stderr, "%.3f\n", best * 1000);
  return std::fwrite(out.data(), 1, out.size(), stdout) == out.size() ? 0 : 1;
}
