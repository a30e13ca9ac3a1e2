// Open NVDEC sessions, kept for the next clip that they fit.
//
// Opening a session costs as much as decoding a hundred frames, so a clip takes one that is open
// and idle when there is one with its key. The pool is bounded by number and by device memory; what
// was not used for longest is closed first.

#pragma once
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <string>

#include "cuda/nvdec_session_key.h"
#include "cuda/work_queue.h"
#include "media/frame_decoder.h"

namespace keiko::cuda {

// Surfaces that a decoder lent and that the device may still be reading. A decoder has only so many
// of them, and takes one back when it is let go, which must not be before the device is done.
class LentSurfaces {
 public:
  LentSurfaces() = default;
  // Waits for all that read them.
  ~LentSurfaces();
  LentSurfaces(const LentSurfaces&) = delete;
  LentSurfaces& operator=(const LentSurfaces&) = delete;

  // Keeps `surface` until `read` is reached, at the least. Lets the oldest go, and waits for its
  // readers, where there would be more than `most`. Throws Error(kIo) when the device failed.
  void keep(media::FramePointer surface, std::unique_ptr<WorkMark> read, size_t most);

 private:
  struct Lent {
    media::FramePointer surface;
    std::unique_ptr<WorkMark> read;
  };
  std::deque<Lent> lent_;  // oldest first
};

// An open decoder on the GPU. Used by one thread at a time.
class NvdecSession {
 public:
  virtual ~NvdecSession() = default;
  // The decoder, ready for a clip of the stream, whose key is the session's. Valid as long as the
  // session. Throws Error(kData) when the decoder does not take the stream.
  virtual media::FrameDecoder& begin(const media::StreamParameters& stream) = 0;
  // How often the hardware was opened so far: more than once where libavcodec had to begin anew.
  virtual int64_t hardware_opens() const = 0;
  // Why the hardware did not take the stream, so that nothing came out; empty: it did.
  virtual std::string refusal() const = 0;
  // Of all clips that it decoded: they stay with the session from clip to clip.
  LentSurfaces& lent() { return lent_; }

 private:
  LentSurfaces lent_;
};

// Opens sessions; called from many threads at once. May throw Error(kData): the stream is not
// taken.
using OpenNvdecSession = std::function<std::unique_ptr<NvdecSession>(
    const NvdecSessionKey& key, const media::StreamParameters& stream)>;

// Thread-safe. Must outlive the leases that it gives.
class NvdecSessionPool {
 public:
  // What sessions may take together. Those in use count when another is opened, but a clip never
  // waits: where everything is in use, one more is opened. So there are never more sessions than
  // these or than threads at work, whichever is more.
  struct Bounds {
    size_t sessions = 32;
    int64_t bytes = int64_t{4} << 30;  // estimated device memory
  };
  struct Counts {
    int64_t opened = 0;         // sessions
    int64_t reused = 0;         // leases that found an open one
    int64_t evicted = 0;        // closed to make room
    int64_t failed = 0;         // dropped because they were not given back whole
    size_t idle = 0, busy = 0;  // sessions now
    int64_t bytes = 0;          // estimated device memory of both
  };

  NvdecSessionPool(OpenNvdecSession open, Bounds bounds)
      : open_(std::move(open)), bounds_(bounds) {}

  // A session for the time of a clip. Dropped instead of given back unless keep() was called: a
  // clip that ended with an error may have left anything inside.
  class Lease {
   public:
    Lease(Lease&& other) noexcept;
    Lease& operator=(Lease&&) = delete;
    ~Lease();
    NvdecSession& operator*() const { return *session_; }
    NvdecSession* operator->() const { return session_.get(); }
    // The clip ended well: the session may serve another one.
    void keep() { is_whole_ = true; }

   private:
    friend class NvdecSessionPool;
    Lease(NvdecSessionPool* pool, NvdecSessionKey key, std::unique_ptr<NvdecSession> session)
        : pool_(pool), key_(std::move(key)), session_(std::move(session)) {}
    NvdecSessionPool* pool_;
    NvdecSessionKey key_;
    std::unique_ptr<NvdecSession> session_;
    bool is_whole_ = false;
  };

  // An idle session with this key, the one used last (its pictures are still in caches), or a new
  // one. Opens outside of the lock. Throws what opening throws.
  Lease take(const NvdecSessionKey& key, const media::StreamParameters& stream);
  Counts counts() const;

 private:
  struct Idle {
    NvdecSessionKey key;
    std::unique_ptr<NvdecSession> session;
  };
  void give_back(const NvdecSessionKey& key, std::unique_ptr<NvdecSession> session, bool is_whole);
  // Takes the ones unused for longest out of the pool.
  template <class IsOver>
  std::list<Idle> evict_while(IsOver is_over);

  const OpenNvdecSession open_;
  const Bounds bounds_;
  mutable std::mutex mutex_;
  std::list<Idle> idle_;  // used last first
  int64_t idle_bytes_ = 0;
  Counts counts_;
};

}  // namespace keiko::cuda
