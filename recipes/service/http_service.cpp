#include "recipes/service/http_service.h"

#include <fmt/ranges.h>
#include <httplib.h>
#include <openssl/crypto.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <mutex>
#include <optional>

#include "core/clock.h"
#include "core/text.h"
#include "recipes/service/access_log.h"
#include "recipes/service/client_address.h"
#include "recipes/service/embedded.h"
#include "recipes/service/origins.h"

namespace conclave::service {
namespace {

// The request line, with the target instead of a whole URL, and the headers without two headers that httplib
// must not see:
// - Range, which a server may ignore (RFC 9110, section 14.2). httplib would answer a thousand ranges with a
//   thousand copies, and would cut answers to queries.
// - Content-Type, which goes to `type`. httplib parses forms with a regular expression that needs hours for
//   some inputs.
std::string seen_by_httplib(std::string_view head, const RequestHead& parsed, std::string& type) {
  const std::size_t line = head.find("\r\n");
  std::string kept = parsed.method + " " + parsed.target;
  kept.append(head.substr(0, line + 2).substr(head.rfind(' ', line)));
  head.remove_prefix(line + 2);
  while (!head.empty()) {
    const std::string_view line = head.substr(0, head.find("\r\n"));
    const std::size_t size = std::min(head.size(), line.size() + 2), colon = line.find(':');
    const std::string_view name = line.substr(0, colon);
    if (same_but_for_case(name, "content-type"))
      type = trimmed(line.substr(std::min(line.size(), colon + 1)));
    else if (!same_but_for_case(name, "range"))
      kept.append(head.substr(0, size));
    head.remove_prefix(size);
  }
  return kept;
}

// Presents a complete request to httplib as a stream and collects the answer.
class WholeStream : public httplib::Stream {
 public:
  WholeStream(const WholeRequest& request, std::string client)
      : client_(std::move(client)),
        body_(std::string_view(request.bytes).substr(request.bytes.find("\r\n\r\n") + 4)),
        head_(seen_by_httplib(std::string_view(request.bytes).substr(0, request.bytes.size() - body_.size()),
                              request.head, type)),
        rest_of_head_(head_) {}

  bool is_readable() const override { return true; }
  bool is_writable() const override { return true; }
  ssize_t read(char* to, std::size_t size) override {
    std::string_view& from = rest_of_head_.empty() ? body_ : rest_of_head_;
    const std::size_t some = from.copy(to, size);
    from.remove_prefix(some);
    return static_cast<ssize_t>(some);
  }
  ssize_t write(const char* from, std::size_t size) override {
    answer.append(from, size);
    return static_cast<ssize_t>(size);
  }
  void get_remote_ip_and_port(std::string& address, int& port) const override { address = client_, port = 0; }
  void get_local_ip_and_port(std::string& /*address*/, int& /*port*/) const override {}
  socket_t socket() const override { return INVALID_SOCKET; }

  std::string answer;
  std::string type;  // Content-Type

