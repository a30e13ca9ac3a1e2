#include "cuda/device_slot.h"

#include <algorithm>
#include <exception>

#include "base/log.h"

namespace keiko::cuda {

DeviceSlot::~DeviceSlot() {
  try {
    // More than take_back() marked: who stops early has given its reader work that nobody marked.
    reader_->mark()->wait();
    for (const auto& [writer, mark] : written_) mark->wait();
  } catch (const std::exception& e) {
    spdlog::warn("giving back a batch's memory on GPU {}: {}", device_, e.what());
  }
}

uint8_t* DeviceSlot::reserve(size_t size) {
  const std::lock_guard lock(mutex_);
  if (size > size_ && read_) read_->wait();  // the memory before goes
  size_ = std::max(size_, size);
  return memory_->reserve(size_);
}

void DeviceSlot::expect() { expected_ = reader_->mark(true); }

void DeviceSlot::hand_out() {
  const std::lock_guard lock(mutex_);
  for (const auto& [writer, mark] : written_) reader_->wait_for(*mark);
  written_.clear();
  there_ = reader_->mark(true);
}

void DeviceSlot::take_back() {
  const std::lock_guard lock(mutex_);
  read_ = reader_->mark();
}

double DeviceSlot::waited_s() const {
  return expected_ && there_ ? there_->seconds_since(*expected_) : 0;
}

void DeviceSlot::begin_writing(WorkQueue& writer) {
  const std::lock_guard lock(mutex_);
  if (read_) writer.wait_for(*read_);
}

void DeviceSlot::end_writing(WorkQueue& writer) {
  const std::lock_guard lock(mutex_);
  auto mark = writer.mark();
  const auto known = std::find_if(written_.begin(), written_.end(),
                                  [&](const auto& entry) { return entry.first == &writer; });
  if (known == written_.end())
    written_.emplace_back(&writer, std::move(mark));
  else
    known->second = std::move(mark);
}

}  // namespace keiko::cuda
