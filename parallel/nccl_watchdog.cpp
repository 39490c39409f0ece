#include "parallel/nccl_watchdog.h"

#include <algorithm>
#include <condition_variable>
#include <future>
#include <thread>
#include <vector>

#include "core/print_line.h"
#include "parallel/mpi_communicator.h"

namespace conclave {

/// The watchdog thread. It lives while there is a communicator to watch, or until it has found a failure.
class NcclWatchdog {
 public:
  static NcclWatchdog& of_process() {
    static auto& watchdog = *new NcclWatchdog;  // never destroyed: communicators may outlive statics
    return watchdog;
  }

  void add(NcclWatch& watch) {
    const std::lock_guard starting(thread_mutex_);
    const std::lock_guard lock(mutex_);
    watched_.push_back(&watch);
    if (!thread_.joinable()) {
      stop_ = false;
      thread_ = std::thread([this, device = watch.device_] { run(device); });
    }
  }

  /// Returns once the thread no longer looks at `watch`.
  void remove(NcclWatch& watch) {
    const std::lock_guard stopping(thread_mutex_);
    {
      const std::lock_guard lock(mutex_);
      std::erase(watched_, &watch);
      if (!watched_.empty()) return;
      stop_ = true;
    }
    changed_.notify_one();
    thread_.join();
  }

 private:
  static constexpr std::chrono::seconds kEvery{1};
  // ncclCommAbort waits for NCCL's own threads, which may hang on what is broken.
  static constexpr std::chrono::seconds kMostForAborting{5};

  void run(int device) {
    cudaSetDevice(device);  // else querying an event would create a context on another device
    std::unique_lock lock(mutex_);
    while (!changed_.wait_for(lock, kEvery, [&] { return stop_; }))
      for (NcclWatch* const watch : watched_) {
        const std::string what = watch->look();
        if (what.empty()) continue;
        const auto on_failure = watch->options_.on_failure;
        if (!on_failure) {  // do not abort NCCL: the host would continue with half a result
          complain(what);
          MpiSession::abort(1);
        }
        abort_all();
        lock.unlock();
        return on_failure(what);
      }
  }

  void abort_all() {
    std::vector<ncclComm_t> handles;
    for (NcclWatch* const watch : watched_)
      if (const ncclComm_t handle = watch->take_handle()) handles.push_back(handle);
    std::packaged_task<void()> abort([handles] { std::ranges::for_each(handles, ncclCommAbort); });
    const auto done = abort.get_future();
    std::thread(std::move(abort)).detach();
    done.wait_for(kMostForAborting);
  }

  std::mutex thread_mutex_;  // guards starting and ending the thread
  std::thread thread_;
  std::mutex mutex_;  // guards the members below
  std::vector<NcclWatch*> watched_;
  std::condition_variable changed_;
  bool stop_ = false;
};

NcclWatch::NcclWatch(std::string rank, const NcclOptions& options)
    : rank_(std::move(rank)), options_(options) {
  cudaGetDevice(&device_);
  NcclWatchdog::of_process().add(*this);
}

NcclWatch::~NcclWatch() { NcclWatchdog::of_process().remove(*this); }

void NcclWatch::set_handle(ncclComm_t handle) {
  const std::lock_guard lock(mutex_);
  handle_ = handle;
}

ncclComm_t NcclWatch::take_handle() {
  const std::lock_guard lock(mutex_);
  aborted_ = true;
  return std::exchange(handle_, nullptr);
}

void NcclWatch::record(Lane lane, const char* operation, const cuda::Event& event, cudaStream_t stream) {
  {
    const std::lock_guard lock(mutex_);
    lanes_[static_cast<std::size_t>(lane)] = {operation, event.handle(), Clock::now()};
  }
  event.record(stream);  // may block if the stream's queue is full, so the operation is listed first
}

std::string NcclWatch::look() {
  const std::lock_guard lock(mutex_);
  if (aborted_) return "";
  std::string under_way;
  for (const Place& place : {call_, lanes_[0], lanes_[1]}) {
    if (!place.operation || (place.event && cudaEventQuery(place.event) != cudaErrorNotReady)) continue;
    const auto since = Clock::now() - place.since;
    if (options_.deadline.count() > 0 && since > options_.deadline)
      return fmt::format(
          "{}: {} has been under way for {} s; other ranks are lost, or do not take part; the "
          "job ends",
          rank_, place.operation, std::chrono::duration_cast<std::chrono::seconds>(since).count());
    under_way += (under_way.empty() ? "" : ", ") + std::string(place.operation);
  }
  if (!handle_) return "";
  ncclResult_t error = ncclSuccess;
  const ncclResult_t asked = ncclCommGetAsyncError(handle_, &error);
  if (asked != ncclSuccess) error = asked;
  if (error == ncclSuccess || error == ncclInProgress) return "";
  return fmt::format("{}: {}: NCCL says: {}: {}; the job ends", rank_,
                     under_way.empty() ? "between operations" : under_way + " under way",
                     ncclGetErrorString(error), ncclGetLastError(handle_));
}

NcclWatch::Call::Call(NcclWatch& watch, const char* operation) : watch_(watch) {
  const std::lock_guard lock(watch_.mutex_);
  require(!watch_.aborted_, "{}: NCCL's communicator was aborted before", operation);
  watch_.call_ = {operation, nullptr, Clock::now()};
}

NcclWatch::Call::~Call() {
  const std::lock_guard lock(watch_.mutex_);
  watch_.call_ = {};
}

}  // namespace conclave