 private:
  const std::string client_;
  std::string_view body_;
  const std::string head_;
  std::string_view rest_of_head_;
};

constexpr const char* kJson = "application/json";

const char* reason_of(int status) {
  switch (status) {
    case 400:
      return "Bad Request";
    case 200:
      return "OK";
    case 401:
      return "Unauthorized";
    case 403:
      return "Forbidden";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 408:
      return "Request Timeout";
    case 411:
      return "Length Required";
    case 413:
      return "Payload Too Large";
    case 415:
      return "Unsupported Media Type";
    case 417:
      return "Expectation Failed";
    case 429:
      return "Too Many Requests";
    case 431:
      return "Request Header Fields Too Large";
    case 500:
      return "Internal Server Error";
    case 503:
      return "Service Unavailable";
    case 505:
      return "HTTP Version Not Supported";
    default:
      return "Error";
  }
}

// Why a request is refused, and a header for the answer, such as Retry-After.
struct Refused {
  int status;
  std::string_view code;
  std::string message;
  std::string header = {}, value = {};
};

Refused busy(std::string message) { return {503, "busy", std::move(message), "Retry-After", "1"}; }

void set_error(httplib::Response& answer, int status, std::string_view code, std::string_view message) {
  answer.status = status;
  answer.set_content(error_text(code, message), kJson);
}

void set_error(httplib::Response& answer, const Refused& refused) {
  set_error(answer, refused.status, refused.code, refused.message);
  if (!refused.header.empty()) answer.set_header(refused.header.c_str(), refused.value);
}

void set_error(httplib::Response& answer, const std::exception_ptr& failure) {
  try {
    std::rethrow_exception(failure);
  } catch (const Refusal& refused) {
    if (refused.status == 503) answer.set_header("Retry-After", "1");
    set_error(answer, refused.status, refused.code, refused.what());
  } catch (const std::exception& error) {
    set_error(answer, 500, "internal", error.what());
  } catch (...) {
    set_error(answer, 500, "internal", "unknown");
  }
}

// An answer that httplib does not write. `connection`: a header that says whether the connection stays.
std::string bytes_of(const httplib::Response& answer, std::string_view connection) {
  std::string bytes = fmt::format("HTTP/1.1 {} {}\r\nContent-Length: {}\r\n{}\r\n", answer.status,
                                  reason_of(answer.status), answer.body.size(), connection);
  for (const auto& [name, value] : answer.headers) bytes += fmt::format("{}: {}\r\n", name, value);
  return bytes.append("\r\n").append(answer.body);
}

std::optional<TaskKind> task_at(std::string_view path) {
  constexpr std::string_view kTasks = "/v1/";
  return path.starts_with(kTasks) ? task_named(path.substr(kTasks.size())) : std::nullopt;
}

// The methods allowed at `path`; "" where the path does not exist.
std::string methods_at(std::string_view path) {
  constexpr std::array<std::string_view, 6> kPages{"/",       "/v1",           "/healthz",
                                                   "/readyz", "/openapi.json", "/metrics"};
  if (std::ranges::find(kPages, path) != kPages.end()) return "GET, HEAD";
  return task_at(path) ? "POST" : "";
}

}  // namespace

// httplib parses requests and calls the handlers; class Connections does the I/O in its place.
class HttpService::Server : private httplib::Server {
 public:
  Server(const HttpOptions& options, const Inputs& inputs, const Engine& engine, BatchQueue& queue,
         const Outputs& outputs, Metrics& metrics)
      : options_(options),
        inputs_(inputs),
        engine_(engine),
        queue_(queue),
        outputs_(outputs),
        metrics_(metrics),
        token_(std::make_shared<const std::string>(options.token)),
        proxies_(options.proxies),
        origins_(options.hosts, options.connections.host),
        limit_(options.rate, options.burst),
        log_(options.log.empty() ? nullptr : std::make_unique<AccessLog>(options.log)),
        connections_(
            options.connections, [this](const WholeRequest& request) { return handle(request); },
            [this](int status, std::string_view code, std::string_view reason, const std::string& address,
                   const RequestHead* head) {
              const std::string why(reason);
              return refusal(status == 503 ? busy(why) : Refused{status, code, why}, client_of(address, head),
                             head);
            },
            [this](const RequestHead& head, const std::string& address) {
              const std::string client = client_of(address, &head);
              const auto refused = refused_at_once(head, client);
              return refused ? refusal(*refused, client, &head) : "";
            }) {
    set_payload_max_length(options.connections.limits.body);
    set_keep_alive_max_count(1'000'000);
    set_keep_alive_timeout(static_cast<time_t>(options.connections.idle_seconds));
    guards_host_ = options.token.empty() && connections_.is_local();
    route();
  }

  Connections& connections() { return connections_; }

  void renew_token(std::string token) {
    auto renewed = std::make_shared<const std::string>(std::move(token));
    const std::scoped_lock lock(token_mutex_);
    token_ = std::move(renewed);
  }

  void reopen_log() {
    if (log_) log_->reopen();
  }

