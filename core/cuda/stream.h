// CUDA's streams and events, as objects that end what they began. None of a stream's work blocks another's.
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
  /// Returns when all its work is done; throws Error where some of it failed.
  void synchronize() const;
  /// What is queued from now on runs after what `event` recorded, wherever that was.
  void wait_for(const Event& event) const;

 private:
  cudaStream_t handle_ = nullptr;
};

/// Whether an event notes when it was passed, which costs a little.
enum class Timing { off, on };

/// A place in a stream's work.
class Event {
 public:
  explicit Event(Timing timing = Timing::off);
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  cudaEvent_t handle() const { return handle_; }
  void record(cudaStream_t stream) const;
  /// Whether that place was passed, and waiting for it; both throw Error where the work before it failed.
  bool passed() const;
  void synchronize() const;
  /// The seconds from `earlier` to this; Error unless both were passed, and have Timing::on.
  double seconds_since(const Event& earlier) const;

 private:
  cudaEvent_t handle_ = nullptr;
};

/// This thread's work goes to `stream` until the end of the scope.
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
