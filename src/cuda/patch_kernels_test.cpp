// The kernels of patches and targets, thread by thread on the CPU, beside their references. That
// the references are right is train/patch_kernels_test.cpp's business: only there model/patches.h
// is in sight.

#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "cuda/emulation_for_tests.h"
// After the words of CUDA that it needs.
#include "cuda/patch_kernels.cuh"
#include "cuda/patch_kernels.h"

namespace keiko::cuda {
namespace {

struct Case {
  std::vector<uint8_t> video;
  std::vector<int64_t> ids;
  std::vector<float> said, upstream;
  std::vector<Bfloat16> said_half;
  PatchInput input;

  Case(const PatchGrid& grid, int64_t clips, int64_t kept, unsigned seed) {
    std::mt19937 random(seed);
    const int64_t tokens = grid.times * grid.rows * grid.columns;
    video.resize(size_t(clips * tokens * 3 * grid.channel_values()));
    for (uint8_t& x : video) x = uint8_t(random());
    for (int64_t i = 0; i < clips * kept; ++i)
      ids.push_back(i % 3 == 0 ? tokens - 1 : int64_t(random() % unsigned(tokens)));
    input = {video.data(), ids.data(), clips, kept, grid};
    said.resize(size_t(input.patches() * input.patch_values()));
    for (float& x : said) x = float(random() % 20001) / 5000 - 2;
    said_half.resize(said.size());
    for (size_t i = 0; i < said.size(); ++i) store_float(said[i], &said_half[i]);
    for (int64_t i = 0; i < input.patches(); ++i)
      upstream.push_back(float(random() % 20001) / 10000 - 1);
  }
};

const PatchGrid kGrids[] = {{2, 3, 2, 2, 8},  {1, 2, 5, 3, 4}, {4, 1, 1, 1, 16},
                            {2, 2, 2, 2, 14}, {1, 3, 3, 1, 1}, {2, 2, 2, 2, 16}};
constexpr PatchTarget kTargets[] = {PatchTarget::kUnit, PatchTarget::kImageNet,
                                    PatchTarget::kPatch};

template <class T>
std::vector<uint8_t> bytes_of(const std::vector<T>& values) {
  std::vector<uint8_t> bytes(values.size() * sizeof(T));
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

template <class T>
void compare(const Case& c, const std::vector<T>& said) {
  constexpr PatchType kType = std::is_same_v<T, float> ? PatchType::kFloat32 : PatchType::kBfloat16;
  const auto patches = unsigned(c.input.patches());
  std::vector<T> truth(said.size()), out(said.size());
  const auto run = [&](const std::function<void()>& kernel) {
    emulate({patches}, {unsigned(kPatchLanes)}, sizeof(PatchScratch), kernel);
  };

  reference::take_patches(c.input, kType, truth.data());
  run([&] { make_patches<T, 1>(c.input, out.data()); });
  EXPECT_EQ(bytes_of(out), bytes_of(truth));
  if (fits_wide_patches(c.input, out.data())) {
    out.assign(out.size(), T());
    run([&] { make_patches<T, kWidePatch>(c.input, out.data()); });
    EXPECT_EQ(bytes_of(out), bytes_of(truth)) << kWidePatch << " at a time";
  }
  for (PatchTarget unit : kTargets) {
    SCOPED_TRACE(int(unit));
    reference::take_targets(c.input, unit, kType, truth.data());
    run([&] { make_targets<T>(c.input, unit, out.data()); });
    EXPECT_EQ(bytes_of(out), bytes_of(truth));

    std::vector<float> errors(patches), true_errors(patches);
    reference::target_errors(c.input, unit, kType, said.data(), true_errors.data());
    run([&] { sum_errors<T>(c.input, unit, said.data(), errors.data()); });
    EXPECT_EQ(bytes_of(errors), bytes_of(true_errors));

    reference::target_errors_backward(c.input, unit, kType, said.data(), c.upstream.data(),
                                      truth.data());
    run([&] {
      differentiate_errors<T>(c.input, unit, said.data(), c.upstream.data(), out.data());
    });
    EXPECT_EQ(bytes_of(out), bytes_of(truth));
  }
}

TEST(PatchKernels, GiveTheirReferencesBits) {
  for (const PatchGrid& grid : kGrids) {
    SCOPED_TRACE(testing::Message()
                 << grid.times << "x" << grid.rows << "x" << grid.columns << " tokens of "
                 << grid.tubelet_size << " frames and " << grid.patch_size << " pixels");
    const Case c(grid, 2, 3, 1);
    compare(c, c.said);
    compare(c, c.said_half);
  }
}

// Rows that begin anywhere, and patches that begin anywhere, are moved one by one.
TEST(PatchKernels, WideLoadsAreForAlignedMemoryAlone) {
  Case c({2, 3, 2, 2, 8}, 2, 3, 2);
  alignas(16) float out[8];
  EXPECT_TRUE(fits_wide_patches(c.input, out));
  EXPECT_FALSE(fits_wide_patches(c.input, out + 1));
  c.input.video += 1;
  EXPECT_FALSE(fits_wide_patches(c.input, out));
  c.input.video -= 1;
  c.input.grid.patch_size = 14;
  EXPECT_FALSE(fits_wide_patches(c.input, out));
}

TEST(PatchKernels, Bfloat16RoundsToNearestAndTiesToEven) {
  const struct {
    uint32_t from;
    uint16_t to;
  } cases[] = {{0x3f800000, 0x3f80}, {0x3f808000, 0x3f80}, {0x3f818000, 0x3f82},
               {0x3f808001, 0x3f81}, {0x3f807fff, 0x3f80}, {0xbf818000, 0xbf82},
               {0x7f7fffff, 0x7f80}, {0x7f800000, 0x7f80}, {0x00000001, 0x0000}};
  for (const auto& c : cases) {
    float value;
    std::memcpy(&value, &c.from, 4);
    Bfloat16 seen;
    store_float(value, &seen);
    EXPECT_EQ(seen.bits, c.to) << std::hex << c.from;
  }
  Bfloat16 nan;
  store_float(NAN, &nan);
  EXPECT_TRUE(std::isnan(load_float(&nan)));
}

}  // namespace
}  // namespace keiko::cuda
