// CUDA streams and events as owning objects. No stream waits for another one or for the default stream,
// except by wait_for().
#pragma once

#include <cuda_runtime.h>

namespace conclave::cuda {

class Event;

class Stream {
 public:
  Stream();
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  cudaStream_t handle() const { return handle_; }
  /// Returns when all work queued on it is done; throws Error if some of it failed.
  void synchronize() const;
  /// Work queued on this stream from now on runs after the work that `event` recorded, on any stream.
  void wait_for(const Event& event) const;

 private:
  cudaStream_t handle_ = nullptr;
};

/// Whether an event records its time, which costs a little.
enum class Timing { off, on };

/// A position in the work of a stream.
class Event {
 public:
  explicit Event(Timing timing = Timing::off);
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  cudaEvent_t handle() const { return handle_; }
  void record(cudaStream_t stream) const;
  /// passed() returns whether the recorded position was reached, synchronize() waits for it. Both throw Error
  /// if work before it failed.
  bool passed() const;
  void synchronize() const;
  /// Seconds from `earlier` to this event; throws Error unless both were passed and have Timing::on.
  double seconds_since(const Event& earlier) const;

 private:
  cudaEvent_t handle_ = nullptr;
};

/// Makes `stream` this thread's current stream until the end of the scope.
class StreamScope {
 public:
  explicit StreamScope(const Stream& stream);
  ~StreamScope();
  StreamScope(const StreamScope&) = delete;
  StreamScope& operator=(const StreamScope&) = delete;

 private:
  cudaStream_t before_;
};

}  // namespace conclave::cuda