 private:
  // A query for the engine. `request` lives until it is answered.
  struct Pending {
    Pending(Job asked, const WholeRequest& request, const AnswerWriter& writer)
        : job(std::move(asked)), request(request), writer(writer) {}
    Job job;
    const WholeRequest& request;
    const AnswerWriter& writer;
    std::exception_ptr failure;
  };

  void route() {
    Get("/healthz", [](const auto&, auto& answer) { answer.set_content("alive\n", "text/plain"); });
    Get("/readyz", [this](const auto&, auto& answer) {
      if (connections_.ending())
        set_error(answer, 503, "draining", "the service is shutting down");
      else
        answer.set_content("ready\n", "text/plain");
    });
    Get("/metrics", [this](const auto&, auto& answer) {
      answer.set_content(metrics_.text({queue_.waiting(), connections_.open(), !connections_.ending()}),
                         "text/plain; version=0.0.4; charset=utf-8");
    });
    Get("/openapi.json", [](const auto&, auto& answer) { answer.set_content(std::string(kOpenApi), kJson); });
    Get("/", [](const auto&, auto& answer) {
      answer.set_content(std::string(kPage), "text/html; charset=utf-8");
      answer.set_header("Content-Security-Policy",
                        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
                        "img-src data: blob:; connect-src 'self'; base-uri 'none'; frame-ancestors 'none'");
      answer.set_header("X-Content-Type-Options", "nosniff");
    });
    Get("/v1", [this](const auto&, auto& answer) { answer.set_content(facts_text(engine_.facts()), kJson); });
    Post("/v1/([a-z]+)", [this](const auto& request, auto& answer) { answer_query(request, answer); });
    set_pre_routing_handler([this](const auto& request, auto& answer) {
      // Admission has counted the request that it admitted.
      const auto refused = refused_at_once(asked_->head, asked_->admitted ? "" : request.remote_addr);
      if (refused) set_error(answer, *refused);
      answer.set_header("Accept-Ranges", "none");  // httplib says "bytes" where HEAD asks
      return refused ? HandlerResponse::Handled : HandlerResponse::Unhandled;
    });
    set_error_handler([this](const auto& request, auto& answer) { explain(request, answer); });
    set_exception_handler(
        [](const auto&, auto& answer, const std::exception_ptr& failure) { set_error(answer, failure); });
  }

  std::string client_of(const std::string& address, const RequestHead* head) const {
    return client_network(proxies_.client_of(address, head ? std::string_view(head->forwarded) : ""));
  }

  WholeAnswer handle(const WholeRequest& request) {
    if (*request.forsaken) {
      count(request, task_at(request.head.path), kClientGone, 0);
      return {.close = true};
    }
    const std::string client = client_of(request.address, &request.head);
    WholeStream stream(request, client);
    bool closed = false;
    task_ = std::nullopt, status_ = 400, type_ = stream.type, asked_ = &request;
    // Decide once, so that the answer's Connection header agrees with what happens. A client that has already
    // sent another request is told only by the answer to its last one.
    const bool closes = request.head.closes || (connections_.ending() && !request.followed);
    pending_ = nullptr;
    const bool good = process_request(stream, closes, closed, nullptr);
    if (pending_) return queued(std::exchange(pending_, nullptr));
    constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";  // Connections has sent it before
    if (stream.answer.starts_with(kContinue)) stream.answer.erase(0, kContinue.size());
    if (stream.answer.size() > 12) status_ = std::atoi(stream.answer.c_str() + 9);
    count(request, task_, status_, stream.answer.size());
    return {std::move(stream.answer), closed || !good || closes};
  }

  // Nothing may fail once the queue has the job, because the request has to live until the job is done.
  WholeAnswer queued(const std::shared_ptr<Pending>& pending) {
    WholeAnswer answer{.later = [this, pending] { return complete(*pending); }};
    if (queue_.push(pending->job)) return answer;
    pending->failure =
        std::make_exception_ptr(Refusal(503, "busy", "too many requests wait for an answer; try again"));
    return complete(*pending);
  }

