#include "data/loader.h"

#include <chrono>

#include "base/error.h"
#include "base/hash.h"
#include "base/machine.h"
#include "base/retry.h"

namespace keiko::data {
namespace {
constexpr uint32_t kMostAttempts =
    64;  // replacements of one sample before the data set is given up
}

void LoaderOptions::bind(config::Binder& b) {
  b.key("threads", threads, "decode threads a rank; 0 is what the cores allow")
      .range(0, 1024)
      .free();
  b.key("prefetch", prefetch, "batches decoded ahead").range(1, 1024).free();
  b.key("shuffle_block", shuffle_block, "neighbouring items that stay together; 1 is uniform")
      .at_least(1);
  b.key("max_bad_samples", max_bad_samples, "replaced samples after which the run stops")
      .at_least(0)
      .free();
  b.choice("decode", decode, {"auto", "cpu", "nvdec"},
           "where videos are decoded when a GPU computes; nvdec: on that GPU, auto: there where it "
           "can")
      .free();
}

Loader::Loader(Env* env, const Dataset& dataset, std::function<Slice(int64_t)> slice_of,
               int64_t first_step, bool training, int threads, int prefetch,
               MakeDecoder make_decoder, const media::MakeBuffer& make_buffer)
    : env_(env),
      dataset_(dataset),
      slice_of_(std::move(slice_of)),
      training_(training),
      make_decoder_(std::move(make_decoder)),
      slots_(size_t(prefetch) + 1),
      next_step_(first_step),
      prepared_step_(first_step) {
  for (Slot& slot : slots_) {
    slot.buffer = make_buffer ? make_buffer() : std::make_unique<media::HeapBuffer>();
    prepare(slot, prepared_step_++);
  }
  for (int t = 0; t < std::max(1, threads); ++t) threads_.emplace_back([this] { work(); });
}

Loader::~Loader() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  work_ready_.notify_all();
  stop_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void Loader::try_reading(const std::function<void()>& work) {
  try_patiently(work, [this](std::chrono::milliseconds time) {
    std::unique_lock lock(mutex_);
    return !stop_.wait_for(lock, time, [&] { return stopping_; });
  });
}

void Loader::prepare(Slot& slot, int64_t step) {
  const Slice slice = slice_of_(step);
  const int64_t n = std::max<int64_t>(0, slice.last - slice.first);
  const ClipOptions& clip = dataset_.clip();
  const int64_t group = training_ ? dataset_.group_size() : dataset_.views().spatial;
  slot.step = step;
  slot.groups.clear();
  for (int64_t i = 0; i < n; ++i)
    if (i == 0 || (slice.first + i) % group == 0) slot.groups.push_back(i);
  slot.missing = int64_t(slot.groups.size());
  slot.groups.push_back(n);
  slot.claimed = 0;
  slot.error = nullptr;
  slot.batch.step = step;
  slot.batch.clips.assign(size_t(n), ClipPlan());
  slot.batch.first = slice.first;
  const auto bytes = size_t(n * 3 * clip.num_frames * clip.size * clip.size);
  slot.batch.video = {slot.buffer->reserve(bytes), bytes};
  slot.batch.memory = slot.buffer.get();
  slot.batch.bad.clear();
  slot.batch.gave_up = false;
  slot.batch.cost = {};
  slot.batch.augment_s = 0;
  slot.batch.frames_shown = n * clip.num_frames;
}

Batch& Loader::next() {
  std::unique_lock lock(mutex_);
  // The batch handed out last is done with: its slot goes to the next step nobody has begun.
  const int64_t wanted = next_step_++;
  for (Slot& slot : slots_)
    if (slot.step < wanted) {
      slot.buffer->take_back();
      prepare(slot, prepared_step_++);
      work_ready_.notify_all();
    }
  for (Slot& slot : slots_) {
    if (slot.step != wanted) continue;
    slot.buffer->expect();
    batch_ready_.wait(lock, [&] { return slot.missing == 0 || slot.error; });
    if (slot.error) std::rethrow_exception(slot.error);
    slot.buffer->hand_out();
    return slot.batch;
  }
  fail(ErrorKind::kInternal, "the loader has no slot for step {}", wanted);
}

void Loader::work() {
  std::unique_ptr<media::ClipDecoder> decoder;
  AugmentScratch scratch;
  std::unique_lock lock(mutex_);
  while (true) {
    // The earliest step with a group that nobody decodes yet.
    Slot* chosen = nullptr;
    for (Slot& slot : slots_)
      if (slot.claimed + 1 < int64_t(slot.groups.size()) && !slot.error &&
          (chosen == nullptr || slot.step < chosen->step))
        chosen = &slot;
    if (stopping_) return;
    if (chosen == nullptr) {
      work_ready_.wait(lock);
      continue;
    }
    const size_t group = size_t(chosen->claimed++);
    const int64_t first = chosen->groups[group], last = chosen->groups[group + 1];
    lock.unlock();
    std::exception_ptr error;
    try {
      if (!decoder) decoder = make_decoder_();  // here, where its failure is the batch's
      load(*chosen, first, last, *decoder, scratch);
    } catch (...) {
      error = std::current_exception();
    }
    lock.lock();
    if (error && !chosen->error) chosen->error = error;
    if (--chosen->missing == 0 || error) batch_ready_.notify_all();
  }
}

void Loader::check_unchanged(const Video& video, bool again) {
  const std::string& path = video.file.path;
  const uint64_t key = xxh3(std::string_view(path));  // a million paths themselves are 100 MB
  {
    std::lock_guard lock(checked_mutex_);
    if (!again && checked_.contains(key)) return;
  }
  FileStatus status;
  try_reading([&] { status = env_->status(path); });
  if (!status.exists)
    fail(ErrorKind::kIo,
         "{}: the video is gone; it was there when it was indexed. Bring it back, or run keiko "
         "index "
         "again",
         path);
  bool has_changed = status.size != video.file.size;
  // Another mtime alone (a copy, a touch) is no reason to stop: then the content decides.
  if (!has_changed && status.mtime_ns != video.file.mtime_ns)
    try_reading([&] { has_changed = sampled_xxh3_of_file(path, env_) != video.file.content_hash; });
  if (has_changed)
    fail(
        ErrorKind::kIo,
        "{}: the video changed since it was indexed ({} bytes then, {} now); run keiko index again",
        path, video.file.size, status.size);
  std::lock_guard lock(checked_mutex_);
  checked_.insert(key);
}

void Loader::plan(std::span<ClipPlan> clips, int64_t at, uint32_t attempt) const {
  const int64_t views = dataset_.views().count();
  for (ClipPlan& clip : clips) {
    clip = training_ ? dataset_.training_clip(at, attempt)
                     : dataset_.evaluation_clip(at / views, at % views);
    ++at;
    if (clip.frames != clips[0].frames || clip.item != clips[0].item)
      fail(ErrorKind::kInternal, "clips {} and {} are a group, but show other frames",
           clips[0].position, clip.position);
  }
}

void Loader::load(Slot& slot, int64_t first, int64_t last, media::ClipDecoder& decoder,
                  AugmentScratch& scratch) {
  const std::span<ClipPlan> clips(slot.batch.clips.data() + first, size_t(last - first));
  const ClipOptions& options = dataset_.clip();
  const int64_t channel = options.num_frames * options.size * options.size;
  const auto pixels_of = [&](size_t clip) {
    return slot.batch.video.data() + (first + int64_t(clip)) * 3 * channel;
  };
  const bool is_on_device = slot.buffer->device() >= 0;
  std::vector<media::ClipView> more_views;
  for (uint32_t attempt = 0;; ++attempt) {
    std::shared_ptr<const Video> video;
    try_reading([&] {
      plan(clips, slot.batch.first + first, attempt);
      video = dataset_.video_of(clips[0]);
    });
    check_unchanged(*video, false);
    media::ClipRequest request;
    request.table = &video->table;
    request.path = &video->file.path;
    request.frames = clips[0].frames;
    request.crop = clips[0].crop;
    request.size = int(options.size);
    request.flip = clips[0].flip;
    request.filter =
        options.filter == "bicubic" ? media::Filter::kBicubic : media::Filter::kBilinear;
    if (options.loop_filter == "skip_unreferenced")
      request.loop_filter = media::LoopFilter::kSkipUnreferenced;
    // In evaluation every item counts, so a picture that the decoder patched up counts as it is.
    request.allow_concealed = !training_ || options.damaged == "keep";
    request.out = pixels_of(0);
    request.channel_stride = channel;
    request.slot = is_on_device ? slot.buffer.get() : nullptr;
    for (const ClipPlan& clip : clips)
      if (is_on_device && !clip.augment.is_empty())
        fail(ErrorKind::kInternal, "position {}: pixels in a GPU's memory were to be augmented",
             clip.position);
    more_views.clear();
    for (size_t i = 1; i < clips.size(); ++i)
      more_views.push_back({clips[i].crop, clips[i].flip, pixels_of(i)});
    request.more_views = more_views;
    std::string reason;
    const auto decode = [&](media::ClipDecoder& with) {
      media::ClipCost cost;
      try {
        try_reading([&] { cost = with.decode(request); });
      } catch (const Error& e) {
        // What a person must know first is that the file is gone or another one.
        if (e.kind() == ErrorKind::kIo) check_unchanged(*video, true);
        throw;
      }
      const double start = monotonic_s();
      for (size_t i = 0; i < clips.size(); ++i)
        if (!clips[i].augment.is_empty())
          apply_augment(clips[i].augment, pixels_of(i), options.num_frames, options.size, scratch);
      const double augment_s = monotonic_s() - start;
      std::lock_guard lock(mutex_);
      slot.batch.augment_s += augment_s;
      slot.batch.cost.opens += cost.opens;
      slot.batch.cost.file_opens += cost.file_opens;
      slot.batch.cost.complaints += cost.complaints;
      slot.batch.cost.reads += cost.reads;
      slot.batch.cost.bytes += cost.bytes;
      slot.batch.cost.packets_decoded += cost.packets_decoded;
      slot.batch.cost.packets_dropped += cost.packets_dropped;
      slot.batch.cost.decode_s += cost.decode_s;
      slot.batch.cost.convert_s += cost.convert_s;
    };
    try {
      decode(decoder);
      return;
    } catch (const Error& e) {
      // In evaluation every item counts, so a bad one is an error; so is anything but bad content.
      if (e.kind() != ErrorKind::kData || !training_) throw;
    }
    // Whether a sample is bad must depend on its content alone: ask a decoder with no history.
    try {
      decode(*make_decoder_());
      return;
    } catch (const Error& e) {
      if (e.kind() != ErrorKind::kData) throw;
      reason = e.what();
    }
    // A file that was cut off or overwritten meanwhile is no bad sample: other ranks, or a resumed
    // run, would have seen it whole.
    check_unchanged(*video, true);
    std::lock_guard lock(mutex_);
    slot.batch.bad.push_back({clips[0].position, attempt, video->file.path, reason});
    if (attempt + 1 == kMostAttempts) {
      // Not thrown here: all ranks must stop at the same step, with the list written.
      slot.batch.gave_up = true;
      return;
    }
  }
}

}  // namespace keiko::data
