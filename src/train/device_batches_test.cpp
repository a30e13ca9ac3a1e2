// Batches that never visit host memory: decoders, slots, loader and trainer's views together, on a
// device that works later than it is told to and in random order.

#include <ATen/ATen.h>

#include <atomic>

#include "cuda/emulated_device_for_tests.h"
#include "data/loader.h"
#include "data/small_set.h"
#include "train/compute.h"
#include "train/evaluation.h"

namespace keiko::train {
namespace {

using cuda::EmulatedDevice;
using data::Batch;
using data::env;
using data::Slice;

constexpr int64_t kBatch = 6;

// What cuda::GpuDecoding is on a GPU. Outlives its loader.
struct EmulatedDecoding {
  EmulatedDecoding(uint64_t seed, uint64_t slowest_us)
      : device(seed, slowest_us), reader(device.make_queue()) {}

  data::MakeDecoder make_decoder() {
    return [this] {
      return std::make_unique<cuda::NvdecClipDecoder>(
          env, host, pool, std::make_unique<cuda::EmulatedConverter>(device), tally);
    };
  }
  media::MakeBuffer make_buffer() {
    return [this] {
      return std::make_unique<cuda::DeviceSlot>(0, std::make_unique<media::HeapBuffer>(), reader);
    };
  }

