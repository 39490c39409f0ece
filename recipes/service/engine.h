// The middle of the service's layers: batches of queries become answers.
#pragma once

#include <future>
#include <vector>

#include "recipes/service/query.h"

namespace conclave::service {

/// A query on its way through the engine.
struct Job {
  explicit Job(Query asked) : query(std::move(asked)) {}

  Query query;
  Answer answer;
  std::int64_t rows = 0;        ///< of the model, that it has in a batch
  std::int64_t cost = 0;        ///< those rows, of all passes together
  std::promise<void> answered;  ///< or failed; whoever asked may be gone right after
};

/// What a batch took.
struct EngineWork {
  std::int64_t rows = 0;                          ///< that were computed
  double seconds = 0, routing_seconds = 0;        ///< the latter of routers and gates alone
  std::int64_t cache_hits = 0, cache_misses = 0;  ///< of the routing caches
};

/// Jobs that go_together(), on their way through the engine.
struct EngineBatch {
  std::vector<Job*> jobs = {};
  EngineWork work = {};    ///< so far
  bool under_way = false;  ///< begun, and steps are left
};

class Engine {
 public:
  virtual ~Engine() = default;
  virtual const ModelFacts& facts() const = 0;
  /// From any thread, before the job is queued: gives its answer the memory that it takes, and says how many
  /// rows it has.
  virtual void prepare(Job& job) const = 0;
  /// From any thread, once the job is answered: what it takes memory to make of the answer.
  virtual void finish(Job& job) const = 0;
  /// Takes the next step of a batch, which has its answers once it is not under way any more. Until then, of
  /// the others only those whose task does not take_steps() may be begun. A batch is over where this throws.
  /// From one thread.
  virtual void step(EngineBatch& batch) = 0;
};

/// Whether the engine answers it in many steps, or else in one.
inline bool takes_steps(TaskKind task) { return task == TaskKind::caption || task == TaskKind::generate; }

/// Whether one batch can answer both.
bool go_together(const Query& a, const Query& b);

}  // namespace conclave::service
