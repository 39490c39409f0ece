// Fills the next batch in a background thread while the caller trains on the current one. Two Batch buffers
// alternate, so nothing is allocated after both have been filled. The batches are the same as without a
// prefetcher.
#pragma once

#include <array>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>

#include "data/dynamic_batcher.h"

namespace conclave {

/// The public functions must be called from one thread.
class Prefetcher {
 public:
  /// The first next() returns the batch at `start`. The batcher's split must outlive this object.
  explicit Prefetcher(DynamicBatcher batcher, DataPosition start = {});
  ~Prefetcher();
  Prefetcher(const Prefetcher&) = delete;
  Prefetcher& operator=(const Prefetcher&) = delete;

  /// Returns the batch at position() and advances position() to that batch's `next`. The reference is valid
  /// until the following call of next(). Rethrows an exception of the batcher, on every call until seek().
  const Batch& next();

  /// Moves to `position`. An invalid position is reported by the next call of next(). The current batch stays
  /// valid.
  void seek(DataPosition position);

  /// Position of the batch that next() will return: a checkpoint stores this.
  DataPosition position() const { return position_; }

 private:
  enum class State { empty, filling, full, failed };  // of the buffer that next() will return
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
  std::thread thread_;  // declared last: it starts after all other members are initialized
};

}  // namespace conclave
