// Groups queries into batches for the engine. A query that finds the engine idle starts at once. While the
// engine works, queries wait; the next batch is the query that has waited longest, plus as many other waiting
// queries, oldest first, as are compatible with it and fit. A batch is packed, so lengths may differ.
// Clients that ask again as soon as they are answered would form two groups that take turns, each of which
// waits for the other's batch. Where most answers are followed by a query within a quarter of their batch's
// time, the next batch waits until as many queries are there as before, or that time is over. Only
// single-step queries wait for others, and only for those that can go with them.
// Forsaken queries fail with a Refusal (499) before they are computed, and a multi-step batch ends early when
// all its queries are forsaken.
// While a batch that takes many steps is under way, batches of single-step queries run between its steps.
// The two kinds share the engine's time: after each single-step batch, the multi-step batch runs for as long
// as that batch took, and for one step at least.
#pragma once

#include <array>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <vector>

#include "core/clock.h"
#include "recipes/service/engine.h"

namespace conclave::service {

struct BatchLimits {
  std::int64_t rows = 1024;    ///< model rows in a batch; a job with more rows is a batch by itself
  std::int64_t jobs = 64;      ///< jobs in a batch
  std::int64_t waiting = 256;  ///< waiting jobs, without those that the engine works on
  /// Most seconds that a query should take. The queue rejects a job whose estimate is longer; the estimate is
  /// made from the work ahead of the job, the recent time per row, and the wait for other queries that has
  /// begun. 0: no such limit.
  double latency = 0;
};

class BatchQueue {
 public:
  explicit BatchQueue(const BatchLimits& limits);

  /// Thread-safe, and needs no memory. Returns false, and does not take the job, where the queue is full or
  /// closed or the job would take too long.
  bool push(Job& job);
  /// Waits for jobs and returns the batch whose next step the engine is to run. The queue owns the batch; the
  /// pointer stays valid until the first call of next() after the batch's last step. Null once the queue is
  /// closed and no batch is under way. To be called from one thread only.
  EngineBatch* next();
  /// Reads from the batch that next() returned whether its step is over or has failed. next() does this, too.
  void end_step();
  /// Takes no more jobs. Waiting jobs fail with a Refusal (503), as their connections are closed.
  void close();
  bool closed() const;

  std::size_t waiting() const;

 private:
  // Single-step queries, other than those that go alone, that come soon after the answers of such a batch.
  // "Soon" ends at `until`.
  struct Followers {
    Clock::time_point until{};
    double time = 0;               // from the answers to `until`, in seconds
    std::int64_t crowd = 0;        // the batch's queries, and those that waited when it was done
    double answers = 0, came = 0;  // answers so far, and queries soon after them; the latest count most
  };
  // A batch that the engine has begun.
  struct Work {
    EngineBatch batch;
    bool unfinished = false;
    bool full = false;  // when it began, others waited that could go with it
    TaskKind task = TaskKind::classify;
    std::int64_t rows = 0, cost = 0;
    double seconds = 0, between = 0;  // time of finished steps; time of batches that ran between them
  };
  using Pace = std::array<double, kTaskNames.size()>;  // moving average of seconds, by task

  static void learn(Pace& pace, TaskKind task, double seconds);
  void settle_step();
  void await_query(std::unique_lock<std::mutex>& lock);
  void gather(std::unique_lock<std::mutex>& lock);
  bool is_gathered(const Job* with = nullptr) const;
  void note_answers(const Work& work);
  void drop_forsaken();
  void end_forsaken_batch();
  Work& begin(const Job& first);
  double seconds_of(TaskKind task, std::int64_t cost) const;
  double seconds_left(const Work& work) const;
  double seconds_between(const Job& job, double seconds) const;
  double seconds_until(const Job& job) const;

  const BatchLimits limits_;
  const std::exception_ptr client_gone_, draining_;  // made before, so that to end a job needs no memory
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Job*> waiting_;  // oldest first
  std::int64_t awaited_ = 1;   // as many waiting jobs wake the engine; above 1 in gather()
  bool closed_ = false;
  Work at_once_, in_steps_;    // the latest single-step batch and the latest multi-step batch
  Work* at_work_ = nullptr;    // the one of the two whose step is running
  Clock::time_point began_{};  // start of that step
  bool owes_step_ = false;     // in_steps_ gets a step before the next single-step batch
  double owes_ = 0;            // seconds that in_steps_ gets before the next single-step batch
  Followers followers_;
  Pace seconds_per_row_{}, seconds_per_step_{};
};

}  // namespace conclave::service
