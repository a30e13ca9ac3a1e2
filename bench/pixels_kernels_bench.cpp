// Each kernel of every instruction set beside the plain one: compared on random input, then timed.

#include <algorithm>
#include <cstdio>
#include <random>

#include "base/machine.h"
#include "media/pixels_kernels.h"
#include "pixels_rivals.h"

namespace keiko::bench {
namespace {

using media::kBand;
using media::PixelKernels;

constexpr int kColumns = 480, kOutputs = 224, kTaps = 5;

struct Input {
  std::vector<uint8_t> bytes;
  std::vector<uint16_t> words;
  std::vector<int16_t> samples, u, v, weights;
  std::vector<int> first;
  media::FixedColour colour{19077, 185, -3000, 276, -3209, -6660};
};

Input random_input() {
  std::mt19937 random(1);
  Input in;
  in.bytes.resize(kColumns * kBand);
  in.words.resize(kColumns * kBand);
  in.samples.resize(kColumns * kBand);
  in.u.resize(kColumns * kBand);
  in.v.resize(kColumns * kBand);
  for (auto& x : in.bytes) x = uint8_t(random());
  for (auto& x : in.words) x = uint16_t(random() % 1024);
  for (auto* plane : {&in.samples, &in.u, &in.v})
    for (auto& x : *plane) x = int16_t(int(random() % 40000) - 20000);
  for (int i = 0; i < kOutputs; ++i) {
    in.first.push_back(i * (kColumns - kTaps) / kOutputs);
    for (int k = 0; k < kTaps; ++k) in.weights.push_back(int16_t(random() % 8000));
  }
  return in;
}

// What a kernel makes of the input, as bytes, and one call of it.
struct Case {
  const char* name;
  void (*run)(const PixelKernels& k, const Input& in, std::vector<uint8_t>& out);
};

int16_t* words(std::vector<uint8_t>& out) { return reinterpret_cast<int16_t*>(out.data()); }

const Case kCases[] = {
    {"widen_bytes",
     [](const PixelKernels& k, const Input& in, std::vector<uint8_t>& out) {
       k.widen_bytes(in.bytes.data(), words(out), kColumns);
     }},
    {"widen_words",
     [](const PixelKernels& k, const Input& in, std::vector<uint8_t>& out) {
       k.widen_words(in.words.data(), 5, 0, words(out), kColumns);
     }},
    {"blend_rows",
     [](const PixelKernels& k, const Input& in, std::vector<uint8_t>& out) {
       const int16_t* rows[kTaps];
       for (int i = 0; i < kTaps; ++i) rows[i] = in.samples.data() + i * kColumns;
       k.blend_rows(rows, in.weights.data(), kTaps, 0, words(out), kColumns);
     }},
    {"turn_band",
     [](const PixelKernels& k, const Input& in, std::vector<uint8_t>& out) {
       k.turn_band(in.samples.data(), kColumns, kColumns, words(out));
     }},
    {"blend_columns",
     [](const PixelKernels& k, const Input& in, std::vector<uint8_t>& out) {
       k.blend_columns(in.samples.data(), in.first.data(), in.weights.data(), kTaps, 0, kOutputs,
                       kBand, words(out));
     }},
    {"colour",
     [](const PixelKernels& k, const Input& in, std::vector<uint8_t>& out) {
       uint8_t* to = out.data();
       k.colour(in.samples.data(), in.u.data(), in.v.data(), in.colour, kOutputs, to,
                to + kOutputs * kBand, to + 2 * kOutputs * kBand);
     }},
    {"gray",
     [](const PixelKernels& k, const Input& in, std::vector<uint8_t>& out) {
       k.gray(in.samples.data(), in.colour, kOutputs, out.data());
     }},
    {"place",
     [](const PixelKernels& k, const Input& in, std::vector<uint8_t>& out) {
       k.place(in.bytes.data(), kOutputs, kBand, out.data(), 1, kOutputs);
     }},
    {"place mirrored",
     [](const PixelKernels& k, const Input& in, std::vector<uint8_t>& out) {
       k.place(in.bytes.data(), kOutputs, kBand, out.data() + kOutputs - 1, -1, kOutputs);
     }},
    {"place sideways",
     [](const PixelKernels& k, const Input& in, std::vector<uint8_t>& out) {
       k.place(in.bytes.data(), kOutputs, kBand, out.data() + kOutputs - 1, kOutputs, -1);
     }},
};

double time_us(const Case& c, const PixelKernels& k, const Input& in, std::vector<uint8_t>& out,
               int rounds) {
  constexpr int kCalls = 100;
  double best = 1e9;
  for (int round = 0; round < rounds; ++round) {
    const double start = monotonic_s();
    for (int i = 0; i < kCalls; ++i) c.run(k, in, out);
    best = std::min(best, (monotonic_s() - start) / kCalls);
  }
  return best * 1e6;
}

}  // namespace

int bench_kernels(int rounds) {
  using media::InstructionSet;
  const Input in = random_input();
  int different = 0;
  std::printf(
      "| kernel, one band of %d rows or one row | plain | SSE2 | AVX2 | AVX-512 | equal |\n",
      kBand);
  std::printf("|---|---|---|---|---|---|\n");
  for (const Case& c : kCases) {
    const size_t size = size_t(kOutputs) * kOutputs * 2;  // more than any of them writes
    std::vector<uint8_t> truth(size), out(size);
    c.run(media::kPlainKernels, in, truth);
    std::printf("| %s | %.2f us |", c.name, time_us(c, media::kPlainKernels, in, out, rounds));
    bool equal = true;
    for (auto [set, kernels] : {std::pair(InstructionSet::kSse2, media::kSse2Kernels),
                                std::pair(InstructionSet::kAvx2, media::kAvx2Kernels),
                                std::pair(InstructionSet::kAvx512, media::kAvx512Kernels)}) {
      if (!media::has_instruction_set(set)) {
        std::printf(" - |");
        continue;
      }
      std::fill(out.begin(), out.end(), uint8_t(0));
      c.run(*kernels, in, out);
      equal = equal && out == truth;
      std::printf(" %.2f us |", time_us(c, *kernels, in, out, rounds));
    }
    std::printf(" %s |\n", equal ? "yes" : "NO");
    different += !equal;
  }
  return different;
}

}  // namespace keiko::bench
