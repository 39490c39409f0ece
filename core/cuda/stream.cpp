#include "core/cuda/stream.h"

#include "core/cuda/launch.h"

namespace conclave::cuda {

// Destructors ignore errors: at the end of the process the device, and its objects with it, may be gone.

Stream::Stream() { check(cudaStreamCreateWithFlags(&handle_, cudaStreamNonBlocking), "creating a stream"); }
Stream::~Stream() { cudaStreamDestroy(handle_); }

void Stream::synchronize() const { check(cudaStreamSynchronize(handle_), "waiting for a stream"); }

void Stream::wait_for(const Event& event) const {
  check(cudaStreamWaitEvent(handle_, event.handle(), 0), "making a stream wait");
}

Event::Event(Timing timing) {
  check(cudaEventCreateWithFlags(&handle_, timing == Timing::on ? cudaEventDefault : cudaEventDisableTiming),
        "creating an event");
}
Event::~Event() { cudaEventDestroy(handle_); }

void Event::record(cudaStream_t stream) const {
  check(cudaEventRecord(handle_, stream), "recording an event");
}

bool Event::passed() const {
  const cudaError_t code = cudaEventQuery(handle_);
  if (code == cudaErrorNotReady) return false;
  check(code, "asking for an event");
  return true;
}

void Event::synchronize() const { check(cudaEventSynchronize(handle_), "waiting for an event"); }

double Event::seconds_since(const Event& earlier) const {
  float milliseconds = 0;
  check(cudaEventElapsedTime(&milliseconds, earlier.handle_, handle_), "asking for a time");
  return static_cast<double>(milliseconds) / 1000;
}

StreamScope::StreamScope(const Stream& stream) : before_(current_stream()) {
  set_current_stream(stream.handle());
}
StreamScope::~StreamScope() { set_current_stream(before_); }

}  // namespace conclave::cuda
