// Load generator for a running service; it measures latency and throughput. In a closed loop each client
// sends its next request as soon as the last one is answered. In an open loop requests are due at random
// times (a Poisson process), whether or not earlier ones are answered; latency counts from when a request was
// due, so a service that stalls cannot hide it.
#pragma once

#include <string>
#include <vector>

namespace conclave::service {

struct LoadOptions {
  std::string url;  ///< http://HOST:PORT or https
  std::string path = "/v1/classify";
  std::string token;                ///< "": none
  std::vector<std::string> bodies;  ///< JSON, sent in turn
  int clients = 1;                  ///< clients of the closed loop; most connections of the open loop
  double rate = 0;                  ///< requests per second of the open loop; 0: a closed one
  double seconds = 5;
  bool insecure = false;  ///< accept any certificate
  std::string ca;         ///< PEM file of the trusted signers; "": those of the system
};

struct LoadResult {
  std::size_t answered = 0, refused = 0, failed = 0;  ///< with status 200; another status; no answer
  int refused_with = 0;                               ///< one of the other statuses; 0 without
  double seconds = 0;                                 ///< until the last answer
  std::vector<double> latencies;                      ///< seconds of requests answered with 200, ascending

  double throughput() const { return static_cast<double>(answered) / seconds; }
  double percentile(double share) const;  ///< seconds, for share in [0, 1]; 0 where nothing was answered
};

/// Throws Error where the service cannot be reached at all.
LoadResult load(const LoadOptions& options);

}  // namespace conclave::service
