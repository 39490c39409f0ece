#include "recipes/service/connections.h"

#include <arpa/inet.h>
#include <linux/filter.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <list>
#include <mutex>
#include <optional>
#include <system_error>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/clock.h"
#include "core/error.h"
#include "core/print_line.h"
#include "recipes/service/channel.h"
#include "recipes/service/client_address.h"

namespace conclave::service {
namespace {

Clock::time_point in(double count) { return Clock::now() + seconds(count); }

class Descriptor {
 public:
  explicit Descriptor(int number = -1) : number_(number) {}
  ~Descriptor() { close(); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return number_; }
  int release() { return std::exchange(number_, -1); }
  void close() {
    if (number_ >= 0) ::close(number_);
    number_ = -1;
  }

 private:
  int number_;
};

int listen_on(const std::string& host, int port) {
  addrinfo wanted{}, *found = nullptr;
  wanted.ai_family = AF_UNSPEC, wanted.ai_socktype = SOCK_STREAM, wanted.ai_flags = AI_PASSIVE;
  const int status = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &wanted, &found);
  require(status == 0, "--host {}: {}", host, gai_strerror(status));
  const std::unique_ptr<addrinfo, Freed<freeaddrinfo>> addresses(found);
  int reason = 0;
  for (const addrinfo* at = found; at; at = at->ai_next) {
    const int listener = ::socket(at->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (listener < 0) continue;
    const int on = 1;
    ::setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (::bind(listener, at->ai_addr, at->ai_addrlen) == 0 && ::listen(listener, 1024) == 0) return listener;
    reason = errno;
    ::close(listener);
  }
  fail("{} port {}: cannot listen there: {}; choose another by --host and --port", host, port,
       std::strerror(reason));
}

// Makes the kernel drop new connection attempts; they are refused once the listener is closed. Closing the
// listener at once would reset the connections that the kernel has already established.
void drop_newcomers(int listener) {
  sock_filter nothing{.code = BPF_RET | BPF_K, .jt = 0, .jf = 0, .k = 0};
  const sock_fprog filter{.len = 1, .filter = &nothing};
  ::setsockopt(listener, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof filter);
}

// Raises the limit of open descriptors to what the connections need, or to the most that the system allows.
void allow_descriptors(std::size_t connections) {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  const rlim_t wanted = std::min<rlim_t>(limit.rlim_max, connections + 256);
  if (limit.rlim_cur >= wanted) return;
  limit.rlim_cur = wanted;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

sockaddr_storage bound_address(int listener) {
  sockaddr_storage bound{};
  socklen_t size = sizeof bound;
  ::getsockname(listener, reinterpret_cast<sockaddr*>(&bound), &size);
  return bound;
}

bool listens_at_loopback(int listener) {
  const std::string address = client_address(bound_address(listener));
  return address.starts_with("127.") || address == "::1";
}

int port_of(int listener) {
  sockaddr_storage bound = bound_address(listener);
  return ntohs(bound.ss_family == AF_INET ? reinterpret_cast<sockaddr_in&>(bound).sin_port
                                          : reinterpret_cast<sockaddr_in6&>(bound).sin6_port);
}

struct Connection {
  Connection(Descriptor& accepted, SSL_CTX* context, std::string from, const FrameLimits& limits)
      : channel(accepted.release(), context), address(std::move(from)), frame(limits) {}

  // What the connection does next. Between requests it is `reading`, with `read` empty.
  enum class Phase : std::uint8_t { shaking_hands, reading, answering, writing, lingering };
  Channel channel;
  std::string address;
  Phase phase = Phase::shaking_hands;
  std::string read;
  std::size_t handed = 0;  // bytes of the request that is being answered or waits for a thread
  RequestFrame frame;
  std::string answer;
  std::size_t written = 0;
  bool admitted = false;  // Admission has accepted the request that is being read
  bool close = false;     // close the connection once the answer is written
  /// WholeRequest::forsaken of the request that is being answered
  std::shared_ptr<std::atomic<bool>> forsaken;
  Clock::time_point deadline, lingers_until;
  Clock::time_point quiet_since = Clock::now();  // since when an idle connection is idle
  std::uint32_t events = 0;                      // events that epoll watches for

  /// Whether a request has begun to arrive and its answer is not sent yet.
  bool owes() const {
    return (phase == Phase::answering && !*forsaken) || phase == Phase::writing ||
           (phase == Phase::reading && !read.empty());
  }
  bool idle() const { return phase == Phase::reading && read.empty(); }
  bool waits_for_client() const { return phase != Phase::answering && phase != Phase::writing; }
};

// What `step` returns; false where it throws, such as for want of memory. That closes the connection that it
// is for, and leaves all others open.
template <class Step>
bool goes_on(const Step& step) noexcept {
  try {
    return step();
  } catch (const std::exception& error) {
    complain("a connection is closed: ", error.what());
    return false;
  }
}

}  // namespace

// Made when a request is handed over, so that its answer needs no further memory on its way back.
struct Exchange {
  std::uint64_t number;  // of the connection
  WholeRequest request;
  std::optional<WholeAnswer> answer = {};    // none: the handler failed
  bool resumed = false, waits = false;       // resume() was called; the handler returned WholeAnswer::later
  std::list<Exchange>::iterator place = {};  // where it waits for resume()
};

class Connections::Loop {
 public:
  Loop(const ConnectionOptions& options, Handler handler, Refuser refuser, Admission admission);
  ~Loop();

