#include "recipes/service/connections.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <chrono>
#include <ctime>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

#include "federated/identity.h"
#include "recipes/service/channel.h"
#include "tests/data/temporary_directory.h"

namespace conclave::service {
namespace {

// Timeout in seconds for events that take a moment on an idle machine.
constexpr double kLongEnough = 30;

// Waits until `state` is true; false at the timeout.
template <class State>
bool in_time(const State& state) {
  for (const double start = now(); !state();) {
    if (now() - start > kLongEnough) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return true;
}

// Answers with the method of the request in brackets; a request with "close" in it ends the connection.
WholeAnswer echo(const WholeRequest& request) {
  return {"[" + request.bytes.substr(0, request.bytes.find(' ')) + "]",
          request.bytes.find("close") != std::string::npos};
}

// A request with "held" in it keeps its thread until `go_on` is set.
struct Held {
  std::atomic<int> count = 0;
  std::atomic<bool> go_on = false;
  WholeAnswer answer(const WholeRequest& request) {
    if (request.bytes.find("held") != std::string::npos) {
      ++count;
      in_time([&] { return go_on.load(); });
    }
    return echo(request);
  }
  Connections::Handler handler() {
    return [this](const WholeRequest& request) { return answer(request); };
  }
  bool come_to(int wanted) const {
    return in_time([&] { return count == wanted; });
  }
};

std::string status_alone(int status, std::string_view /*code*/, std::string_view /*reason*/,
                         const std::string& /*address*/, const RequestHead* /*head*/) {
  return std::to_string(status);
}

struct Running {
  explicit Running(const ConnectionOptions& options, const Connections::Handler& handler = echo,
                   const Connections::Admission& admission = {},
                   const Connections::Refuser& refuser = status_alone)
      : connections(options, handler, refuser, admission), loop([this] { cut_off = connections.run(); }) {}
  ~Running() { end(); }
  void end() {
    connections.end();
    if (loop.joinable()) loop.join();
  }
  Connections connections;
  std::size_t cut_off = 0;
  std::thread loop;
};

class Client {
 public:
  explicit Client(const Connections& connections) : socket_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in to{};
    to.sin_family = AF_INET, to.sin_port = htons(static_cast<std::uint16_t>(connections.port()));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected = ::connect(socket_, reinterpret_cast<sockaddr*>(&to), sizeof to) == 0;
    const timeval patience{.tv_sec = static_cast<time_t>(kLongEnough), .tv_usec = 0};
    ::setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  }
  ~Client() { ::close(socket_); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  void send(std::string_view bytes) const { ::send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL); }
  /// False once the service has closed the connection.
  bool send_all(std::string_view bytes) const {
    for (ssize_t sent = 0; !bytes.empty(); bytes.remove_prefix(static_cast<std::size_t>(sent)))
      if ((sent = ::send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL)) < 0) return false;
    return true;
  }
  void finish() const { ::shutdown(socket_, SHUT_WR); }
  /// Reads `size` bytes, or fewer if the connection ends or times out.
  std::string receive(std::size_t size) const {
    std::string bytes(size, '\0');
    std::size_t have = 0;
    for (ssize_t got = 1; have < size && got > 0; have += static_cast<std::size_t>(std::max<ssize_t>(got, 0)))
      got = ::recv(socket_, bytes.data() + have, size - have, 0);
    return bytes.substr(0, have);
  }
  bool connected = false;

