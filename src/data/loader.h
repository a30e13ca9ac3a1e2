// Turns steps into batches of pixels, ahead of time and in order.
//
// Decode threads take groups of clips that show the same frames (mostly groups of one), whichever
// batch they belong to, decode them once, write pixels straight into that batch's slot, and augment
// them there. What comes out depends on the step alone: never on threads or timing. Slots lie in
// host memory, or in a GPU's (media/batch_buffer.h), where decoders of that GPU write them.

#pragma once
#include <atomic>
#include <condition_variable>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <unordered_set>
#include <vector>

#include "config/binder.h"
#include "data/augment.h"
#include "data/dataset.h"
#include "media/batch_buffer.h"
#include "media/clip_decoder.h"

namespace keiko::data {

struct LoaderOptions {
  int64_t threads = 0;            // decode threads a rank; 0: what the cores allow
  int64_t prefetch = 2;           // batches decoded ahead
  int64_t shuffle_block = 1;      // neighbouring items that stay together; 1: uniform
  int64_t max_bad_samples = 100;  // over the run, all ranks together
  // Where videos are decoded when a GPU computes: on it ("nvdec"), on the "cpu", or on it where
  // that goes ("auto").
  std::string decode = "auto";

  void bind(config::Binder& b);
};

// One batch as memory: uint8 [clips, 3, num_frames, size, size].
struct Batch {
  int64_t step = 0;
  int64_t first = 0;  // of the slice that it holds
  std::vector<ClipPlan> clips;
  // Of the slot's buffer, as long as the batch is valid. The host may look at it unless
  // memory->device() says that it lies on a GPU: there it is for work in the order of the buffer's
  // reader alone.
  std::span<uint8_t> video;
  media::BatchBuffer* memory = nullptr;  // the slot's
  // Samples that were bad and have been replaced, with the reason of each: one for a group.
  struct Bad {
    int64_t position;  // the first of the group in this batch
    uint32_t attempt;
    std::string path, reason;
  };
  std::vector<Bad> bad;
  // True when no replacement of some sample was good: the run must stop.
  bool gave_up = false;
  media::ClipCost cost;      // of all its clips
  double augment_s = 0;      // of all its clips
  int64_t frames_shown = 0;  // frames handed to the model
};

// The clips [first, last) of the local slice at a step: positions of the training stream, or, in
// evaluation, sample index * views + view. A group that the slice cuts is decoded for what is in
// it.
struct Slice {
  int64_t first = 0, last = 0;
};

// A decoder for each decode thread; lets tests and other devices bring their own.
using MakeDecoder = std::function<std::unique_ptr<media::ClipDecoder>()>;

class Loader {
 public:
  // Starts decoding step `first_step` at once. `slice_of(step)` must be pure; an empty slice ends
  // the stream. `training` chooses between training and evaluation plans. `dataset` and `env` must
  // outlive the loader. `make_buffer` makes the memory of each of the prefetch + 1 slots; empty:
  // heap. Decoders must be able to write it; augmentation, which the host does, needs host memory.
  Loader(Env* env, const Dataset& dataset, std::function<Slice(int64_t step)> slice_of,
         int64_t first_step, bool training, int threads, int prefetch, MakeDecoder make_decoder,
         const media::MakeBuffer& make_buffer = nullptr);
  // Stops within one clip's time; a wait for another try of a read ends at once.
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  // The next step's batch; waits for it, and on a GPU only until all work that makes it was given.
  // It stays valid until the next call, and for what its reader was given until then. Always from
  // one thread. Throws what decoding threw: Error(kIo) naming a file that cannot be read or that
  // changed since it was indexed.
  Batch& next();

 private:
  struct Slot {
    Batch batch;
    std::unique_ptr<media::BatchBuffer> buffer;  // of batch.video
    int64_t step = -1;
    std::vector<int64_t> groups;  // where each begins in the batch, and where the last one ends
    int64_t missing = 0;          // groups not decoded yet
    int64_t claimed = 0;          // groups handed to threads
    std::exception_ptr error;
  };
  void work();
  void prepare(Slot& slot, int64_t step);
  // Fills the batch's clips [first, last), one group.
  void load(Slot& slot, int64_t first, int64_t last, media::ClipDecoder& decoder,
            AugmentScratch& scratch);
  void plan(std::span<ClipPlan> clips, int64_t at, uint32_t attempt) const;
  // Throws Error(kIo) when the file is gone or another one than was indexed. Looks once at each
  // file, unless `again`.
  void check_unchanged(const Video& video, bool again);
  // Calls `work`, again when it throws Error(kIo): after 0.1, 0.4 and 1.6 seconds. Rethrows the
  // last error, and at once when the loader is being stopped.
  void try_reading(const std::function<void()>& work);

  Env* env_;
  const Dataset& dataset_;
  std::function<Slice(int64_t)> slice_of_;
  bool training_;
  MakeDecoder make_decoder_;
  std::mutex mutex_;
  std::condition_variable work_ready_, batch_ready_, stop_;
  std::vector<Slot> slots_;
  int64_t next_step_;      // handed out by the next call of next()
  int64_t prepared_step_;  // first step without a slot
  bool stopping_ = false;
  std::mutex checked_mutex_;
  std::unordered_set<uint64_t> checked_;  // xxh3 of the paths that were looked at
  std::vector<std::thread> threads_;
};

}  // namespace keiko::data
