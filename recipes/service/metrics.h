// What the service tells Prometheus at /metrics.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>

#include "recipes/service/engine.h"

namespace conclave::service {

/// For any number of threads.
class Metrics {
 public:
  Metrics();
  ~Metrics();

  /// A request was answered, with whatever status; `task` is none for paths that have none.
  void answered(std::optional<TaskKind> task, int status, double seconds);
  /// The engine has answered a batch.
  void computed(std::span<const Job* const> batch, const EngineWork& work);

  struct Now {
    std::size_t waiting = 0, connections = 0;
    bool ready = false;
  };
  /// In the text format 0.0.4.
  std::string text(const Now& now);

 private:
  struct Families;
  std::unique_ptr<Families> families_;
};

}  // namespace conclave::service
