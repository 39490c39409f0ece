#include "recipes/service/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>
#include <unistd.h>

#include <array>
#include <fstream>

namespace conclave::service {
namespace {

const prometheus::Histogram::BucketBoundaries kSeconds{0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1,
                                                       0.2,   0.5,   1,     2,    5,    10};
const prometheus::Histogram::BucketBoundaries kJobs{1, 2, 4, 8, 16, 32, 64, 128, 256};
const prometheus::Histogram::BucketBoundaries kRows{16, 64, 256, 1024, 4096, 16384};

// Bytes; 0 where /proc is not available.
double resident_memory() {
  std::ifstream in("/proc/self/statm");
  std::int64_t size = 0, resident = 0;
  in >> size >> resident;
  return static_cast<double>(resident) * static_cast<double>(::sysconf(_SC_PAGESIZE));
}

std::string label(std::optional<TaskKind> task) { return task ? std::string(name_of(*task)) : "none"; }

}  // namespace

struct Metrics::Families {
  prometheus::Registry registry;

  template <class Builder>
  auto& family(Builder build, const char* name, const char* help) {
    return build().Name(name).Help(help).Register(registry);
  }
  prometheus::Family<prometheus::Counter>& counter(const char* name, const char* help) {
    return family(prometheus::BuildCounter, name, help);
  }
  prometheus::Family<prometheus::Histogram>& histogram(const char* name, const char* help) {
    return family(prometheus::BuildHistogram, name, help);
  }
  prometheus::Gauge& gauge(const char* name, const char* help) {
    return family(prometheus::BuildGauge, name, help).Add({});
  }

  prometheus::Family<prometheus::Counter>& requests =
      counter("conclave_requests_total",
              "Requests, by task and HTTP status (499: the client left before its answer).");
  prometheus::Family<prometheus::Histogram>& latency =
      histogram("conclave_request_seconds", "Time from a request's last byte to its answer, for status 200.");
  prometheus::Family<prometheus::Histogram>& batch_jobs =
      histogram("conclave_batch_queries", "Queries in a batch.");
  prometheus::Family<prometheus::Histogram>& batch_rows =
      histogram("conclave_batch_rows", "Model rows in a batch: tokens of texts and rows of images.");
  prometheus::Counter& rows = counter("conclave_rows_total", "Rows computed.").Add({});
  prometheus::Counter& seconds =
      counter("conclave_engine_seconds_total", "Time in which the engine was computing.").Add({});
  prometheus::Counter& routing =
      counter("conclave_routing_seconds_total", "Engine time spent in routers and gates.").Add({});
  prometheus::Family<prometheus::Counter>& looked_up =
      counter("conclave_route_cache_lookups_total", "Look-ups in the routing caches, by result.");
  prometheus::Gauge& waiting = gauge("conclave_queue_depth", "Queries that wait for the engine.");
  prometheus::Gauge& connections = gauge("conclave_connections", "Open connections.");
  prometheus::Gauge& ready = gauge("conclave_ready", "1 while the service takes requests.");
  prometheus::Gauge& memory = gauge("process_resident_memory_bytes", "Resident memory size in bytes.");
};

Metrics::Metrics() : families_(std::make_unique<Families>()) {}
Metrics::~Metrics() = default;

void Metrics::answered(std::optional<TaskKind> task, int status, double seconds) {
  families_->requests.Add({{"task", label(task)}, {"status", std::to_string(status)}}).Increment();
  if (task && status == 200) families_->latency.Add({{"task", label(task)}}, kSeconds).Observe(seconds);
}

void Metrics::computed(std::span<const Job* const> batch, const EngineWork& work) {
  Families& to = *families_;
  std::array<bool, kTaskNames.size()> has{};
  for (const Job* job : batch) has[static_cast<std::size_t>(job->query.task)] = true;
  std::string tasks;  // for example "classify+embed": one batch can answer both
  for (std::size_t task = 0; task < has.size(); ++task)
    if (has[task]) tasks.append(tasks.empty() ? "" : "+").append(kTaskNames[task]);
  to.batch_jobs.Add({{"task", tasks}}, kJobs).Observe(static_cast<double>(batch.size()));
  to.batch_rows.Add({{"task", tasks}}, kRows).Observe(static_cast<double>(work.rows));
  to.rows.Increment(static_cast<double>(work.rows));
  to.seconds.Increment(work.seconds);
  to.routing.Increment(work.routing_seconds);
  to.looked_up.Add({{"result", "hit"}}).Increment(static_cast<double>(work.cache_hits));
  to.looked_up.Add({{"result", "miss"}}).Increment(static_cast<double>(work.cache_misses));
}

std::string Metrics::text(const Now& now) {
  Families& to = *families_;
  to.waiting.Set(static_cast<double>(now.waiting));
  to.connections.Set(static_cast<double>(now.connections));
  to.ready.Set(now.ready ? 1 : 0);
  to.memory.Set(resident_memory());
  return prometheus::TextSerializer().Serialize(to.registry.Collect());
}

}  // namespace conclave::service
