// Clients' connections, plain or by TLS 1.3. One thread reads and writes all of them, without ever waiting
// for one, and hands whole requests to threads that answer them: neither a thousand idle connections nor
// clients that send, or read, a byte at a time keep anybody else from being answered. Each has a deadline for
// whatever it is to do next.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "core/clock.h"
#include "recipes/service/request_frame.h"

namespace conclave::service {

struct ConnectionOptions {
  std::string host = "127.0.0.1";
  int port = 8080;                         ///< 0: any that is free
  std::string certificate = {}, key = {};  ///< PEM files; "": plain
  FrameLimits limits = {};
  std::size_t threads = 64;        ///< that answer
  std::size_t connections = 4096;  ///< beyond, an idle one is closed, or one that waits for its client
  /// Bytes of requests not yet answered, of all together. Beyond, whoever has sent most of one that is not
  /// whole is refused.
  std::size_t buffered = std::size_t{512} << 20;
  double request_seconds = 10;  ///< from a request's first byte to its last; for a handshake, too
  double idle_seconds = 60;     ///< between requests
  double write_seconds = 30;    ///< for a client to take an answer
  double linger_seconds = 1;    ///< after end(), for new connections and requests to be answered still
  double drain_seconds = 30;    ///< after end(), at most
};

struct WholeRequest {
  std::string bytes = {};
  std::string address = {};                  ///< whom the connection is of, maybe a proxy
  Clock::time_point arrived = Clock::now();  ///< the last byte, if earlier ones were answered
  bool followed = false;  ///< the client has sent another one already, which counts on an answer, too
  bool admitted = false;  ///< by Admission
  RequestHead head = {};  ///< of `bytes`
};

struct WholeAnswer {
  std::string bytes = {};
  bool close = false;  ///< the connection
};

class Connections {
 public:
  /// Called in any of the threads; throws nothing.
  using Handler = std::function<WholeAnswer(const WholeRequest& request)>;
  /// Called in run()'s thread for the head of a request whose body is still to come: "" where it may, else
  /// the answer's bytes, after which the connection is closed. Of others, which are whole at once, nobody
  /// asks.
  using Admission = std::function<std::string(const RequestHead& head, const std::string& address)>;
  /// Of what is no request, the answer's bytes; called in run()'s thread. `head` is null where there is none.
  using Refuser = std::function<std::string(int status, std::string_view code, std::string_view reason,
                                            const std::string& address, const RequestHead* head)>;

  /// Listens; nobody is answered until run(). Throws Error where it cannot.
  Connections(const ConnectionOptions& options, Handler handler, Refuser refuser, Admission admission = {});
  ~Connections();
  Connections(const Connections&) = delete;
  Connections& operator=(const Connections&) = delete;

  int port() const;
  /// Until end(), and until what had come by then is answered, or drain_seconds have passed: then the number
  /// of connections that are cut off before they had all of an answer.
  std::size_t run();
  /// From any thread. Reads certificate and key again, for connections from now on. Throws as the constructor
  /// where they are no good, and the former stay.
  void renew_certificate();
  /// From any thread.
  void end();
  bool ending() const;
  std::size_t open() const;  ///< connections

 private:
  class Loop;
  std::unique_ptr<Loop> loop_;
};

}  // namespace conclave::service