  EmulatedDevice device;
  std::shared_ptr<EmulatedDevice::Queue> reader;
  cuda::HostDevice host;
  cuda::NvdecTally tally;
  cuda::NvdecSessionPool pool{
      [this](const cuda::NvdecSessionKey&, const media::StreamParameters& stream) {
        return cuda::open_nvdec_session(host, stream, cuda::NvdecClipDecoder::kMapped);
      },
      {}};
};

class DeviceBatches : public data::SmallSet {
 protected:
  static data::Dataset dataset(const data::AugmentOptions& augment = {}) {
    data::ClipOptions clip;
    clip.num_frames = 8;
    clip.sampling_rate = 1;
    clip.size = 16;
    return data::Dataset(env, {{path("train.kix")}}, clip, augment, 5, 1);
  }
  // Steps of six clips, and one of four.
  static Slice slice_of(int64_t step) {
    return {step * kBatch, step * kBatch + (step == 2 ? 4 : kBatch)};
  }
  static std::vector<std::vector<uint8_t>> on_the_cpu(const data::Dataset& data, int64_t steps) {
    data::Loader loader(env, data, slice_of, 0, true, 1, 1,
                        [] { return std::make_unique<media::CpuClipDecoder>(env); });
    std::vector<std::vector<uint8_t>> batches;
    for (int64_t step = 0; step < steps; ++step) {
      const Batch& batch = loader.next();
      batches.emplace_back(batch.video.begin(), batch.video.end());
    }
    return batches;
  }
};

TEST_F(DeviceBatches, HoldTheClipsOfTheCpuPathWhateverTheDeviceDoesFirst) {
  data::AugmentOptions augment;
  augment.flip = 0.5;
  augment.random_resized_crop.scale = {0.5, 1};
  augment.repeats = 2;
  const data::Dataset data = dataset(augment);
  constexpr int64_t kSteps = 8;
  const auto truth = on_the_cpu(data, kSteps);
  for (uint64_t seed = 0; seed < 6; ++seed) {
    EmulatedDecoding gpu(seed, 200);
    std::vector<std::vector<uint8_t>> seen(kSteps);
    {
      data::Loader loader(env, data, slice_of, 0, true, 1 + int(seed % 3), 1 + int(seed % 2),
                          gpu.make_decoder(), gpu.make_buffer());
      for (int64_t step = 0; step < kSteps; ++step) {
        const Batch& batch = loader.next();
        EXPECT_EQ(batch.step, step);
        EXPECT_EQ(batch.memory->device(), 0);
        // As kernels do: the batch is read when the host is long at the next one.
        for (const uint8_t& pixel : batch.video)
          if ((&pixel - batch.video.data()) % 4096 == 0)
            gpu.reader->add([&to = seen[size_t(step)], from = &pixel,
                             end = batch.video.data() + batch.video.size()] {
              to.insert(to.end(), from, std::min<const uint8_t*>(from + 4096, end));
            });
      }
    }  // the loader goes while batches may still be read
    EXPECT_EQ(seen, truth) << "seed " << seed;
    EXPECT_EQ(gpu.device.pending(), 0);
    EXPECT_GT(gpu.tally.counts().on_gpu, 0);
    EXPECT_TRUE(gpu.tally.counts().on_cpu.empty());
  }
}

TEST_F(DeviceBatches, StopAtOnceWhileTheDeviceIsBusy) {
  const data::Dataset data = dataset();
  for (uint64_t seed = 0; seed < 3; ++seed) {
    EmulatedDecoding gpu(seed, 500);
    const data::Loader loader(env, data, slice_of, 0, true, 3, 3, gpu.make_decoder(),
                              gpu.make_buffer());
    if (seed > 0) std::this_thread::sleep_for(std::chrono::milliseconds(5 * seed));
  }  // Nothing hangs, and no queue, slot or surface goes too early: they say so themselves.
}

// Slots bound what is decoded ahead: the loader does not run away from its reader.
TEST_F(DeviceBatches, NoMoreAreUnderWayThanThereAreSlots) {
  const data::Dataset data = dataset();
  EmulatedDecoding gpu(1, 0);
  std::atomic<int64_t> decoded = 0;
  struct Counting : media::ClipDecoder {
    std::unique_ptr<media::ClipDecoder> inner;
    std::atomic<int64_t>* decoded = nullptr;
    media::ClipCost decode(const media::ClipRequest& request) override {
      const media::ClipCost cost = inner->decode(request);
      ++*decoded;
      return cost;
    }
  };
  const auto make = [&] {
    auto decoder = std::make_unique<Counting>();
    decoder->inner = gpu.make_decoder()();
    decoder->decoded = &decoded;
    return decoder;
  };
  data::Loader loader(
      env, data,
      [](int64_t step) {
        return Slice{step * kBatch, (step + 1) * kBatch};
      },
      0, true, 2, 2, make, gpu.make_buffer());
  for (int64_t step = 0; step < 3; ++step) loader.next();
  // Two are behind, one is handed out, two are ahead.
  constexpr int64_t kMost = (3 + 2) * kBatch;
  for (int i = 0; i < 2000 && decoded < kMost; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  EXPECT_EQ(decoded, kMost);
}

TEST_F(DeviceBatches, WhatTheHostWouldHaveToAugmentIsRefused) {
  data::AugmentOptions augment;
  augment.color_jitter.brightness = 0.4;
  const data::Dataset data = dataset(augment);
  EmulatedDecoding gpu(1, 0);
  data::Loader loader(env, data, slice_of, 0, true, 1, 1, gpu.make_decoder(), gpu.make_buffer());
  EXPECT_NE(data::error_of([&] { loader.next(); }).find("augmented"), std::string::npos);
}

// A GPU that has no room for one more stream, say.
TEST_F(DeviceBatches, ADecoderThatCannotBeMadeEndsTheRunByName) {
  const data::Dataset data = dataset();
  EmulatedDecoding gpu(1, 0);
  data::Loader loader(
      env, data, slice_of, 0, true, 2, 1,
      []() -> std::unique_ptr<media::ClipDecoder> {
        fail(ErrorKind::kIo, "no room for a stream, says the test");
      },
      gpu.make_buffer());
  EXPECT_NE(data::error_of([&] { loader.next(); }).find("no room for a stream"), std::string::npos);
}

TEST_F(DeviceBatches, ABadClipIsReplacedAsOnTheCpu) {
  // A decoder that finds one class bad, in front of either path.
  struct Picky : media::ClipDecoder {
    std::unique_ptr<media::ClipDecoder> inner;
    media::ClipCost decode(const media::ClipRequest& request) override {
      if (request.path->find("/east/") != std::string::npos)
        fail(ErrorKind::kData, "{}: made bad by the test", *request.path);
      return inner->decode(request);
    }
  };
  const data::Dataset data = dataset();
  EmulatedDecoding gpu(3, 100);
  const auto picky = [](const data::MakeDecoder& make) {
    return [make] {
      auto decoder = std::make_unique<Picky>();
      decoder->inner = make();
      return decoder;
    };
  };
  data::Loader ours(env, data, slice_of, 0, true, 2, 1, picky(gpu.make_decoder()),
                    gpu.make_buffer());
  data::Loader theirs(env, data, slice_of, 0, true, 2, 1,
                      picky([] { return std::make_unique<media::CpuClipDecoder>(env); }));
  int64_t bad = 0;
  for (int64_t step = 0; step < 5; ++step) {
    const Batch &a = ours.next(), &b = theirs.next();
    bad += int64_t(a.bad.size());
    EXPECT_EQ(a.bad.size(), b.bad.size());
    std::vector<uint8_t> seen;
    gpu.reader->add([&] { seen.assign(a.video.begin(), a.video.end()); });
    gpu.reader->mark()->wait();
    EXPECT_TRUE(std::equal(seen.begin(), seen.end(), b.video.begin(), b.video.end()))
        << "step " << step;
  }
  EXPECT_GE(bad, 3);
}

TEST_F(DeviceBatches, AreTensorsOfTheGpuWithoutACopy) {
  data::ClipOptions clip;
  clip.num_frames = 2;
  clip.size = 4;
  cuda::EmulatedDevice device;
  const std::shared_ptr<EmulatedDevice::Queue> reader = device.make_queue();
  cuda::DeviceSlot slot(3, std::make_unique<media::HeapBuffer>(), reader);
  Batch batch;
  batch.clips.resize(5);
  batch.memory = &slot;
  const size_t bytes = 5 * 3 * 2 * 4 * 4;
  batch.video = {slot.reserve(bytes), bytes};
  const objective::MicroBatch micro = view_batch(batch, clip, 2, 5);
  const at::Device gpu(at::kCUDA, 3);
  EXPECT_EQ(micro.video.device(), gpu);
  EXPECT_EQ(micro.video.sizes(), (std::vector<int64_t>{3, 3, 2, 4, 4}));
  EXPECT_EQ(micro.video.const_data_ptr(), batch.video.data() + 2 * 3 * 2 * 4 * 4);
  EXPECT_TRUE(micro.label.is_cpu());
  // What is there already is not touched: this machine could not copy it.
  objective::MicroBatch there;
  there.video = micro.video;
  EXPECT_TRUE(to_device(there, gpu).video.is_same(micro.video));
  media::HeapBuffer heap;
  batch.memory = &heap;
  batch.video = {heap.reserve(bytes), bytes};
  EXPECT_TRUE(view_batch(batch, clip, 0, 5).video.is_cpu());
}

TEST(ChooseDecode, TakesNvdecOnlyWhereARecipeAndAMachineCan) {
  Recipe recipe;
  int asked = 0;
  std::string missing;
  const auto choose = [&](const std::string& key, bool on_gpu) {
    recipe.loader.decode = key;
    return choose_decode(recipe, on_gpu, [&] {
      ++asked;
      return missing;
    });
  };
  const auto refusal = [&](bool on_gpu) {
    try {
      choose("nvdec", on_gpu);
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::kUsage);
      return std::string(e.what());
    }
    return std::string("taken");
  };
  EXPECT_EQ(choose("auto", false), "cpu");
  EXPECT_EQ(choose("cpu", true), "cpu");
  EXPECT_EQ(asked, 0) << "nobody needed to know";
  EXPECT_EQ(choose("auto", true), "nvdec");
  EXPECT_EQ(choose("nvdec", true), "nvdec");
  EXPECT_NE(refusal(false).find("computes on the CPU"), std::string::npos) << refusal(false);
  missing = "no video decoder on the GPU: libnvcuvid.so.1 is not there";
  EXPECT_EQ(choose("auto", true), "cpu");
  EXPECT_NE(refusal(true).find("loader.decode = nvdec: " + missing), std::string::npos)
      << refusal(true);
  missing.clear();
  const std::vector<std::pair<std::string, std::function<void(data::AugmentOptions&)>>> changes = {
      {"augment.color_jitter", [](auto& a) { a.color_jitter.hue = 0.1; }},
      {"augment.rand_augment", [](auto& a) { a.rand_augment.num_ops = 2; }},
      {"augment.random_erasing", [](auto& a) { a.random_erasing.probability = 0.25; }}};
  for (const auto& [key, change] : changes) {
    recipe.augment = {};
    change(recipe.augment);
    EXPECT_EQ(choose("auto", true), "cpu") << key;
    EXPECT_NE(refusal(true).find(key), std::string::npos) << refusal(true);
  }
  recipe.augment = {};
  recipe.augment.multi_scale_crop = {1, 0.75};
  recipe.augment.flip = 0.5;
  recipe.augment.repeats = 4;
  EXPECT_EQ(choose("auto", true), "nvdec") << "crop and flip are made with the pixels";
}

}  // namespace
}  // namespace keiko::train
