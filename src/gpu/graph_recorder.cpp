#include "gpu/graph_recorder.h"

#include <ATen/core/CachingHostAllocator.h>
#include <ATen/cuda/CUDAEvent.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "base/error.h"

namespace keiko::gpu {
namespace {

class GraphRecording : public Recording {
 public:
  void replay() override { graph.replay(); }

  at::cuda::CUDAGraph graph;
};

class GraphRecorder : public Recorder {
 public:
  // No graph may be recorded on the default stream, which torch trains on.
  explicit GraphRecorder(c10::DeviceIndex index)
      : index_(index),
        stream_(c10::cuda::getStreamFromPool(/*isHighPriority=*/false, index)),
        pool_(at::cuda::graph_pool_handle()) {}

  void run(const std::function<void()>& work) override {
    const c10::cuda::CUDAStream outer = c10::cuda::getCurrentCUDAStream(index_);
    wait(stream_, outer);
    {
      const c10::cuda::CUDAStreamGuard guard(stream_);
      work();
    }
    wait(outer, stream_);
  }

  std::unique_ptr<Recording> record(const std::function<void()>& work) override {
    try {
      return capture(work);
    } catch (const c10::Error& e) {
      fail(ErrorKind::kIo, "recording a CUDA graph on GPU {}: {}", index_,
           e.what_without_backtrace());
    }
  }

 private:
  static void wait(const c10::cuda::CUDAStream& who, const c10::cuda::CUDAStream& whom) {
    at::cuda::CUDAEvent event;
    event.record(whom);
    event.block(who);
  }

  std::unique_ptr<Recording> capture(const std::function<void()>& work) {
    auto recording = std::make_unique<GraphRecording>();
    // A graph's memory is its own. What earlier runs of the same work left in the allocator's hands
    // would stand beside it unused.
    c10::cuda::device_synchronize();
    c10::cuda::CUDACachingAllocator::emptyCache();
    const c10::cuda::CUDAStreamGuard guard(stream_);
    // Only this thread is bound by what a capture forbids: meanwhile the loader's threads may pin
    // memory, and autograd's thread launches into the capture.
    recording->graph.capture_begin(pool_, cudaStreamCaptureModeThreadLocal);
    try {
      work();
    } catch (...) {
      try {  // or the stream stays in capture
        recording->graph.capture_end();
      } catch (const c10::Error&) {
        (void)cudaGetLastError();  // the capture's end says again what went wrong in it
        leave_pool();
      }
      throw;
    }
    recording->graph.capture_end();
    return recording;
  }

  // What CUDAGraph::capture_end does behind the capture's end, and does not when that fails (torch
  // 2.11, ATen/cuda/CUDAGraph.cpp): the allocators would go on as within a capture, and give
  // nothing back for as long as the process lives.
  void leave_pool() {
    const auto leave = [](auto&& allocator_leaves) {
      try {
        allocator_leaves();
      } catch (const c10::Error&) {  // it has left already
      }
    };
    leave([&] {
      c10::cuda::CUDACachingAllocator::endAllocateToPool(index_, pool_);
      c10::cuda::CUDACachingAllocator::releasePool(index_, pool_);
    });
    leave([&] {
      at::getHostAllocator(at::kCUDA)->end_allocate_to_pool(pool_);
      at::getHostAllocator(at::kCUDA)->release_pool(pool_);
    });
  }

  c10::DeviceIndex index_;
  c10::cuda::CUDAStream stream_;
  // Shared by all recordings: none runs while another does, and what they leave to their holders is
  // never given away.
  at::cuda::MempoolId_t pool_;
};

}  // namespace

std::unique_ptr<Recorder> make_graph_recorder(c10::DeviceIndex index) {
  return std::make_unique<GraphRecorder>(index);
}

}  // namespace keiko::gpu