  // The answer to a query that the engine has answered, or failed to.
  WholeAnswer complete(Pending& pending) {
    const WholeRequest& request = pending.request;
    httplib::Response answer;
    try {
      if (pending.failure) std::rethrow_exception(pending.failure);
      engine_.finish(pending.job);
      answer.status = 200;
      answer.set_content(pending.writer.write(engine_.facts(), pending.job.query, pending.job.answer),
                         std::string(pending.writer.type()));
    } catch (...) {
      set_error(answer, std::current_exception());
    }
    const bool closes = request.head.closes || (connections_.ending() && !request.followed);
    std::string bytes = bytes_of(
        answer, closes ? "Connection: close"
                       : fmt::format("Keep-Alive: timeout={:.0f}", options_.connections.idle_seconds));
    count(request, pending.job.query.task, answer.status, bytes.size());
    return {std::move(bytes), closes};
  }

  void count(const WholeRequest& request, std::optional<TaskKind> task, int status, std::size_t bytes) {
    if (*request.forsaken) status = kClientGone, bytes = 0;
    const double passed = seconds_since(request.arrived);
    metrics_.answered(task, status, passed);
    if (log_)
      log_->note(entry_of(client_of(request.address, &request.head), &request.head, status, passed, bytes));
  }

  // Called in the thread of all connections, which must not wait for the log's disk.
  std::string refusal(const Refused& refused, const std::string& client, const RequestHead* head) {
    metrics_.answered(std::nullopt, refused.status, 0);
    httplib::Response answer;
    set_error(answer, refused);
    std::string bytes = bytes_of(answer, "Connection: close");
    if (log_) log_->note_later(entry_of(client, head, refused.status, 0, bytes.size()));
    return bytes;
  }

  static AccessLog::Entry entry_of(std::string_view client, const RequestHead* head, int status,
                                   double seconds, std::size_t bytes_out) {
    return {.address = client,
            .method = head ? std::string_view(head->method) : "",
            .path = head ? std::string_view(head->path) : "",
            .status = status,
            .seconds = seconds,
            .bytes_out = bytes_out};
  }

  // Why the head of a request alone is a reason to refuse it. Counts the request against the rate limit of
  // `client`, unless that is "". Thread-safe.
  std::optional<Refused> refused_at_once(const RequestHead& head, const std::string& client) {
    const std::string &method = head.method, &path = head.path;
    const bool asks_model = path.starts_with("/v1/");
    if (guards_host_ && !origins_.names(head.host))
      return Refused{403, "unknown_host",
                     fmt::format("the service is not known as {}; to give it a name besides localhost, start "
                                 "it with --allow-host NAME",
                                 head.host.substr(0, 100))};
    if (asks_model && origins_.is_elsewhere(head))
      return Refused{403, "cross_site",
                     "a page of another site may not ask; if it is the service's own under a name that a "
                     "proxy has replaced, start the service with --allow-host NAME"};
    if (asks_model) {
      if (const double wait = client.empty() ? 0 : limit_.wait(client); wait > 0)
        return Refused{429, "too_many_requests", "too many requests from this address", "Retry-After",
                       fmt::format("{:.0f}", std::ceil(std::min(wait, 86400.0)))};
      if (!has_token(head.authorization))
        return Refused{401, "unauthorized", "send the token: Authorization: Bearer TOKEN", "WWW-Authenticate",
                       "Bearer"};
    }
    const bool gets = method == "GET" || method == "HEAD";
    const std::string methods = methods_at(path);
    if (methods.empty() ? gets && !asks_model : (methods == "POST" ? method == "POST" : gets))
      return std::nullopt;              // routing reports unknown paths
    if (asks_model && methods.empty())  // not by routing, whose expression would recurse for each character
      return Refused{
          404, "unknown_task",
          fmt::format("there is no task {}; there are {}", path.substr(4, 40), fmt::join(kTaskNames, ", "))};
    if (methods.empty()) return Refused{404, "not_found", fmt::format("there is nothing at {}", path)};
    return Refused{405, "method_not_allowed", fmt::format("allowed methods: {}", methods), "Allow", methods};
  }

  // With a std::atomic<std::shared_ptr>, GCC's threads would spin while one that is at it has no core.
  std::shared_ptr<const std::string> current_token() const {
    const std::scoped_lock lock(token_mutex_);
    return token_;
  }

