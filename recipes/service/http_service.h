// The HTTP/1.1 front of the service: paths, access control, and errors as JSON. It connects the service's
// three layers: inputs, engine and outputs.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "recipes/service/batch_queue.h"
#include "recipes/service/connections.h"
#include "recipes/service/inputs.h"
#include "recipes/service/metrics.h"
#include "recipes/service/outputs.h"
#include "recipes/service/rate_limit.h"

namespace conclave::service {

struct HttpOptions {
  ConnectionOptions connections;
  std::string token;  ///< required in "Authorization: Bearer" for /v1/TASK; "": no token is required
  double rate = 0;    ///< requests per second and address; 0: no limit
  double burst = 20;  ///< requests of an address that may come at once
  std::string log;    ///< file for AccessLog; "": none
  std::vector<std::string> proxies;  ///< addresses of trusted proxies (see Proxies)
  std::vector<std::string> hosts;    ///< names of the service, without ports (see Origins)
};

class HttpService {
 public:
  /// All arguments but `options` must outlive the service. Listens at once; answers once run() is called.
  /// Throws Error where it cannot listen or cannot open the log.
  HttpService(const HttpOptions& options, const Inputs& inputs, const Engine& engine, BatchQueue& queue,
              const Outputs& outputs, Metrics& metrics);
  ~HttpService();

  int port() const;
  /// Serves until end() is called and the requests received by then are answered (see Connections::run()).
  std::size_t run();
  /// These three are thread-safe. They read a replaced certificate and key, set another token, and open the
  /// log again after it was moved away. They throw Error where a file is unusable, and then keep the old one.
  void renew_certificate();
  void renew_token(const std::string& token);
  void reopen_log();
  /// Thread-safe.
  void end();

 private:
  class Server;
  std::unique_ptr<Server> server_;
};

}  // namespace conclave::service
