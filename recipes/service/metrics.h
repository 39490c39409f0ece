// The metrics that the service exports to Prometheus at /metrics.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>

#include "recipes/service/engine.h"

namespace conclave::service {

/// Thread-safe.
class Metrics {
 public:
  Metrics();
  ~Metrics();

  /// Counts a request that was answered with any status, or kClientGone; `task` is nullopt for paths without
  /// a task.
  void answered(std::optional<TaskKind> task, int status, double seconds);
  /// Counts a batch that the engine has answered.
  void computed(std::span<const Job* const> batch, const EngineWork& work);

  struct Now {
    std::size_t waiting = 0, connections = 0;
    bool ready = false;
  };
  /// All metrics in Prometheus' text format 0.0.4.
  std::string text(const Now& now);

 private:
  struct Families;
  std::unique_ptr<Families> families_;
};

}  // namespace conclave::service
