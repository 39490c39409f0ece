// Queries on their way to the engine, in the batches in which it gets them. One that finds it idle goes at
// once; while it is at work others gather, and the next batch is the one that has waited longest, with as
// many of the others, by age, as go together with it and fit. A batch is packed, so lengths may differ.
#pragma once

#include <array>
#include <condition_variable>
#include <mutex>
#include <vector>

#include "core/clock.h"
#include "recipes/service/engine.h"

namespace conclave::service {

struct BatchLimits {
  std::int64_t rows = 1024;    ///< of the model in a batch; a job that has more is one by itself
  std::int64_t jobs = 64;      ///< in a batch
  std::int64_t waiting = 256;  ///< jobs, beside those at work
  /// Seconds that a query should take at most: one that would take longer, by what it finds waiting and at
  /// work and by how long a row took lately, is not taken. 0: any that there is room for.
  double latency = 0;
};

class BatchQueue {
 public:
  explicit BatchQueue(const BatchLimits& limits);

  /// From any thread. False where as many wait as may, it would take too long, or it is closed; the job is
  /// then not taken.
  bool push(Job& job);
  /// Waits for jobs, and fills `batch` with the next. False once it is closed. For one thread.
  bool next(std::vector<Job*>& batch);
  /// How long that batch took.
  void took(double seconds);
  /// No more jobs; those that wait fail by a Refusal: there is nobody any more whom their answers would
  /// reach.
  void close();
  bool closed() const;

  std::size_t waiting() const;

 private:
  double seconds_of(TaskKind task, std::int64_t rows) const;
  double seconds_until(const Job& job) const;

  const BatchLimits limits_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Job*> waiting_;  // from old to new
  bool closed_ = false;
  // Of the last batch, at work until took(), and what a row took lately, by task.
  TaskKind task_ = TaskKind::classify;
  std::int64_t rows_ = 0;
  bool at_work_ = false;
  Clock::time_point began_{};
  std::array<double, kTaskNames.size()> seconds_per_row_{};
};

}  // namespace conclave::service
