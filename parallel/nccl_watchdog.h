// Ends the job when NCCL cannot go on. A rank that is lost, or a link, leaves the others' devices waiting,
// and their hosts with them: one thread of the process looks, once a second, at all of NCCL's communicators.
#pragma once

#include <nccl.h>

#include <array>
#include <atomic>
#include <mutex>
#include <string>

#include "core/clock.h"
#include "core/cuda/stream.h"
#include "parallel/nccl_communicator.h"

namespace conclave {

/// A communicator under the watchdog's eyes, from construction to destruction. Its own thread tells what it
/// does; the watchdog's asks NCCL, and the device by events, which runs nothing there and waits for nothing.
class NcclWatch {
 public:
  enum class Lane { current_stream, own_stream };

  NcclWatch(std::string rank, const NcclOptions& options);
  ~NcclWatch();
  NcclWatch(const NcclWatch&) = delete;
  NcclWatch& operator=(const NcclWatch&) = delete;

  /// Whose errors to ask for; null: no one's.
  void set_handle(ncclComm_t handle);
  /// Records `event` behind `operation`, the last one of its lane.
  void record(Lane lane, const char* operation, const cuda::Event& event, cudaStream_t stream);
  /// Whether NCCL's communicator was aborted, and is not to be used or destroyed any more.
  bool aborted() const { return aborted_; }

  /// While one of these lives the host is in a call of NCCL's, which may hang as well. Throws Error where the
  /// communicator was aborted.
  class Call {
   public:
    Call(NcclWatch& watch, const char* operation);
    ~Call();
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;

   private:
    NcclWatch& watch_;
  };

 private:
  friend class NcclWatchdog;
  /// An operation under way, if any.
  struct Place {
    const char* operation = nullptr;
    cudaEvent_t event = nullptr;  // null: the host itself is in there
    Clock::time_point since;
  };

  /// What went wrong, "" for nothing.
  std::string look();
  /// Whoever has it aborts it: this communicator is not used any more.
  ncclComm_t take_handle();

  const std::string rank_;
  const NcclOptions& options_;
  int device_ = 0;
  std::atomic<bool> aborted_ = false;
  std::mutex mutex_;  // of what follows
  ncclComm_t handle_ = nullptr;
  Place call_;
  std::array<Place, 2> lanes_;
};

}  // namespace conclave
