// Ends the job when NCCL cannot continue. After the loss of a rank or a link, the other ranks' devices wait
// forever, and their hosts with them. One thread of the process checks all NCCL communicators once a second.
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

/// Registers a communicator with the watchdog from construction to destruction. The communicator's thread
/// records its operations here; the watchdog's thread asks NCCL for errors, and the device for events,
/// without running or waiting for anything on the device.
class NcclWatch {
 public:
  enum class Lane { current_stream, own_stream };

  NcclWatch(std::string rank, const NcclOptions& options);
  ~NcclWatch();
  NcclWatch(const NcclWatch&) = delete;
  NcclWatch& operator=(const NcclWatch&) = delete;

  /// The NCCL communicator whose errors to ask for; null: none.
  void set_handle(ncclComm_t handle);
  /// Records `event` after `operation`, which becomes the last operation of its lane.
  void record(Lane lane, const char* operation, const cuda::Event& event, cudaStream_t stream);
  /// Whether the NCCL communicator was aborted; it must then not be used or destroyed.
  bool aborted() const { return aborted_; }

  /// Marks that the host is in a call of NCCL's, which may hang as well. The constructor throws Error if the
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
    cudaEvent_t event = nullptr;  // null: the host itself is in the call
    Clock::time_point since;
  };

  /// Returns what went wrong, or "".
  std::string look();
  /// Takes the handle in order to abort it, and marks this communicator as aborted.
  ncclComm_t take_handle();

  const std::string rank_;
  const NcclOptions& options_;
  int device_ = 0;
  std::atomic<bool> aborted_ = false;
  std::mutex mutex_;  // guards the members below
  ncclComm_t handle_ = nullptr;
  Place call_;
  std::array<Place, 2> lanes_;
};

}  // namespace conclave
