#include "model/parameters.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
#include "base/temp_folder.h"
#include "model/meta_device_for_tests.h"
#include "model/safetensors.h"
#include "model/videomae.h"

namespace keiko::model {
namespace {

struct Tiny {
  Parameters parameters{at::kFloat};
  VitOptions vit;
  TokenGrid grid;
  std::unique_ptr<VideoMaeClassifier> model;
  explicit Tiny(uint64_t seed) {
    vit.model = "custom";
    vit.width = 32;
    vit.depth = 2;
    vit.heads = 2;
    vit.patch_size = 8;
    grid = make_grid(vit, 4, 16);
    model = std::make_unique<VideoMaeClassifier>(parameters, vit, grid, VideoMaeHeadOptions{5});
    parameters.allocate(seed);
  }
};

TEST(Parameters, CountWhatIsAnnouncedBeforeAnythingIsAllocated) {
  Parameters parameters(at::kFloat);
  VitOptions vit;
  vit.model = "custom";
  vit.width = 96;
  vit.depth = 3;
  vit.heads = 4;
  const VideoMaeClassifier model(parameters, vit, make_grid(vit, 4, 32), VideoMaeHeadOptions{5});
  int64_t numbers = 0;
  for (const auto& [name, shape] : parameters.published_shapes()) {
    int64_t n = 1;
    for (int64_t side : shape) n *= side;
    numbers += n;
  }
  EXPECT_TRUE(parameters.buffers().empty());
  EXPECT_EQ(parameters.count(), numbers);
  EXPECT_EQ(parameters.count("classifier."), 5 * 96 + 5);
  EXPECT_EQ(parameters.count("videomae.") + parameters.count("fc_norm.") + 5 * 96 + 5, numbers);
  parameters.allocate(1);
  EXPECT_EQ(parameters.count(), numbers);
  int64_t held = 0;
  for (const FlatBuffer& buffer : parameters.buffers()) held += buffer.value.numel();
  EXPECT_EQ(held, numbers);
}

TEST(Parameters, GradientsLandInTheFlatBuffers) {
  Tiny t(1);
  const at::Tensor patches = at::randn({3, t.grid.count(), t.grid.patch_values()});
  const at::Tensor logits = t.model->forward(patches, {}, BlockRunner());
  logits.square().sum().backward();
  for (const Parameter& p : t.parameters.all()) {
    bool inside = false;
    for (const FlatBuffer& b : t.parameters.buffers()) {
      const char* start = static_cast<const char*>(b.grad.const_data_ptr());
      const char* data = static_cast<const char*>(p.value.grad().const_data_ptr());
      inside |= data >= start && data < start + b.grad.nbytes();
    }
    EXPECT_TRUE(inside) << p.spec.name << " left its buffer";
  }
  double norm = 0;
  for (const FlatBuffer& b : t.parameters.buffers()) norm += b.grad.norm().item<double>();
  EXPECT_GT(norm, 0);
  // A second backward adds; zero_grad clears through the same memory.
  t.parameters.zero_grad();
  for (const Parameter& p : t.parameters.all())
    EXPECT_EQ(p.value.grad().abs().max().item<float>(), 0);
}

// Another name of the same device has everything made anew, and the values can be compared.
const at::Device kAnotherCpu(at::kCPU, 0);

TEST(Parameters, MovedOnesAreTheSameModelInOtherMemory) {
  for (const bool is_trained : {true, false}) {
    Tiny here(1), there(1);
    Parameters copy(at::kFloat);
    const VideoMaeClassifier twin(copy, there.vit, there.grid, VideoMaeHeadOptions{5});
    if (!is_trained) copy.allocate_copy(there.parameters);
    Parameters& moved = is_trained ? there.parameters : copy;
    const VideoMaeClassifier& model = is_trained ? *there.model : twin;
    if (is_trained)
      for (auto& buffer : moved.buffers()) buffer.grad.fill_(0.5);
    const void* before = moved.blocks()[0].value.const_data_ptr();
    std::vector<FlatBuffer> layout = moved.buffers();
    moved.move_to(kAnotherCpu);

    EXPECT_NE(moved.blocks()[0].value.const_data_ptr(), before);
    EXPECT_EQ(moved.hash(), here.parameters.hash());
    for (size_t i = 0; i < layout.size(); ++i) {
      const FlatBuffer& buffer = moved.buffers()[i];
      EXPECT_EQ(buffer.name, layout[i].name);
      EXPECT_EQ(buffer.value.storage_offset(), layout[i].value.storage_offset());
      EXPECT_FALSE(buffer.value.is_alias_of(layout[i].value));
      ASSERT_EQ(buffer.grad.defined(), is_trained);
      if (is_trained) {
        EXPECT_TRUE(buffer.grad.equal(layout[i].grad));
        EXPECT_FALSE(buffer.grad.is_alias_of(layout[i].grad));
      }
    }
    for (const Parameter& p : moved.all()) {
      EXPECT_TRUE(p.value.is_alias_of(moved.blocks()[p.storage].value)) << p.spec.name;
      EXPECT_EQ(p.value.requires_grad(), is_trained) << p.spec.name;
      if (is_trained) {
        EXPECT_TRUE(p.value.grad().is_alias_of(moved.blocks()[p.storage].grad));
      }
    }
    // The model's own handles follow.
    const at::Tensor patches = at::randn({3, here.grid.count(), here.grid.patch_values()});
    const at::Tensor want = here.model->forward(patches, {}, BlockRunner());
    const at::Tensor got = model.forward(patches, {}, BlockRunner());
    EXPECT_TRUE(got.equal(want));
    if (!is_trained) continue;
    moved.zero_grad();
    want.square().sum().backward();
    got.square().sum().backward();
    for (size_t i = 0; i < layout.size(); ++i)
      EXPECT_TRUE(moved.buffers()[i].grad.equal(here.parameters.buffers()[i].grad));
  }
}

TEST(Parameters, OnADeviceTheyAreCopiedLoadedAndAveragedThere) {
  Tiny here(1), there(1);
  const auto numbers = here.parameters.published();
  there.parameters.move_to(at::kMeta);
  Parameters average(at::kFloat);
  const VideoMaeClassifier twin(average, there.vit, there.grid, VideoMaeHeadOptions{5});
  average.allocate_copy(there.parameters);
  const MetaWatch watch;
  EXPECT_TRUE(there.parameters.load(numbers).missing.empty());
  there.parameters.zero_grad();
  update_average(average, there.parameters, 0.9);
  twin.forward(at::empty({2, there.grid.count(), there.grid.patch_values()}, at::kMeta), {},
               BlockRunner());
  for (const Parameters* parameters : {&there.parameters, &average}) {
    EXPECT_EQ(parameters->device(), at::Device(at::kMeta));
    for (const auto& [name, tensor] : parameters->published())
      EXPECT_TRUE(tensor.is_meta()) << name;
    for (const BlockStorage& block : parameters->blocks()) EXPECT_TRUE(block.value.is_meta());
  }
  EXPECT_EQ(watch.uploads(), int(numbers.size()));  // of load() alone
  EXPECT_TRUE(watch.downloads().empty());
  EXPECT_THROW(update_average(average, here.parameters, 0.9), Error);
}

TEST(Parameters, NormsBiasesAndTokensDoNotDecay) {
  Tiny t(1);
  for (const Parameter& p : t.parameters.all())
    EXPECT_EQ(p.spec.decays, p.spec.shape.size() >= 2) << p.spec.name;
}

TEST(Parameters, FirstValuesAreAFunctionOfSeedAndName) {
  Tiny a(1), b(1), c(2);
  EXPECT_EQ(a.parameters.hash(), b.parameters.hash());
  EXPECT_NE(a.parameters.hash(), c.parameters.hash());
  for (const Parameter& p : a.parameters.all()) {
    if (p.spec.init != Init::kXavierUniform) continue;
    const double parts = std::max<double>(1, double(p.spec.parts.size()));
    const double fan_out = double(p.spec.shape[0]) / parts;
    const double fan_in = double(p.value.numel()) / double(p.spec.shape[0]);
    const double limit = std::sqrt(6 / (fan_in + fan_out));
    EXPECT_LE(p.value.abs().max().item<double>(), limit * (1 + 1e-6)) << p.spec.name;
    EXPECT_NEAR(p.value.std().item<double>(), limit / std::sqrt(3.0), limit * 0.1) << p.spec.name;
  }
}

TEST(Patches, UnpatchifyInvertsPatchify) {
  Tiny t(1);
  const at::Tensor video = at::arange(2 * 3 * 4 * 16 * 16).view({2, 3, 4, 16, 16});
  EXPECT_TRUE(unpatchify(patchify(video, t.grid), t.grid).equal(video));
  // One value by hand: clip 1, channel 2, frame 3, row 9, column 14 -> token (1, 1, 1).
  const int64_t token = 1 * 4 + 1 * 2 + 1, value = ((2 * 2 + 1) * 8 + 1) * 8 + 6;
  EXPECT_EQ(patchify(video, t.grid).index({1, token, value}).item<int64_t>(),
            video.index({1, 2, 3, 9, 14}).item<int64_t>());
}

TEST(Safetensors, WritesWhatItReadsInEveryDtype) {
  const TempFolder folder;
  const std::string path = folder.path() + "/x.safetensors";
  std::vector<NamedTensor> tensors;
  for (auto type : {at::kDouble, at::kFloat, at::kHalf, at::kBFloat16, at::kLong, at::kInt,
                    at::kByte, at::kBool})
    tensors.emplace_back(at::toString(type), at::randn({3, 5}).mul(50).abs().to(type));
  tensors.emplace_back("scalar", at::tensor(2.5));
  tensors.emplace_back("empty", at::empty({0, 4}));
  write_safetensors(default_env(), path, tensors, {{"format", "pt"}});
  const SafetensorsFile read = read_safetensors(default_env(), path);
  EXPECT_EQ(read.metadata.at("format"), "pt");
  for (const auto& [name, tensor] : tensors) EXPECT_TRUE(read.get(name).equal(tensor)) << name;
}

TEST(Safetensors, ADamagedFileIsAnErrorNeverACrash) {
  const TempFolder folder;
  const std::string path = folder.path() + "/x.safetensors";
  write_safetensors(default_env(), path, {{"a", at::ones({4})}, {"b", at::ones({2, 3})}});
  const std::string good = read_text(default_env(), path);
  for (size_t length = 0; length < good.size(); ++length) {
    publish(default_env(), path, good.substr(0, length));
    EXPECT_THROW(read_safetensors(default_env(), path), Error) << "cut to " << length;
  }
  for (size_t at_byte = 0; at_byte < good.size(); ++at_byte) {
    std::string flipped = good;
    flipped[at_byte] = char(flipped[at_byte] ^ 0x15);
    publish(default_env(), path, flipped);
    try {
      read_safetensors(default_env(), path);  // a changed number or name may pass
    } catch (const Error&) {
    }
  }
}

}  // namespace
}  // namespace keiko::model