  int port() const { return port_; }
  bool is_local() const { return local_; }
  std::size_t run();
  void renew_certificate();
  void end();
  bool ending() const { return ending_; }
  void resume(Exchange& exchange);
  std::size_t open() const { return open_; }

 private:
  static constexpr std::uint64_t kListener = 0, kWoken = 1;
  static constexpr int kPieces = 64;  // reads of a connection before the other connections get their turn
  using Number = std::uint64_t;       // identifies a connection
  using Phase = Connection::Phase;

  void watch(int descriptor, Number number, std::uint32_t events, int operation);
  void watch(Number number, Connection& connection, std::uint32_t events);
  void accept_all();
  Connection* add_connection(Number number, Descriptor& accepted, const sockaddr_storage& from);
  void listen_again();
  std::optional<Number> least_missed() const;
  void close(Number number);
  /// Returns false where the connection is to be closed.
  bool advance(Number number, Connection& connection);
  bool take_turns(Number number, Connection& connection);
  bool hand_over(Number number, Connection& connection);
  void make_room();
  std::string refusal(const Connection& connection, int status, const char* code, const char* reason) const {
    return refuser_(status, code, reason, connection.address, connection.frame.head());
  }
  void start_writing(Connection& connection, std::string answer, bool close);
  void skip_empty_lines(Connection& connection);
  void drop_answer(Connection& connection);
  void start_reading(Connection& connection);
  void take_answers();
  void sweep();
  bool ended();
  void work();
  bool has_work() const { return !requests_.empty() || !resumed_.empty(); }
  void wake_one();
  void stop_work();

  const ConnectionOptions options_;
  const Handler handler_;
  const Refuser refuser_;
  const Admission admission_;
  Descriptor listener_, epoll_, woken_;
  const int port_;
  const bool local_;
  std::unordered_map<Number, std::unique_ptr<Connection>> connections_;
  Number next_ = 2;
  std::size_t buffered_ = 0;  // bytes of requests and of answers
  std::size_t unsent_ = 0;    // the part of them in answers, sent bytes of unfinished ones included
  bool deaf_ = false;         // the listener is not watched until the next sweep
  Clock::time_point next_sweep_ = Clock::now(), end_began_{};
  std::atomic<std::size_t> open_{0};
  std::atomic<bool> ending_{false};

