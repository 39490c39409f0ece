// The middle layer of the service: it turns batches of queries into answers.
#pragma once

#include <atomic>
#include <exception>
#include <functional>
#include <utility>
#include <vector>

#include "recipes/service/query.h"

namespace conclave::service {

/// A query, its answer, and what the queue needs to know to schedule it.
struct Job {
  explicit Job(Query asked, const std::atomic<bool>* forsaken = nullptr)
      : query(std::move(asked)), forsaken(forsaken) {}
  bool is_forsaken() const { return forsaken && *forsaken; }

  Query query;
  Answer answer;
  std::int64_t rows = 0;              ///< model rows that the job adds to a batch
  std::int64_t cost = 0;              ///< estimate of the rows computed in all passes together
  const std::atomic<bool>* forsaken;  ///< set once nobody waits for the answer any more; null: never set
  /// Called once, on success (null) or failure; the job may be destroyed meanwhile.
  std::function<void(std::exception_ptr failure)> on_done;
  void done(std::exception_ptr failure = nullptr) {
    const auto told = std::move(on_done);
    if (told) told(std::move(failure));
  }
};

/// Work that a batch has needed.
struct EngineWork {
  std::int64_t rows = 0;                          ///< rows computed
  double seconds = 0, routing_seconds = 0;        ///< all time; the part of it in routers and gates
  std::int64_t cache_hits = 0, cache_misses = 0;  ///< of the routing caches
};

/// Jobs that one batch can answer (see go_together()).
struct EngineBatch {
  std::vector<Job*> jobs = {};
  EngineWork work = {};    ///< so far
  bool under_way = false;  ///< the batch is begun and needs more steps
};

class Engine {
 public:
  virtual ~Engine() = default;
  virtual const ModelFacts& facts() const = 0;
  /// Thread-safe. Called before the job is queued: allocates the memory of its answer and sets its rows and
  /// cost.
  virtual void prepare(Job& job) const = 0;
  /// Thread-safe. Called once the job is answered: the part of the answer that allocates memory, which the
  /// engine's thread avoids.
  virtual void finish(Job& job) const = 0;
  /// Computes the next step of a batch. The jobs have their answers when the batch is not under way any more.
  /// Until then, other batches may be begun only for tasks that do not take_steps(). If this throws, the
  /// batch is over. To be called from one thread only.
  virtual void step(EngineBatch& batch) = 0;
};

/// Whether the engine answers this task in many steps instead of one.
inline bool takes_steps(TaskKind task) { return traits_of(task).steps; }

/// Whether one batch can answer both queries.
bool go_together(const Query& a, const Query& b);

}  // namespace conclave::service
