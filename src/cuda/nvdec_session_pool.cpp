#include "cuda/nvdec_session_pool.h"

#include <exception>
#include <utility>

#include "base/log.h"

namespace keiko::cuda {

LentSurfaces::~LentSurfaces() {
  try {
    for (const Lent& lent : lent_) lent.read->wait();
  } catch (const std::exception& e) {
    spdlog::warn("letting go of the surfaces of an NVDEC session: {}", e.what());
  }
}

void LentSurfaces::keep(media::FramePointer surface, std::unique_ptr<WorkMark> read, size_t most) {
  lent_.push_back({std::move(surface), std::move(read)});
  while (lent_.size() > most) {
    lent_.front().read->wait();
    lent_.pop_front();
  }
}

NvdecSessionPool::Lease::Lease(Lease&& other) noexcept
    : pool_(std::exchange(other.pool_, nullptr)),
      key_(std::move(other.key_)),
      session_(std::move(other.session_)),
      is_whole_(other.is_whole_) {}

NvdecSessionPool::Lease::~Lease() {
  if (pool_ != nullptr) pool_->give_back(key_, std::move(session_), is_whole_);
}

NvdecSessionPool::Lease NvdecSessionPool::take(const NvdecSessionKey& key,
                                               const media::StreamParameters& stream) {
  const int64_t bytes = estimated_bytes(key);
  std::list<Idle> evicted;  // closed after the lock is gone: closing waits for the GPU
  {
    const std::lock_guard lock(mutex_);
    ++counts_.busy;
    for (auto it = idle_.begin(); it != idle_.end(); ++it) {
      if (it->key != key) continue;
      std::unique_ptr<NvdecSession> session = std::move(it->session);
      idle_.erase(it);
      idle_bytes_ -= bytes;
      ++counts_.reused;
      return Lease(this, key, std::move(session));
    }
    counts_.bytes += bytes;
    evicted = evict_while([&] {
      return idle_.size() + counts_.busy > bounds_.sessions || counts_.bytes > bounds_.bytes;
    });
  }
  evicted.clear();
  try {
    std::unique_ptr<NvdecSession> session = open_(key, stream);
    const std::lock_guard lock(mutex_);
    ++counts_.opened;
    return Lease(this, key, std::move(session));
  } catch (...) {
    const std::lock_guard lock(mutex_);
    --counts_.busy;
    counts_.bytes -= bytes;
    throw;
  }
}

void NvdecSessionPool::give_back(const NvdecSessionKey& key, std::unique_ptr<NvdecSession> session,
                                 bool is_whole) {
  std::list<Idle> evicted;
  const std::lock_guard lock(mutex_);
  --counts_.busy;
  if (is_whole) {
    idle_.push_front({key, std::move(session)});
    idle_bytes_ += estimated_bytes(key);
    // Only what is idle counts here: with more threads than sessions are allowed, each would
    // otherwise close what the next one opens again.
    evicted =
        evict_while([&] { return idle_.size() > bounds_.sessions || idle_bytes_ > bounds_.bytes; });
  } else {
    ++counts_.failed;
    counts_.bytes -= estimated_bytes(key);
  }
}

template <class IsOver>
std::list<NvdecSessionPool::Idle> NvdecSessionPool::evict_while(IsOver is_over) {
  std::list<Idle> evicted;
  while (!idle_.empty() && is_over()) {
    evicted.splice(evicted.begin(), idle_, std::prev(idle_.end()));
    const int64_t bytes = estimated_bytes(evicted.front().key);
    counts_.bytes -= bytes;
    idle_bytes_ -= bytes;
    ++counts_.evicted;
  }
  return evicted;
}

NvdecSessionPool::Counts NvdecSessionPool::counts() const {
  const std::lock_guard lock(mutex_);
  Counts counts = counts_;
  counts.idle = idle_.size();
  return counts;
}

}  // namespace keiko::cuda
