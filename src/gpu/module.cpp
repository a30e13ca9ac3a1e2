// The module: everything that needs torch's CUDA part.

#include "gpu/module.h"

#include <ATen/Context.h>
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAStream.h>

#include "base/error.h"
#include "gpu/accelerator.h"
#include "gpu/graph_recorder.h"
#include "gpu/nccl_communicator.h"

namespace keiko::gpu {
namespace {

// What torch throws, in one line.
template <class Call>
auto named(const char* what, int index, Call call) {
  try {
    return call();
  } catch (const c10::Error& e) {
    fail(ErrorKind::kIo, "{} on GPU {}: {}", what, index, e.what_without_backtrace());
  }
}

class TorchAccelerator : public Accelerator {
 public:
  explicit TorchAccelerator(int index) : index_(c10::DeviceIndex(index)) {
    named("starting torch", index, [&] {
      at::globalContext().lazyInitDevice(at::kCUDA);
      c10::cuda::set_device(index_);
    });
  }
  at::Device device() const override { return {at::kCUDA, index_}; }
  std::string name() const override { return at::cuda::getDeviceProperties(index_)->name; }
  cuda::StreamHandle stream() const override {
    return c10::cuda::getCurrentCUDAStream(index_).stream();
  }
  void synchronize() override {
    named("waiting for the work", index_,
          [&] { c10::cuda::getCurrentCUDAStream(index_).synchronize(); });
  }
  Memory memory() const override {
    using c10::CachingAllocator::StatType;
    const auto stats = c10::cuda::CUDACachingAllocator::getDeviceStats(index_);
    const auto all = size_t(StatType::AGGREGATE);
    const cuda::DeviceMemory whole = cuda::device_memory(index_);
    return {stats.allocated_bytes[all].current, stats.reserved_bytes[all].current,
            stats.allocated_bytes[all].peak, whole.free, whole.total};
  }
  void reset_peak_memory() override { c10::cuda::CUDACachingAllocator::resetPeakStats(index_); }
  void release_unused_memory() override {
    named("giving memory back", index_, [] { c10::cuda::CUDACachingAllocator::emptyCache(); });
  }
  std::unique_ptr<dist::Communicator> make_communicator(dist::Communicator& host,
                                                        double timeout_s) override {
    return make_nccl_communicator(host, device(), timeout_s);
  }
  std::unique_ptr<Recorder> make_recorder() override { return make_graph_recorder(index_); }

 private:
  c10::DeviceIndex index_;
};

}  // namespace
}  // namespace keiko::gpu

extern "C" __attribute__((visibility("default"))) keiko::gpu::Accelerator* keiko_make_accelerator(
    int index) {
  return new keiko::gpu::TorchAccelerator(index);
}
