// Queries on their way to the engine, in the batches in which it gets them. One that finds it idle goes at
// once; while it is at work others gather, and the next batch is the one that has waited longest, with as
// many of the others, by age, as go together with it and fit. A batch is packed, so lengths may differ.
// Where a batch takes many steps, batches of queries that take one go between them. Neither kind keeps the
// other waiting for long: after such a batch there are as many steps as take as long, and one at least.
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
  /// Waits for jobs, and says of which batch the engine is to take a step next. It is the queue's, and stays
  /// until its last step is over, and this is called again. Null once the queue is closed and no batch is
  /// under way. For one thread.
  EngineBatch* next();
  /// That step is over, or has failed: by what the batch says now. Next() knows by itself.
  void end_step();
  /// No more jobs; those that wait fail by a Refusal: there is nobody any more whom their answers would
  /// reach.
  void close();
  bool closed() const;

  std::size_t waiting() const;

 private:
  // A batch that the engine has begun.
  struct Work {
    EngineBatch batch;
    bool unfinished = false;
    TaskKind task = TaskKind::classify;
    std::int64_t rows = 0, cost = 0;
    double seconds = 0, between = 0;  // of the steps that are over, and of batches that went between them
  };
  using Pace = std::array<double, kTaskNames.size()>;  // seconds, lately, by task

  static void learn(Pace& pace, TaskKind task, double seconds);
  void settle_step();
  Work& begin(const Job& first);
  double seconds_of(TaskKind task, std::int64_t cost) const;
  double seconds_left(const Work& work) const;
  double seconds_between(const Job& job, double seconds) const;
  double seconds_until(const Job& job) const;

  const BatchLimits limits_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Job*> waiting_;  // from old to new
  bool closed_ = false;
  Work at_once_, in_steps_;    // the last of each kind
  Work* at_work_ = nullptr;    // that of the two of which a step was begun last
  Clock::time_point began_{};  // that step
  bool owes_step_ = false;     // to the batch in steps, before another goes at once
  double owes_ = 0;            // seconds likewise
  Pace seconds_per_row_{}, seconds_per_step_{};
};

}  // namespace conclave::service
