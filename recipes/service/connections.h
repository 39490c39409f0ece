// Client connections, plain or with TLS 1.3. One thread does all non-blocking reads and writes and hands
// complete requests to a pool of threads that answer them. Neither a thousand idle connections nor clients
// that send or read one byte at a time delay other clients. Each connection has a deadline for its next
// action.
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
  int port = 8080;                         ///< 0: any free port
  std::string certificate = {}, key = {};  ///< PEM files; "": no TLS
  FrameLimits limits = {};
  std::size_t threads = 64;  ///< threads that answer requests; those that wait (WholeAnswer::later) need none
  /// Most open connections. Beyond, a new one replaces an idle one, or one that waits for its client.
  std::size_t connections = 4096;
  /// Most bytes of all requests that are not yet answered and all answers that are not yet sent. Beyond, the
  /// kind that has more of them makes room: the connections whose clients have left their answers unread for
  /// longest are closed, or the one with the largest incomplete request is refused.
  std::size_t buffered = std::size_t{512} << 20;
  double request_seconds = 10;  ///< from the first byte of a request to its last; also for a TLS handshake
  double idle_seconds = 60;     ///< between requests
  double write_seconds = 30;    ///< for a client to receive an answer
  double linger_seconds = 1;    ///< after end(): new connections and requests are still answered
  double drain_seconds = 30;    ///< after end(): most time until run() returns
};

/// A request that is being answered.
struct Exchange;

struct WholeRequest {
  std::string bytes = {};
  std::string address = {};                  ///< peer of the connection, which may be a proxy
  Clock::time_point arrived = Clock::now();  ///< when it was complete and earlier requests were answered
  bool followed = false;  ///< the client has already sent another complete request behind this one
  bool admitted = false;  ///< Admission has accepted the head
  RequestHead head = {};  ///< parsed from `bytes`
  /// Set once the client has closed its connection, or only its sending side, before it was answered: the
  /// answer will not be sent. Null before the request is handed over.
  std::shared_ptr<std::atomic<bool>> forsaken = {};
  Exchange* exchange = nullptr;  ///< for resume()
};

struct WholeAnswer {
  std::string bytes = {};
  bool close = false;  ///< close the connection after the answer
  /// If set, this is not the answer yet: after resume(), one of the pool's threads calls `later` for it,
  /// before it begins with requests that no thread has taken yet. So a request that waits keeps no thread.
  /// The request lives until then.
  std::function<WholeAnswer()> later = {};
};

class Connections {
 public:
  /// Called in any of the pool's threads, as is WholeAnswer::later. An exception from any of these three
  /// functions, such as for want of memory, closes the connection. A handler must not throw once it has given
  /// away the request's exchange: this ends its life.
  using Handler = std::function<WholeAnswer(const WholeRequest& request)>;
  /// Called in run()'s thread when the head of a request is complete and its body is not. Returns "" to
  /// accept the request, or the bytes of an answer, after which the connection is closed. Not called for a
  /// request that arrives complete.
  using Admission = std::function<std::string(const RequestHead& head, const std::string& address)>;
  /// Returns the bytes of the answer to a request that the connection refuses (invalid, too large, too slow,
  /// no memory). Called in run()'s thread. `head` is null where none could be parsed.
  using Refuser = std::function<std::string(int status, std::string_view code, std::string_view reason,
                                            const std::string& address, const RequestHead* head)>;

  /// Listens on the port; requests are answered once run() is called. Throws Error where it cannot listen.
  Connections(const ConnectionOptions& options, Handler handler, Refuser refuser, Admission admission = {});
  ~Connections();
  Connections(const Connections&) = delete;
  Connections& operator=(const Connections&) = delete;

  int port() const;
  bool is_local() const;  ///< whether only this machine can connect (it listens at a loopback address)
  /// Serves until end() is called and the requests received by then are answered, or until drain_seconds have
  /// passed since end(). Returns the number of connections that are cut off before their answer was complete.
  std::size_t run();
  /// Thread-safe. Reads certificate and key again, for later connections. Throws Error where they are
  /// unusable; the old ones then stay in use.
  void renew_certificate();
  /// Thread-safe: run() drains and returns.
  void end();
  bool ending() const;
  /// Thread-safe, needs no memory, and may come before the handler has returned. To be called once for each
  /// WholeAnswer::later.
  void resume(Exchange& exchange);
  std::size_t open() const;  ///< connections

 private:
  class Loop;
  std::unique_ptr<Loop> loop_;
};

}  // namespace conclave::service
