#include "recipes/service/load.h"

#include <httplib.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <mutex>
#include <thread>

#include "core/clock.h"
#include "core/error.h"
#include "core/random.h"

namespace conclave::service {
namespace {

// Pause after a failed connection, for example when the service has ended: without it, a client would count
// as many failures as its processor can produce.
constexpr std::chrono::milliseconds kPause{50};

httplib::Client client_of(const LoadOptions& options) {
  const std::string end = options.url.ends_with('/') ? "/" : "";
  httplib::Client client(options.url.substr(0, options.url.size() - end.size()));
  client.set_keep_alive(true);
  client.set_tcp_nodelay(true);
  client.set_read_timeout(60);
  client.enable_server_certificate_verification(!options.insecure);
  if (!options.ca.empty()) client.set_ca_cert_path(options.ca.c_str());
  return client;
}

class Generator {
 public:
  explicit Generator(const LoadOptions& options) : options_(options), start_(Clock::now()) {}

  LoadResult run() {
    std::vector<std::thread> clients;
    for (int i = 0; i < options_.clients; ++i) clients.emplace_back([this] { ask_on(); });
    for (std::thread& client : clients) client.join();
    result_.seconds = seconds_since(start_);
    std::ranges::sort(result_.latencies);
    return std::move(result_);
  }

 private:
  // Seconds from the start to when the next request is due, in a Poisson process of the given rate. To be
  // called once per request, under mutex_.
  double next_due() {
    const RandomStream stream{.seed = 1};
    due_ -= std::log(1 - stream.uniform(drawn_++)) / options_.rate;
    return due_;
  }

  void ask_on() {
    httplib::Client client = client_of(options_);
    httplib::Headers headers;
    if (!options_.token.empty()) headers.emplace("Authorization", "Bearer " + options_.token);
    LoadResult mine;
    for (;;) {
      double due = seconds_since(start_);
      std::size_t number = 0;
      {
        const std::lock_guard lock(mutex_);
        number = asked_++;
        if (options_.rate > 0) due = next_due();
      }
      if (due >= options_.seconds) break;
      std::this_thread::sleep_until(start_ + seconds(due));
      const auto answer = client.Post(options_.path, headers,
                                      options_.bodies[number % options_.bodies.size()], "application/json");
      if (!answer) {
        ++mine.failed;
        std::this_thread::sleep_for(kPause);
      } else if (answer->status != 200) {
        ++mine.refused;
        mine.refused_with = answer->status;
      } else {
        ++mine.answered;
        mine.latencies.push_back(seconds_since(start_) - due);
      }
    }
    const std::lock_guard lock(mutex_);
    if (mine.refused > 0) result_.refused_with = mine.refused_with;
    result_.answered += mine.answered, result_.refused += mine.refused, result_.failed += mine.failed;
    result_.latencies.insert(result_.latencies.end(), mine.latencies.begin(), mine.latencies.end());
  }

  const LoadOptions& options_;
  const Clock::time_point start_;
  std::mutex mutex_;
  std::size_t asked_ = 0;
  double due_ = 0;
  std::uint64_t drawn_ = 0;
  LoadResult result_;
};

}  // namespace

double LoadResult::percentile(double share) const {
  if (latencies.empty()) return 0;
  const auto last = static_cast<double>(latencies.size() - 1);
  return latencies[static_cast<std::size_t>(std::ceil(share * last))];
}

LoadResult load(const LoadOptions& options) {
  require(!options.bodies.empty() && options.clients >= 1 && options.seconds > 0,
          "load: expected at least one body, at least one client, and more than 0 seconds");
  httplib::Client client = client_of(options);
  const httplib::Result alive =
      client.is_valid() ? client.Get("/healthz") : httplib::Result(nullptr, httplib::Error::Connection);
  require(alive || alive.error() != httplib::Error::SSLServerVerification,
          "{}: its certificate is signed by an unknown authority; give --ca, or --insecure", options.url);
  require(!!alive, "{}: no service answers there", options.url);
  return Generator(options).run();
}

}  // namespace conclave::service