  std::mutex mutex_;  // guards the members below
  TlsContext context_;
  std::condition_variable changed_;
  std::list<Exchange> requests_, later_, resumed_, answers_;  // resumed_ comes before requests_
  std::size_t idle_ = 0;                                      // workers without work
  bool waking_ = false;                                       // one of them is waking up
  bool over_ = false;
  std::vector<std::thread> workers_;
};

Connections::Loop::Loop(const ConnectionOptions& options, Handler handler, Refuser refuser,
                        Admission admission)
    : options_(options),
      handler_(std::move(handler)),
      refuser_(std::move(refuser)),
      admission_(std::move(admission)),
      listener_(listen_on(options.host, options.port)),
      epoll_(::epoll_create1(EPOLL_CLOEXEC)),
      woken_(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)),
      port_(port_of(listener_.get())),
      local_(listens_at_loopback(listener_.get())) {
  require(epoll_.get() >= 0 && woken_.get() >= 0, "serve: {}", std::strerror(errno));
  renew_certificate();
  allow_descriptors(options.connections);
  watch(listener_.get(), kListener, EPOLLIN, EPOLL_CTL_ADD);
  watch(woken_.get(), kWoken, EPOLLIN, EPOLL_CTL_ADD);
  try {
    while (workers_.size() < options_.threads) workers_.emplace_back([this] { work(); });
  } catch (const std::system_error& error) {
    stop_work();
    fail("serve: needs {} threads, could start {}: {}; raise the system's limit", options_.threads,
         workers_.size(), error.what());
  }
}

Connections::Loop::~Loop() { stop_work(); }

void Connections::Loop::stop_work() {
  {
    const std::lock_guard lock(mutex_);
    over_ = true;
  }
  changed_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void Connections::Loop::renew_certificate() {
  if (options_.certificate.empty()) return;
  TlsContext anew = tls_context(options_.certificate, options_.key);
  const std::lock_guard lock(mutex_);
  context_ = std::move(anew);  // open connections keep a reference to the old context
}

void Connections::Loop::end() {
  ending_ = true;
  const std::uint64_t one = 1;
  [[maybe_unused]] const auto put = ::write(woken_.get(), &one, sizeof one);
}

void Connections::Loop::work() {
  for (;;) {
    std::unique_lock lock(mutex_);
    for (++idle_; !over_ && !has_work(); waking_ = false) changed_.wait(lock);
    --idle_;
    if (over_) return;
    std::list<Exchange>& from = resumed_.empty() ? requests_ : resumed_;
    std::list<Exchange> taken;
    taken.splice(taken.end(), from, from.begin());
    wake_one();
    lock.unlock();
    Exchange& exchange = taken.front();
    goes_on([&] {
      std::function<WholeAnswer()> later;
      if (exchange.answer) later = std::move(exchange.answer->later);
      exchange.answer.reset();
      exchange.answer = later ? later() : handler_(exchange.request);
      return true;
    });
    lock.lock();
    if (exchange.answer && exchange.answer->later) {
      std::list<Exchange>& to = exchange.resumed ? resumed_ : later_;
      exchange.place = taken.begin();
      exchange.waits = true;
      to.splice(to.end(), taken);
      continue;
    }
    lock.unlock();
    exchange.request = {};
    lock.lock();
    answers_.splice(answers_.end(), taken);
    const bool first = answers_.size() == 1;  // else an earlier answer has already woken the loop
    lock.unlock();
    const std::uint64_t one = 1;
    if (first) [[maybe_unused]]
      const auto put = ::write(woken_.get(), &one, sizeof one);
  }
}

void Connections::Loop::resume(Exchange& exchange) {
  const std::lock_guard lock(mutex_);
  exchange.resumed = true;
  if (!exchange.waits) return;
  resumed_.splice(resumed_.end(), later_, exchange.place);
  wake_one();
}

// Wakes a thread if there is work for it. One at a time: the woken thread wakes the next, if there is still
// work then. So much short work in a row wakes few threads. To be called under mutex_.
void Connections::Loop::wake_one() {
  if (waking_ || idle_ == 0 || !has_work()) return;
  waking_ = true;
  changed_.notify_one();
}

void Connections::Loop::watch(int descriptor, Number number, std::uint32_t events, int operation) {
  epoll_event event{};
  event.events = events;
  event.data.u64 = number;
  ::epoll_ctl(epoll_.get(), operation, descriptor, &event);
}

void Connections::Loop::watch(Number number, Connection& connection, std::uint32_t events) {
  if (connection.events == events) return;
  connection.events = events;
  watch(connection.channel.descriptor(), number, events, EPOLL_CTL_MOD);
}

std::size_t Connections::Loop::run() {
  std::array<epoll_event, 256> events;
  while (!ended()) {
    const int count = ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), 100);
    for (int i = 0; i < count; ++i) {
      const Number number = events[static_cast<std::size_t>(i)].data.u64;
      if (number == kListener) {
        accept_all();
      } else if (number == kWoken) {
        std::uint64_t some = 0;
        [[maybe_unused]] const auto got = ::read(woken_.get(), &some, sizeof some);
        take_answers();
      } else if (const auto found = connections_.find(number); found != connections_.end()) {
        Connection& connection = *found->second;
        if (connection.phase == Phase::answering) {
          // Only errors and hang-ups are reported in this phase, and they would be reported again and again.
          *connection.forsaken = true;
          watch(connection.channel.descriptor(), number, 0, EPOLL_CTL_DEL);
        } else if (!advance(number, connection)) {
          close(number);
        }
      }
    }
    if (Clock::now() >= next_sweep_) sweep();
  }
  return static_cast<std::size_t>(
      std::ranges::count_if(connections_, [](const auto& one) { return one.second->owes(); }));
}

