// The service by HTTP/1.1: paths, who may ask, and errors as JSON. In between, its three layers.
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
  std::string token;  ///< that "Authorization: Bearer" must have for /v1; "": nobody is asked
  double rate = 0;    ///< requests per second and address; 0: as many as they like
  double burst = 20;
  std::string log;                   ///< file for AccessLog; "": none
  std::vector<std::string> proxies;  ///< addresses whose X-Forwarded-For is believed
};

class HttpService {
 public:
  /// All but `options` must outlive it. Listens at once; answers once run() is called. Throws Error where it
  /// cannot, or the log cannot be written.
  HttpService(const HttpOptions& options, const Inputs& inputs, const Engine& engine, BatchQueue& queue,
              const Outputs& outputs, Metrics& metrics);
  ~HttpService();

  int port() const;
  /// Until end() is called, from any thread, and what had come by then is answered; as Connections::run().
  /// Throws nothing.
  std::size_t run();
  /// From any thread: for certificate and key that have others in their place, another token, and a log that
  /// was moved away. Throw Error where a file is no good, and go on with the former.
  void renew_certificate();
  void renew_token(const std::string& token);
  void reopen_log();
  void end();

 private:
  class Server;
  std::unique_ptr<Server> server_;
};

}  // namespace conclave::service
