#include "data/synth.h"
#include <spdlog/spdlog.h>
#include "base/machine.h"
#include "cli/command.h"
#include "data/index.h"
#include "report/progress.h"

namespace keiko::cli {

void add_synth(CLI::App& app, Action& action) {
  auto* c = app.add_subcommand(
      "synth", "Write the embedded data set: clips whose class is the direction of motion");
  auto o = std::make_shared<data::SynthOptions>();
  o->threads = usable_cores();
  c->add_option("--out", o->out,
                "Folder to write; gets train/CLASS/*.mp4, test/CLASS/*.mp4 and a catalogue of each")
      ->required();
  c->add_option(
       "--task", o->task,
       "drift: a texture pans over the frame; sprites, harder: a patch moves over a still ground")
      ->check(CLI::IsMember({"drift", "sprites"}))
      ->capture_default_str();
  c->add_option("--sprites", o->sprites,
                "Of the task sprites: patches that all move in the direction of the class")
      ->check(CLI::Range(1, 16))
      ->capture_default_str();
  c->add_option("--distractors", o->distractors,
                "Of the task sprites: round dark patches beneath them, each in a random direction")
      ->check(CLI::Range(0, 16))
      ->capture_default_str();
  c->add_option("--train", o->train, "Training clips")->capture_default_str();
  c->add_option("--test", o->test, "Test clips, none of which is a training clip")
      ->capture_default_str();
  c->add_option("--size", o->size, "Pixels, square")->capture_default_str();
  c->add_option("--frames", o->frames, "Frames of each clip")->capture_default_str();
  c->add_option("--seed", o->seed, "The same seed gives the same clips")->capture_default_str();
  c->add_option("--crf", o->crf, "x264 quality, 0 to 51")
      ->check(CLI::Range(0, 51))
      ->capture_default_str();
  c->add_option("--threads", o->threads, "Clips encoded side by side")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  c->callback([o, &action] {
    action = [o] {
      Env* env = default_env();
      const double start = monotonic_s();
      report::Progress progress("synth");
      data::write_synth(env, *o,
                        [&](int64_t done, int64_t total) { progress.update(done, total); });
      progress.finish("");
      for (const auto& [split, count] : {std::pair("train", o->train), std::pair("test", o->test)})
        if (count > 0)
          data::build_catalogue(
              env, {{o->out + "/" + split}, o->out + "/" + split + ".kix", o->threads, false}, {});
      spdlog::info(
          "{}: {} training and {} test clips of 8 classes ({}), and their catalogues, in {:.1f} s",
          o->out, report::count_text(o->train), report::count_text(o->test), o->task,
          monotonic_s() - start);
      return 0;
    };
  });
}

}  // namespace keiko::cli