 private:
  int socket_;
};

// A TLS client that chooses the size of its records.
class SecureClient {
 public:
  explicit SecureClient(const Connections& connections) : plain_(connections), tls_(SSL_new(context_.get())) {
    SSL_set_bio(tls_.get(), BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
    while (SSL_connect(tls_.get()) != 1)
      if (!send_written() || !receive_some()) break;
    send_written();
  }

  void record(std::string_view bytes) { SSL_write(tls_.get(), bytes.data(), static_cast<int>(bytes.size())); }
  /// False once the service has closed the connection.
  bool send_written() {
    char* bytes = nullptr;
    const auto size = static_cast<std::size_t>(BIO_get_mem_data(SSL_get_wbio(tls_.get()), &bytes));
    const bool sent = plain_.send_all({bytes, size});
    BIO_reset(SSL_get_wbio(tls_.get()));
    return sent;
  }
  std::string receive(std::size_t size) {
    std::string bytes(size, '\0');
    int got = 0;
    while ((got = SSL_read(tls_.get(), bytes.data(), static_cast<int>(size))) <= 0 && receive_some()) {
    }
    return bytes.substr(0, static_cast<std::size_t>(std::max(got, 0)));
  }

 private:
  bool receive_some() {
    const std::string byte = plain_.receive(1);
    return BIO_write(SSL_get_rbio(tls_.get()), byte.data(), static_cast<int>(byte.size())) > 0;
  }

  TlsContext context_{SSL_CTX_new(TLS_client_method())};
  Client plain_;
  std::unique_ptr<SSL, Freed<SSL_free>> tls_;
};

constexpr std::string_view kGet = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
constexpr std::string_view kPost = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
constexpr std::string_view kHeld = "GET /held HTTP/1.1\r\nHost: a\r\n\r\n";
constexpr std::string_view kClose = "GET /close HTTP/1.1\r\nHost: a\r\n\r\n";

// Sends the head of a request with a body of `size` bytes. The answer to Expect shows that the head was read.
void send_head(const Client& client, std::size_t size = 3) {
  client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: " + std::to_string(size) +
              "\r\nExpect: 100-continue\r\n\r\n");
  REQUIRE(client.receive(25) == "HTTP/1.1 100 Continue\r\n\r\n");
}

TEST_CASE("requests are answered in order, also pipelined ones", "[service]") {
  Held held;
  Running running({.port = 0, .threads = 4, .linger_seconds = 0.05}, held.handler());
  const Client client(running.connections);
  for (const std::string_view request : {kGet, kPost, kGet}) client.send(request);
  CHECK(client.receive(16) == "[GET][POST][GET]");
  client.send(kGet.substr(0, 7));
  client.send(kGet.substr(7));
  CHECK(client.receive(5) == "[GET]");
  for (const char* line : {"\r", "\n\r\n"}) client.send(line);
  client.send("\r\n\r\n" + std::string(kPost) + "\r\n" + std::string(kGet));
  CHECK(client.receive(11) == "[POST][GET]");
  client.send(kClose);
  CHECK(client.receive(6) == "[GET]");  // then the connection ends
}

TEST_CASE("a request whose client leaves or stops sending is forsaken", "[service]") {
  std::atomic<int> begun = 0, forsaken = 0, others = 0;
  Running running({.port = 0, .threads = 4, .linger_seconds = 0.05}, [&](const WholeRequest& request) {
    if (request.bytes.find("held") == std::string::npos) return echo(request);
    ++begun;
    in_time([&] { return others == 1 || *request.forsaken; });
    forsaken += *request.forsaken;
    return echo(request);
  });
  const Client stays(running.connections), half(running.connections);
  {
    const Client leaves(running.connections);
    for (const Client* client : {&stays, &half, &leaves}) client->send(kHeld);
    half.finish();
    REQUIRE(in_time([&] { return begun == 3; }));
  }
  CHECK(in_time([&] { return forsaken == 2; }));
  CHECK(half.receive(6).empty());
  others = 1;
  CHECK(stays.receive(5) == "[GET]");
  CHECK(forsaken == 2);
}

TEST_CASE("at the limit of connections, a new one waits while all others are busy", "[service]") {
  Held held;
  Running running({.port = 0, .threads = 4, .connections = 2, .linger_seconds = 0.05}, held.handler());
  const Client first(running.connections), second(running.connections);
  for (const Client* client : {&first, &second}) client->send("GET /held/close HTTP/1.1\r\nHost: a\r\n\r\n");
  REQUIRE(held.come_to(2));
  const Client third(running.connections);
  third.send(kGet);
  const std::clock_t began = std::clock();
  std::this_thread::sleep_for(std::chrono::milliseconds(400));
  CHECK(running.connections.open() == 2);
  CHECK(std::clock() - began < CLOCKS_PER_SEC / 5);  // the service does not poll
  held.go_on = true;
  for (const Client* client : {&first, &second, &third}) CHECK(client->receive(5) == "[GET]");
}

TEST_CASE("idle and slow connections do not block requests of others", "[service]") {
  Running running({.port = 0, .threads = 1, .request_seconds = 0.5, .linger_seconds = 0.05});
  std::vector<std::unique_ptr<Client>> idle;
  for (int i = 0; i < 50; ++i) {
    idle.push_back(std::make_unique<Client>(running.connections));
    if (i % 2 == 0) idle.back()->send("GET /");
  }
  const Client client(running.connections);
  client.send(kGet);
  CHECK(client.receive(5) == "[GET]");
  CHECK(idle[0]->receive(4) == "408");  // after request_seconds
  CHECK(idle[1]->receive(1).empty());
}

TEST_CASE("admission is decided before the body is sent", "[service]") {
  std::atomic<int> looked = 0, from_here = 0, admitted = 0;
  const auto admission = [&](const RequestHead& head, const std::string& address) {
    ++looked;
    from_here += address == "127.0.0.1";
    return head.authorization == "right" ? "" : "not you";
  };
  Running running(
      {.port = 0},
      [&](const WholeRequest& request) {
        admitted += request.admitted;
        return echo(request);
      },
      admission);
  const std::string asks =
      "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 9\r\nAuthorization: ";
  const Client wrong(running.connections), right(running.connections), whole(running.connections);
  wrong.send(asks + "wrong\r\n\r\n");
  CHECK(wrong.receive(100) == "not you");  // without 100 Continue; then the connection ends
  right.send(asks + "right\r\n\r\n");
  const std::string go_on = "HTTP/1.1 100 Continue\r\n\r\n";
  CHECK(right.receive(go_on.size()) == go_on);
  right.send("123");
  right.send("456789");
  CHECK(right.receive(6) == "[POST]");
  whole.send(kGet);
  CHECK(whole.receive(5) == "[GET]");
  CHECK(looked == 2);
  CHECK(from_here == 2);
  CHECK(admitted == 1);
}

TEST_CASE("when buffers are full, the connection with the most bytes is refused", "[service]") {
  Running running({.port = 0, .buffered = 10'000});
  const auto head = [](int size) {
    return "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: " + std::to_string(size) + "\r\n\r\n";
  };
  const Client large(running.connections), small(running.connections);
  large.send(head(12'000) + std::string(8000, 'a'));
  small.send(head(4000) + std::string(3000, 'b'));
  CHECK(large.receive(10) == "503");
  small.send(std::string(1000, 'b'));
  CHECK(small.receive(6) == "[POST]");
  const Client next(running.connections);
  next.send(head(8000) + std::string(8000, 'c'));
  CHECK(next.receive(6) == "[POST]");
}

TEST_CASE("an endless sender does not delay others and is disconnected in time", "[service]") {
  const TemporaryDirectory folder;
  CertificateAuthority::create("test").issue(folder.path(), std::string(kCoordinatorName), 1);
  Running running({.port = 0,
                   .certificate = folder.path() + "/certificate.pem",
                   .key = folder.path() + "/key.pem",
                   .limits = {.head = 100, .body = 10},
                   .threads = 1,
                   .request_seconds = 2,
                   .linger_seconds = 0.05});
  SecureClient endless(running.connections);
  endless.record("nonsense\r\n\r\n");
  std::atomic<bool> begun = false, over = false, let_go = false;
  std::thread sends([&] {
    for (const double start = now(); !let_go && now() - start < 4; begun = true) {
      for (int i = 0; i < 4096; ++i) endless.record("a");
      let_go = !endless.send_written();
    }
    over = true;
  });
  while (!begun) std::this_thread::yield();
  SecureClient other(running.connections);
  other.record(kGet);
  REQUIRE(other.send_written());
  CHECK(other.receive(5) == "[GET]");
  CHECK_FALSE(over);
  sends.join();
  CHECK(let_go);
}

TEST_CASE("at the limit of connections, a new one replaces an idle one", "[service]") {
  Held held;
  Running running({.port = 0, .threads = 2, .connections = 3, .linger_seconds = 0.05}, held.handler());
  const Client at_work(running.connections), one(running.connections), other(running.connections);
  at_work.send(kHeld);
  REQUIRE((held.come_to(1) && in_time([&] { return running.connections.open() == 3; })));
  const Client newcomer(running.connections);
  newcomer.send(kGet);
  CHECK(newcomer.receive(5) == "[GET]");
  held.go_on = true;
  CHECK(at_work.receive(5) == "[GET]");
  CHECK(running.connections.open() <= 3);
}

TEST_CASE("at the limit of connections, an idle one is closed before a sending one", "[service]") {
  Running running({.port = 0, .threads = 1, .connections = 2, .linger_seconds = 0.05});
  const Client idle(running.connections), sends(running.connections);
  idle.send(kGet);
  CHECK(idle.receive(5) == "[GET]");
  send_head(sends);
  const Client newcomer(running.connections);
  newcomer.send(kGet);
  CHECK(newcomer.receive(5) == "[GET]");
  CHECK(idle.receive(1).empty());
  sends.send("abc");
  CHECK(sends.receive(6) == "[POST]");
}

TEST_CASE("a request has its time of arrival and whether another one follows", "[service]") {
  Held held;
  std::vector<double> waited;
  std::vector<bool> followed;
  Running running({.port = 0, .threads = 1, .linger_seconds = 0.05}, [&](const WholeRequest& request) {
    waited.push_back(seconds_since(request.arrived));
    followed.push_back(request.followed);
    return held.answer(request);
  });
  const Client first(running.connections);
  first.send(kHeld);
  {
    const Client last(running.connections);
    REQUIRE((held.come_to(1) && in_time([&] { return running.connections.open() == 2; })));
    const Client second(running.connections);
    second.send(std::string(kGet) + std::string(kPost) + std::string(kGet.substr(0, 7)));
    last.send("nonsense\r\n\r\n");
    REQUIRE(last.receive(4) == "400");  // `second` sent earlier, so it was read, too
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    held.go_on = true;
    CHECK(second.receive(11) == "[GET][POST]");
  }
  running.end();
  CHECK(waited.at(1) > 0.05);  // it waited for the only thread
  CHECK(followed == std::vector{false, true, false});
}

TEST_CASE("an invalid request is refused", "[service]") {
  Running running({.port = 0, .limits = {.head = 100, .body = 10}, .threads = 1, .linger_seconds = 0.05});
  for (const auto& [bytes, status] :
       {std::pair("nonsense\r\n\r\n", "400"),
        std::pair("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n", "413")}) {
    const Client client(running.connections);
    client.send(bytes);
    CHECK(client.receive(4) == status);
  }
}

TEST_CASE("requests share a memory limit, including those being answered", "[service]") {
  Held held;
  Running running({.port = 0, .threads = 1, .buffered = 1000, .linger_seconds = 0.05}, held.handler());
  const auto large = [](std::string_view path) {
    return "POST " + std::string(path) + " HTTP/1.1\r\nHost: a\r\nContent-Length: 800\r\n\r\n" +
           std::string(800, 'a');
  };
  const Client at_work(running.connections), other(running.connections);
  at_work.send(large("/held"));
  REQUIRE(held.come_to(1));
  other.send(large("/"));
  CHECK(other.receive(4) == "503");
  held.go_on = true;
  CHECK(at_work.receive(6) == "[POST]");
  at_work.send(large("/"));
  CHECK(at_work.receive(6) == "[POST]");
}

TEST_CASE("answers that clients never read are bounded, and the oldest make room", "[service]") {
  constexpr std::size_t kAnswer = std::size_t{8} << 20;  // more than sockets hold
  Running running({.port = 0, .threads = 2, .buffered = 5 * kAnswer / 2, .linger_seconds = 0.05},
                  [](const WholeRequest&) {
                    return WholeAnswer{std::string(kAnswer, 'a'), true};
                  });
  std::deque<Client> clients;
  for (int i = 0; i < 6; ++i) {
    const Client& client = clients.emplace_back(running.connections);
    client.send(kGet);
    REQUIRE(client.receive(1) == "a");  // its answer has begun, so it is counted
  }
  CHECK(in_time([&] { return running.connections.open() <= 2; }));
  CHECK(clients.front().receive(kAnswer - 1).size() < kAnswer - 1);
  CHECK(clients.back().receive(kAnswer - 1).size() == kAnswer - 1);
}

TEST_CASE("requests that wait for their answers keep no thread", "[service]") {
  std::mutex mutex;
  std::vector<Exchange*> waiting;
  Connections* connections = nullptr;
  Running running({.port = 0, .threads = 1, .linger_seconds = 0.05}, [&](const WholeRequest& request) {
    if (request.bytes.starts_with("POST")) {  // resumed before its handler has returned
      connections->resume(*request.exchange);
    } else {
      const std::lock_guard lock(mutex);
      waiting.push_back(request.exchange);
    }
    return WholeAnswer{.later = [&] { return echo(request); }};
  });
  connections = &running.connections;
  std::deque<Client> clients;
  for (int i = 0; i < 5; ++i) clients.emplace_back(running.connections).send(kGet);
  REQUIRE(in_time([&] {
    const std::lock_guard lock(mutex);
    return waiting.size() == 5;
  }));
  const Client other(running.connections);
  other.send(kPost);
  CHECK(other.receive(6) == "[POST]");
  for (Exchange* exchange : waiting) running.connections.resume(*exchange);
  for (const Client& client : clients) CHECK(client.receive(5) == "[GET]");
}

TEST_CASE("a request that is resumed comes before those that no thread has taken", "[service]") {
  Held held;
  std::atomic<Exchange*> waiting = nullptr;
  std::vector<std::string> begun;  // by the only thread
  Running running({.port = 0, .threads = 1, .linger_seconds = 0.05}, [&](const WholeRequest& request) {
    if (!request.bytes.starts_with("POST")) {
      begun.push_back("another request");
      return held.answer(request);
    }
    waiting = request.exchange;
    return WholeAnswer{.later = [&] {
      begun.push_back("the answer");
      return echo(request);
    }};
  });
  const Client waits(running.connections), holds(running.connections), queued(running.connections),
      invalid(running.connections);
  waits.send(kPost);
  REQUIRE(in_time([&] { return waiting != nullptr; }));
  holds.send(kHeld);
  REQUIRE(held.come_to(1));
  queued.send(kGet);
  invalid.send("nonsense\r\n\r\n");
  REQUIRE(invalid.receive(4) == "400");  // `queued` sent earlier, so it was read, too
  running.connections.resume(*waiting);
  held.go_on = true;
  CHECK(waits.receive(6) == "[POST]");
  CHECK(queued.receive(5) == "[GET]");
  running.end();
  CHECK(begun == std::vector<std::string>{"another request", "the answer", "another request"});
}

TEST_CASE("without memory for an answer, only that connection is closed", "[service]") {
  const auto no_memory = [](auto&&...) -> std::string { throw std::bad_alloc(); };
  Running running(
      {.port = 0, .threads = 1, .request_seconds = 0.5, .linger_seconds = 0.05},
      [&](const WholeRequest& request) {
        if (request.bytes.starts_with("PUT")) no_memory();
        return echo(request);
      },
      {}, no_memory);
  for (const char* sent : {"GET /", "nonsense\r\n\r\n", "PUT / HTTP/1.1\r\nHost: a\r\n\r\n"}) {
    const Client client(running.connections);
    client.send(sent);
    CHECK(client.receive(1).empty());
  }
  const Client client(running.connections);
  client.send(kGet);
  CHECK(client.receive(5) == "[GET]");
  CHECK_FALSE(WholeRequest{}.forsaken);  // nothing is allocated where a request is dropped
}

TEST_CASE("without memory to make room for an answer, the service goes on", "[service]") {
  constexpr std::size_t kAnswer = std::size_t{8} << 20;  // more than sockets hold
  const auto handler = [](const WholeRequest& request) {
    if (!request.bytes.starts_with("PUT")) return echo(request);
    std::this_thread::sleep_for(std::chrono::milliseconds(100));  // all of `large` is read meanwhile
    return WholeAnswer{std::string(kAnswer, 'a'), true};
  };
  Running running({.port = 0, .threads = 1, .buffered = 3 * kAnswer - 1, .linger_seconds = 0.05}, handler, {},
                  [](auto&&...) -> std::string { throw std::bad_alloc(); });
  const Client large(running.connections), asks(running.connections), other(running.connections);
  send_head(large, 2 * kAnswer);
  REQUIRE(large.send_all(std::string(2 * kAnswer - 1, 'a')));
  asks.send("PUT / HTTP/1.1\r\nHost: a\r\n\r\n");
  asks.receive(1);
  other.send(kGet);
  CHECK(other.receive(5) == "[GET]");
}

TEST_CASE("when draining takes too long, the number of cut connections is returned", "[service]") {
  Held held;
  Running running({.port = 0, .threads = 1, .linger_seconds = 0, .drain_seconds = 0.05}, held.handler());
  const Client at_work(running.connections), waits(running.connections), begun(running.connections),
      answered(running.connections), idle(running.connections);
  answered.send(kClose);  // stays connected, so the service waits for it
  CHECK(answered.receive(5) == "[GET]");
  at_work.send(kHeld);
  REQUIRE(held.come_to(1));
  send_head(waits);
  waits.send("abc");
  send_head(begun);
  running.end();
  held.go_on = true;
  CHECK(running.cut_off == 3);
}

TEST_CASE("at the end, requests that have begun are answered, and idle ones closed", "[service]") {
  Held held;
  Running running({.port = 0, .threads = 4, .linger_seconds = 1}, held.handler());
  const Client at_work(running.connections), idle(running.connections), begun(running.connections);
  at_work.send(kHeld);
  REQUIRE(held.come_to(1));
  send_head(begun);
  running.connections.end();
  const Client late(running.connections);
  late.send(kGet);
  CHECK(late.receive(5) == "[GET]");
  held.go_on = true;
  CHECK(at_work.receive(5) == "[GET]");
  begun.send("abc");
  CHECK(begun.receive(6) == "[POST]");
  CHECK(idle.receive(1).empty());
  CHECK_FALSE(Client(running.connections).connected);
}

}  // namespace
}  // namespace conclave::service
