// The HTTP front of the service on one rank, with an engine that needs no model.
#include "recipes/service/http_service.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <chrono>
#include <thread>

#include "core/clock.h"
#include "tests/ranks/allocations.h"
#include "tests/ranks/test_world.h"

namespace conclave::service {
namespace {

using Catch::Matchers::Contains;

struct CountingReader : JsonReader {
  std::string_view type() const override { return "application/counted"; }
  Fields read(const Body& body) const override {
    ++reads;
    return JsonReader::read(body);
  }
  mutable std::atomic<int> reads = 0;
};

class EvenEngine : public Engine {
 public:
  EvenEngine() {
    facts_.class_names = {"a", "b"};
    facts_.images = true;
    facts_.tasks[static_cast<std::size_t>(TaskKind::classify)] = true;
  }
  const ModelFacts& facts() const override { return facts_; }
  void prepare(Job& job) const override {
    ++prepared;
    while (holds) std::this_thread::yield();
    job.answer.probabilities.reserve(2);
    job.rows = job.cost = 1;
  }
  void finish(Job& /*job*/) const override {}
  void step(EngineBatch& batch) override {
    for (Job* job : batch.jobs) job->answer.probabilities.assign({0.5F, 0.5F});
  }

  mutable std::atomic<int> prepared = 0;
  std::atomic<bool> holds = false;  // keeps the thread of a query

 private:
  ModelFacts facts_;
};

HttpOptions on_one_thread() {
  HttpOptions options;
  options.connections = {.port = 0, .threads = 1, .linger_seconds = 0.05};
  return options;
}

struct Service {
  ~Service() {
    engine.holds = false;
    http.end();
    connections.join();
  }
  // Answers one batch.
  void compute() {
    EngineBatch* const batch = queue.next();
    engine.step(*batch);
    queue.end_step();
    for (Job* job : batch->jobs) job->done();
  }
  EvenEngine engine;
  BatchQueue queue{{}};
  Inputs inputs{{.image = {4, 4, 3}, .classifies_images = true}};
  Outputs outputs;
  Metrics metrics;
  HttpOptions options = on_one_thread();
  HttpService http{options, inputs, engine, queue, outputs, metrics};
  std::thread connections{[this] { http.run(); }};
};

class Asking {
 public:
  Asking(int port, const std::string& request) : socket_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in to{};
    to.sin_family = AF_INET, to.sin_port = htons(static_cast<std::uint16_t>(port));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const timeval patience{.tv_sec = 30, .tv_usec = 0};
    ::setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    REQUIRE(::connect(socket_, reinterpret_cast<sockaddr*>(&to), sizeof to) == 0);
    ::send(socket_, request.data(), request.size(), MSG_NOSIGNAL);
  }
  ~Asking() { ::close(socket_); }
  Asking(const Asking&) = delete;
  Asking& operator=(const Asking&) = delete;

  /// Whether the service has sent something, or closed the connection.
  bool is_over() const {
    char byte = 0;
    return ::recv(socket_, &byte, 1, MSG_PEEK | MSG_DONTWAIT) >= 0 || errno != EAGAIN;
  }
  /// All that the service sends until it closes the connection.
  std::string answer() const {
    std::string bytes(1 << 16, '\0');
    std::size_t have = 0;
    for (ssize_t got = 1; got > 0; have += static_cast<std::size_t>(std::max<ssize_t>(got, 0)))
      got = ::recv(socket_, bytes.data() + have, bytes.size() - have, 0);
    return bytes.substr(0, have);
  }

 private:
  int socket_;
};

constexpr const char* kHead = " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n";

// Without JSON and text, because the destructor of nlohmann::json allocates, and SentencePiece is not made
// for allocations that fail.
std::string query() {
  const std::string png = encode_png({{2, 2, 3}, std::vector<std::uint8_t>(12)}),
                    body = "--x\r\nContent-Disposition: form-data; name=\"image\"\r\n\r\n" + png +
                           "\r\n--x--\r\n";
  return std::string("POST /v1/classify?format=csv") + kHead +
         "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: " + std::to_string(body.size()) +
         "\r\n\r\n" + body;
}

std::string health() { return std::string("GET /healthz") + kHead + "\r\n"; }

TEST_CASE("whichever allocation fails, only that request does", "[service]") {
  if (test_world().size() > 1) return;
  Service service;
  bool failed = true;
  for (std::size_t which = 1; failed; ++which) {
    CAPTURE(which);
    fail_allocation(which);
    const Asking client(service.http.port(), query());
    for (const double began = now(); service.queue.waiting() == 0 && !client.is_over() && now() - began < 30;)
      std::this_thread::yield();
    if (service.queue.waiting() > 0) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      REQUIRE_FALSE(client.is_over());  // as the queue still has the job
      service.compute();
    }
    const std::string answer = client.answer();
    failed = fail_allocation(0);
    const bool says_why = answer.starts_with("HTTP/1.1 500");
    CHECK((answer.starts_with("HTTP/1.1 200") || (failed && (says_why || answer.empty()))));
    REQUIRE(Asking(service.http.port(), health()).answer().starts_with("HTTP/1.1 200"));
  }
}

TEST_CASE("a request that is forsaken before a thread takes it is not read", "[service]") {
  if (test_world().size() > 1) return;
  Service service;
  const int port = service.http.port();
  auto made = std::make_unique<CountingReader>();
  const CountingReader& reader = *made;
  service.inputs.add(std::move(made));
  const auto everything_sent_is_seen = [&] {
    REQUIRE(Asking(port, "nonsense\r\n\r\n").answer().starts_with("HTTP/1.1 400"));
  };
  service.engine.holds = true;
  const Asking first(port, query());
  for (const double began = now(); service.engine.prepared == 0 && now() - began < 30;)
    std::this_thread::yield();
  {
    const Asking leaves(port, std::string("POST /v1/classify") + kHead +
                                  "Content-Type: application/counted\r\nContent-Length: 2\r\n\r\n{}");
    everything_sent_is_seen();
  }
  everything_sent_is_seen();
  service.engine.holds = false;
  service.compute();
  CHECK(first.answer().starts_with("HTTP/1.1 200"));
  CHECK(Asking(port, health()).answer().starts_with("HTTP/1.1 200"));  // by the only thread, later
  CHECK(reader.reads == 0);
  CHECK_THAT(service.metrics.text({}), Contains("requests_total{status=\"499\",task=\"classify\"} 1"));
}

}  // namespace
}  // namespace conclave::service
