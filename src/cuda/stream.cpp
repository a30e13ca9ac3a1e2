#include "cuda/stream.h"

#include <cuda_runtime_api.h>

#include "cuda/error.h"

namespace keiko::cuda {

Stream::Stream(int device) : device_(device), is_owner_(true) {
  const DeviceScope scope(device);
  check(cudaStreamCreateWithFlags(&handle_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
}

Stream::~Stream() {
  if (is_owner_) cudaStreamDestroy(handle_);
}

void Stream::wait(const Event& event) const {
  const DeviceScope scope(device_);  // the default stream is the one of the thread's device
  check(cudaStreamWaitEvent(handle_, event.handle(), 0), "cudaStreamWaitEvent");
}

void Stream::synchronize() const {
  const DeviceScope scope(device_);  // as above
  check(cudaStreamSynchronize(handle_), "cudaStreamSynchronize");
}

Event::Event(int device, bool has_time) : device_(device) {
  const DeviceScope scope(device);
  // Who waits on the host sleeps: decode threads outnumber cores.
  const unsigned flags = cudaEventBlockingSync | (has_time ? 0u : cudaEventDisableTiming);
  check(cudaEventCreateWithFlags(&handle_, flags), "cudaEventCreateWithFlags");
}

Event::~Event() { cudaEventDestroy(handle_); }

void Event::record(const Stream& stream) {
  const DeviceScope scope(device_);
  check(cudaEventRecord(handle_, stream.handle()), "cudaEventRecord");
}

bool Event::is_reached() const {
  const cudaError_t status = cudaEventQuery(handle_);
  if (status == cudaErrorNotReady) {
    cudaGetLastError();  // "not ready" would be reported by the next launch's check
    return false;
  }
  check(status, "cudaEventQuery");
  return true;
}

void Event::synchronize() const { check(cudaEventSynchronize(handle_), "cudaEventSynchronize"); }

double Event::elapsed_ms(const Event& start) const {
  float ms = 0;
  check(cudaEventElapsedTime(&ms, start.handle(), handle_), "cudaEventElapsedTime");
  return double(ms);
}

}  // namespace keiko::cuda