  // The comparison takes constant time, so that timing does not reveal how many characters are right.
  bool has_token(std::string_view given) const {
    const std::shared_ptr<const std::string> token = current_token();
    if (token->empty()) return true;
    constexpr std::string_view kBearer = "Bearer ";
    if (!same_but_for_case(given.substr(0, kBearer.size()), kBearer)) return false;
    given.remove_prefix(kBearer.size());
    return given.size() == token->size() && CRYPTO_memcmp(given.data(), token->data(), given.size()) == 0;
  }

  void answer_query(const httplib::Request& request, httplib::Response& answer) {
    try {
      const std::string name = request.matches[1];
      const TaskKind task = task_named(name).value();  // refused_at_once() lets no other name through
      if (!engine_.facts().can(task))
        throw Refusal(
            404, "task_not_served",
            fmt::format("this service does not {}; it does {}", name, engine_.facts().task_names()));
      task_ = task;
      const AnswerWriter& writer =
          outputs_.choose(task, request.get_param_value("format"), request.get_header_value("Accept"));
      auto pending = std::make_shared<Pending>(
          Job(inputs_.read(task, {.type = type_, .bytes = request.body, .forsaken = asked_->forsaken.get()}),
              asked_->forsaken.get()),
          *asked_, writer);
      engine_.prepare(pending->job);
      pending->job.on_done = [this, at = pending.get()](std::exception_ptr failure) {
        at->failure = std::move(failure);
        connections_.resume(*at->request.exchange);
      };
      pending_ = std::move(pending);
    } catch (const Refusal&) {
      set_error(answer, std::current_exception());
    }
  }

  // Adds a JSON error to statuses that httplib sets itself.
  void explain(const httplib::Request& request, httplib::Response& answer) const {
    if (!answer.body.empty()) return;
    switch (answer.status) {
      case 404:
        return set_error(answer, 404, "not_found", fmt::format("there is nothing at {}", request.path));
      case 414:
        return set_error(answer, 414, "path_too_long", "the request line is too long");
      default:
        return set_error(answer, answer.status, "bad_request", "the request is malformed");
    }
  }

  const HttpOptions options_;
  const Inputs& inputs_;
  const Engine& engine_;
  BatchQueue& queue_;
  const Outputs& outputs_;
  Metrics& metrics_;
  mutable std::mutex token_mutex_;
  std::shared_ptr<const std::string> token_;
  const Proxies proxies_;
  const Origins origins_;
  bool guards_host_ = false;  // refuse requests for names that are not the service's
  RateLimit limit_;
  std::unique_ptr<AccessLog> log_;
  // These five describe the request that this thread answers.
  static thread_local std::optional<TaskKind> task_;
  static thread_local int status_;
  static thread_local std::string_view type_;
  static thread_local const WholeRequest* asked_;
  static thread_local std::shared_ptr<Pending> pending_;  // null: the answer is what httplib writes
  Connections connections_;
};

thread_local std::optional<TaskKind> HttpService::Server::task_;
thread_local int HttpService::Server::status_ = 0;
thread_local std::string_view HttpService::Server::type_;
thread_local const WholeRequest* HttpService::Server::asked_ = nullptr;
thread_local std::shared_ptr<HttpService::Server::Pending> HttpService::Server::pending_;

HttpService::HttpService(const HttpOptions& options, const Inputs& inputs, const Engine& engine,
                         BatchQueue& queue, const Outputs& outputs, Metrics& metrics)
    : server_(std::make_unique<Server>(options, inputs, engine, queue, outputs, metrics)) {}
HttpService::~HttpService() = default;
int HttpService::port() const { return server_->connections().port(); }
std::size_t HttpService::run() { return server_->connections().run(); }
void HttpService::renew_certificate() { server_->connections().renew_certificate(); }
void HttpService::renew_token(const std::string& token) { server_->renew_token(token); }
void HttpService::reopen_log() { server_->reopen_log(); }
void HttpService::end() { server_->connections().end(); }

}  // namespace conclave::service
