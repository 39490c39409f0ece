// Load for a running service, and how long it lets clients wait. In a closed loop so many clients ask, each
// as soon as it was answered; in an open one requests come at random, at an even rate, whether or not those
// before were answered, and each one's time counts from when it was due, so that a service that stalls cannot
// hide it.
#pragma once

#include <string>
#include <vector>

namespace conclave::service {

struct LoadOptions {
  std::string url;  ///< http://HOST:PORT or https
  std::string path = "/v1/classify";
  std::string token;                ///< "": none
  std::vector<std::string> bodies;  ///< JSON, asked in turn
  int clients = 1;                  ///< of the closed loop; of the open one, connections at most
  double rate = 0;                  ///< requests per second of the open loop; 0: a closed one
  double seconds = 5;
  bool insecure = false;  ///< whatever certificate there is
  std::string ca;         ///< PEM file of who may have signed it; "": the system's
};

struct LoadResult {
  std::size_t answered = 0, refused = 0, failed = 0;  ///< with status 200; another; none
  int refused_with = 0;                               ///< the last of those other statuses
  double seconds = 0;                                 ///< until the last answer
  std::vector<double> latencies;                      ///< of those answered, rising

  double throughput() const { return static_cast<double>(answered) / seconds; }
  double percentile(double share) const;  ///< seconds; 0 where nothing was answered
};

/// Throws Error where the service cannot be reached at all.
LoadResult load(const LoadOptions& options);

}  // namespace conclave::service