// Returns null where there is no memory for the connection.
Connection* Connections::Loop::add_connection(Number number, Descriptor& accepted,
                                              const sockaddr_storage& from) {
  Connection* added = nullptr;
  goes_on([&] {
    std::string address = client_address(from);
    const std::lock_guard lock(mutex_);
    auto made = std::make_unique<Connection>(accepted, context_.get(), std::move(address), options_.limits);
    added = connections_.emplace(number, std::move(made)).first->second.get();
    return true;
  });
  return added;
}

// Where there is no room for a new connection, the listener is not watched until the next sweep, and new
// connections wait in the kernel: epoll would otherwise report them again and again.
void Connections::Loop::accept_all() {
  const auto turn_deaf = [&] {
    deaf_ = true;
    watch(listener_.get(), kListener, 0, EPOLL_CTL_MOD);
  };
  for (;;) {
    const bool full = connections_.size() >= options_.connections;
    const std::optional<Number> in_the_way = full ? least_missed() : std::nullopt;
    if (full && !in_the_way) return turn_deaf();
    sockaddr_storage from{};
    socklen_t size = sizeof from;
    Descriptor accepted(
        ::accept4(listener_.get(), reinterpret_cast<sockaddr*>(&from), &size, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (accepted.get() < 0) {
      const int reason = errno;
      if (reason == ECONNABORTED || reason == EINTR) continue;
      if (reason != EMFILE && reason != ENFILE && reason != ENOMEM && reason != ENOBUFS) return;
      const std::optional<Number> least = least_missed();
      if (!least) return turn_deaf();
      close(*least);
      continue;
    }
    const int on = 1;
    ::setsockopt(accepted.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (full) close(*in_the_way);
    const Number number = next_++;
    Connection* connection = add_connection(number, accepted, from);
    if (!connection) continue;
    connection->deadline = in(options_.request_seconds);
    connection->events = EPOLLIN;
    watch(connection->channel.descriptor(), number, EPOLLIN, EPOLL_CTL_ADD);
    open_ = connections_.size();
    if (!advance(number, *connection)) close(number);
  }
}

// The connection to close when there are too many: the one that has been idle for longest, or, if none is
// idle, the one with the earliest deadline among those that wait for their clients. nullopt where all
// connections are being answered.
std::optional<Connections::Loop::Number> Connections::Loop::least_missed() const {
  const auto rank = [](const Connection& connection) {
    return std::pair(!connection.idle(), connection.idle() ? connection.quiet_since : connection.deadline);
  };
  const std::pair<const Number, std::unique_ptr<Connection>>* chosen = nullptr;
  for (const auto& one : connections_)
    if (one.second->waits_for_client() && (!chosen || rank(*one.second) < rank(*chosen->second)))
      chosen = &one;
  return chosen ? std::optional(chosen->first) : std::nullopt;
}

void Connections::Loop::listen_again() {
  if (!std::exchange(deaf_, false) || listener_.get() < 0) return;
  watch(listener_.get(), kListener, EPOLLIN, EPOLL_CTL_MOD);
}

void Connections::Loop::close(Number number) {
  const auto found = connections_.find(number);
  if (found == connections_.end()) return;
  buffered_ -= found->second->read.size() + found->second->handed;
  drop_answer(*found->second);
  connections_.erase(found);
  open_ = connections_.size();
}

bool Connections::Loop::advance(Number number, Connection& connection) {
  return goes_on([&] { return take_turns(number, connection); });
}

bool Connections::Loop::take_turns(Number number, Connection& connection) {
  const auto waits = [&](Channel::Result result) {
    if (result == Channel::Result::closed) return false;
    watch(number, connection, result == Channel::Result::wants_write ? EPOLLOUT : EPOLLIN);
    return true;
  };
  // After kPieces reads, other connections and the deadlines get their turn, however fast this client sends.
  // epoll reports bytes that remain in the socket again, but not bytes that TLS has already read from it.
  int pieces = 0;
  const auto had_its_turn = [&] { return pieces++ >= kPieces && !connection.channel.holds_bytes(); };
  for (;;) {
    switch (connection.phase) {
      case Phase::shaking_hands: {
        const Channel::Result result = connection.channel.shake_hands();
        if (result != Channel::Result::done) return waits(result);
        connection.phase = Phase::reading;
        break;
      }
      case Phase::reading: {
        if (hand_over(number, connection)) break;
        if (had_its_turn()) return waits(Channel::Result::wants_read);
        const bool began = !connection.read.empty();
        const std::size_t before = connection.read.size();
        const Channel::Result result = connection.channel.read(connection.read);
        buffered_ += connection.read.size() - before;
        if (result != Channel::Result::done) return waits(result);
        skip_empty_lines(connection);
        if (!began && !connection.read.empty()) connection.deadline = in(options_.request_seconds);
        if (buffered_ > options_.buffered) make_room();
        break;
      }
      case Phase::answering:
        watch(number, connection, EPOLLRDHUP);
        return true;
      case Phase::writing: {
        std::string_view rest = std::string_view(connection.answer).substr(connection.written);
        const std::size_t before = rest.size();
        const Channel::Result result = connection.channel.write(rest);
        connection.written += before - rest.size();
        if (result != Channel::Result::done) return waits(result);
        if (!rest.empty()) break;
        drop_answer(connection);
        if (connection.close) {
          // If the socket were closed at once, bytes that the client still sends would cause a reset, which
          // may destroy the answer before the client has read it.
          connection.channel.finish();
          connection.phase = Phase::lingering;
          connection.deadline = in(1);
          connection.lingers_until = in(options_.request_seconds);
        } else {
          start_reading(connection);
        }
        break;
      }
      case Phase::lingering: {
        if (had_its_turn()) return waits(Channel::Result::wants_read);
        std::string ignored;
        const Channel::Result result = connection.channel.read(ignored);
        if (result != Channel::Result::done) return waits(result);
        connection.deadline = std::min(in(1), connection.lingers_until);
        break;
      }
    }
  }
}

// Hands a complete request to the workers or starts to write a refusal. Returns false where the request is
// incomplete.
bool Connections::Loop::hand_over(Number number, Connection& connection) {
  if (connection.read.empty()) return false;
  switch (connection.frame.look(connection.read)) {
    case RequestFrame::State::incomplete:
      if (connection.frame.head() && !connection.admitted && admission_) {
        if (std::string answer = admission_(*connection.frame.head(), connection.address); !answer.empty()) {
          start_writing(connection, std::move(answer), true);
          return true;
        }
        connection.admitted = true;
      }
      if (connection.frame.wants_to_be_told()) {
        // The result is ignored: nothing else is being sent, so the socket has room for these few bytes.
        std::string_view go_on = "HTTP/1.1 100 Continue\r\n\r\n";
        connection.channel.write(go_on);
      }
      return false;
    case RequestFrame::State::refused:
      start_writing(
          connection,
          refusal(connection, connection.frame.status(), connection.frame.code(), connection.frame.reason()),
          true);
      return true;
    case RequestFrame::State::complete:
      break;
  }
  const std::size_t size = connection.frame.size();
  WholeRequest request{.address = connection.address,
                       .admitted = std::exchange(connection.admitted, false),
                       .head = *connection.frame.head(),
                       .forsaken = std::make_shared<std::atomic<bool>>(false)};
  std::string rest = connection.read.substr(size);  // a copy has no more capacity than it needs
  connection.read.resize(size);
  request.bytes = std::exchange(connection.read, std::move(rest));
  skip_empty_lines(connection);
  connection.handed = size;
  connection.forsaken = request.forsaken;
  request.followed = RequestFrame(options_.limits).look(connection.read) == RequestFrame::State::complete;
  std::list<Exchange> made;
  Exchange& exchange = made.emplace_back(Exchange{.number = number, .request = std::move(request)});
  exchange.request.exchange = &exchange;
  connection.phase = Phase::answering;
  const std::lock_guard lock(mutex_);
  requests_.splice(requests_.end(), made);
  wake_one();
  return true;
}

// While answers are more than half of what is held, closes the connection whose answer has been there for
// longest: its client does not read. Then refuses the connection with the largest incomplete request, which
// need not be the one that has just sent bytes, so that small requests are still answered.
void Connections::Loop::make_room() {
  const auto best_of = [&](Phase phase, const auto& better) {
    const std::pair<const Number, std::unique_ptr<Connection>>* best = nullptr;
    for (const auto& one : connections_)
      if (one.second->phase == phase && (!best || better(*one.second, *best->second))) best = &one;
    return best;
  };
  while (buffered_ > options_.buffered && unsent_ > buffered_ / 2) {
    const auto* const oldest = best_of(Phase::writing, [](const Connection& a, const Connection& b) {
      return a.deadline < b.deadline;  // as both have had write_seconds
    });
    close(oldest->first);
  }
  if (buffered_ <= options_.buffered) return;
  const auto* const most = best_of(
      Phase::reading, [](const Connection& a, const Connection& b) { return a.read.size() > b.read.size(); });
  if (!most || most->second->read.empty()) return;
  Connection& connection = *most->second;
  start_writing(connection, refusal(connection, 503, "busy", "too much is being sent; try again"), true);
  watch(most->first, connection, EPOLLOUT);
}

void Connections::Loop::start_writing(Connection& connection, std::string answer, bool close) {
  buffered_ -= close ? connection.read.size() : 0;
  if (close) connection.read = {};
  connection.answer = std::move(answer);
  buffered_ += connection.answer.size();
  unsent_ += connection.answer.size();
  connection.written = 0;
  connection.close = close;
  connection.phase = Phase::writing;
  connection.deadline = in(options_.write_seconds);
}

// To be called where `read` has got more bytes or begins another request.
void Connections::Loop::skip_empty_lines(Connection& connection) {
  const std::size_t size = RequestFrame::empty_lines(connection.read);
  connection.read.erase(0, size);
  buffered_ -= size;
}

void Connections::Loop::drop_answer(Connection& connection) {
  buffered_ -= connection.answer.size();
  unsent_ -= connection.answer.size();
  connection.answer = {};
}

void Connections::Loop::start_reading(Connection& connection) {
  connection.phase = Phase::reading;
  connection.frame = RequestFrame(options_.limits);
  connection.admitted = false;
  connection.quiet_since = Clock::now();
  connection.deadline = in(connection.read.empty() ? options_.idle_seconds : options_.request_seconds);
}

void Connections::Loop::take_answers() {
  std::list<Exchange> answered;
  {
    const std::lock_guard lock(mutex_);
    answered.swap(answers_);
  }
  for (Exchange& exchange : answered) {
    const Number number = exchange.number;
    std::optional<WholeAnswer>& answer = exchange.answer;
    const auto found = connections_.find(number);
    if (found == connections_.end()) continue;
    Connection& connection = *found->second;
    buffered_ -= std::exchange(connection.handed, 0);
    if (answer) start_writing(connection, std::move(answer->bytes), answer->close);
    if (!answer || *connection.forsaken || !advance(number, connection)) close(number);
    const bool has_room = goes_on([&] {
      if (buffered_ > options_.buffered) make_room();
      return true;
    });
    if (!has_room) close(number);
  }
}

void Connections::Loop::sweep() {
  const Clock::time_point now = Clock::now();
  next_sweep_ = now + std::chrono::milliseconds(100);
  listen_again();
  const auto quiet_for = [&](const Connection& connection) {
    return std::chrono::duration<double>(now - connection.quiet_since).count();
  };
  for (auto next = connections_.begin(); next != connections_.end();) {
    const Number number = next->first;
    Connection& connection = *next++->second;
    const bool late = connection.phase != Phase::answering &&
                      (connection.deadline < now || (listener_.get() < 0 && connection.idle() &&
                                                     quiet_for(connection) > options_.linger_seconds));
    if (!late) continue;
    // A client that has sent part of a request gets an answer that says why it is refused.
    const bool tells = connection.phase == Phase::reading && !connection.read.empty();
    const bool stays =
        tells && goes_on([&] {
          start_writing(connection,
                        refusal(connection, 408, "too_slow", "the request took too long to arrive"), true);
          return take_turns(number, connection);
        });
    if (!stays) close(number);
  }
}

// Whether run() is to return. After end(), new connections are served for linger_seconds, for clients that do
// not know yet that the service ends; then the listener and idle connections are closed, and the others once
// they are answered.
bool Connections::Loop::ended() {
  if (!ending_) return false;
  if (end_began_ == Clock::time_point()) end_began_ = Clock::now();
  const double passed = seconds_since(end_began_);
  if (passed >= options_.linger_seconds && listener_.get() >= 0) {
    drop_newcomers(listener_.get());
    accept_all();
    listener_.close();
  }
  return passed >= options_.drain_seconds || (listener_.get() < 0 && connections_.empty());
}

Connections::Connections(const ConnectionOptions& options, Handler handler, Refuser refuser,
                         Admission admission)
    : loop_(std::make_unique<Loop>(options, std::move(handler), std::move(refuser), std::move(admission))) {}
Connections::~Connections() = default;
int Connections::port() const { return loop_->port(); }
bool Connections::is_local() const { return loop_->is_local(); }
std::size_t Connections::run() { return loop_->run(); }
void Connections::renew_certificate() { loop_->renew_certificate(); }
void Connections::end() { loop_->end(); }
bool Connections::ending() const { return loop_->ending(); }
void Connections::resume(Exchange& exchange) { loop_->resume(exchange); }
std::size_t Connections::open() const { return loop_->open(); }

}  // namespace conclave::service
