// Fills the next batch in a thread of its own while the caller trains on the current one. Two Batch buffers
// take turns, so nothing is allocated once both are warm, and the batches are those that the batcher alone
// would give.
#pragma once

#include <array>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>

#include "data/dynamic_batcher.h"

namespace conclave {

/// For one calling thread.
class Prefetcher {
 public:
  /// The first next() gives the batch at `start`. The batcher's split must outlive this.
  explicit Prefetcher(DynamicBatcher batcher, DataPosition start = {});
  ~Prefetcher();
  Prefetcher(const Prefetcher&) = delete;
  Prefetcher& operator=(const Prefetcher&) = delete;

  /// The batch at position(), which moves on to the batch's `next`. Valid until the following call of next().
  /// Throws what the batcher threw there, again on every call until seek().
  const Batch& next();

  /// Goes on at `position`, which next() finds wrong where it does not exist. The current batch stays valid.
  void seek(DataPosition position);

  /// Where next() takes its batch from: what a checkpoint stores.
  DataPosition position() const { return position_; }

 private:
  enum class State { empty, filling, full, failed };  // of the buffer that next() will give
  void work();

  DynamicBatcher batcher_;
  std::array<Batch, 2> buffers_;
  std::size_t current_ = 0;  // the caller's buffer; the thread fills the other
  DataPosition position_;
  State state_ = State::empty;
  bool stop_ = false;
  std::exception_ptr error_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::thread thread_;  // last, so that it starts with the rest in place
};

}  // namespace conclave
