#include <malloc.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <thread>

#include "core/clock.h"
#include "core/file.h"
#include "core/polling.h"
#include "core/print_line.h"
#include "core/text.h"
#include "recipes/commands/commands.h"
#include "recipes/service/model_engine.h"
#include "recipes/training/core_share.h"

namespace conclave::commands {
namespace {

using namespace service;

std::string token_in(const std::string& file) {
  if (file.empty()) return "";
  const std::string content = read_file(file, "write a token into it, of 16 characters or more");
  const std::string token(trimmed(content, " \t\r\n"));
  constexpr std::string_view kOfTokens =  // RFC 6750's b64token
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~+/=";
  require(
      token.size() >= 16 && token.find_first_not_of(kOfTokens) == std::string::npos,
      "--token-file {}: a token is one word of 16 characters or more, of letters, digits and -._~+/=", file);
  return token;
}

// Answers what is queued until the queue is closed.
void answer_all(BatchQueue& queue, Engine& engine, Metrics& metrics, bool alone) {
  while (EngineBatch* batch = queue.next()) {
    try {
      engine.step(*batch);
      queue.end_step();
      if (batch->under_way) continue;
      metrics.computed(batch->jobs, batch->work);
    } catch (const std::exception& error) {
      if (!alone) throw;  // the other ranks still compute this step
      queue.end_step();
      complain(error.what());
      for (Job* job : batch->jobs) job->done(std::current_exception());
      continue;
    }
    for (Job* job : batch->jobs) job->done();
  }
}

// The file and its folder: clients need not know where that folder is.
std::string short_name(const std::filesystem::path& checkpoint) {
  return (checkpoint.parent_path().filename() / checkpoint.filename()).string();
}

// Memory for decoding images goes back to the system, instead of being kept for each thread.
void share_memory() {
  mallopt(M_ARENA_MAX, 4);
  mallopt(M_MMAP_THRESHOLD, 1 << 20);
}

std::string address_of(const HttpOptions& http, int port) {
  const ConnectionOptions& connections = http.connections;
  const std::string& host = connections.host;
  return fmt::format("{}://{}:{}/", connections.certificate.empty() ? "http" : "https",
                     host.find(':') == std::string::npos ? host : "[" + host + "]", port);
}

// New keys and certificates, a new token, and a log that was moved away do not need a restart. Returns false
// if the service has none of them.
bool renew(HttpService& service, const ServeArguments& arguments) {
  const auto attempt = [&](const std::string& option, const char* what, const auto& again) {
    if (option.empty()) return false;
    try {
      again();
      print_line(stdout, what, " again, as asked by SIGHUP");
    } catch (const std::exception& error) {
      complain(error.what(), "; the former stays in use");
    }
    return true;
  };
  const ConnectionOptions& connections = arguments.http.connections;
  const bool certified =
      attempt(connections.certificate, "certificate and key are read", [&] { service.renew_certificate(); });
  const bool asked = attempt(arguments.token_file, "the token is read",
                             [&] { service.renew_token(token_in(arguments.token_file)); });
  return attempt(arguments.http.log, "the log's file is opened", [&] { service.reopen_log(); }) ||
         certified || asked;
}

}  // namespace

int serve(const ServeArguments& arguments, const ProcessEnvironment& surroundings,
          const MpiSession& session) {
  require(arguments.http.connections.certificate.empty() == arguments.http.connections.key.empty(),
          "--certificate and --key: give both, or neither");
  HttpOptions http = arguments.http;
  http.token = token_in(arguments.token_file);
  share_memory();
  DeviceWorld chosen = world_for(arguments.device, session);
  set_threads(0, surroundings, *chosen.world);
  const ProcessGrid grid(std::move(chosen.world), 0);
  LoadedModel loaded(arguments.checkpoint, grid, arguments.overrides);
  ModelEngine engine(loaded, grid, short_name(loaded.checkpoint()), arguments.tasks, arguments.limits);
  if (grid.world().rank() != 0) {
    engine.follow();
    return 0;
  }

  // Escaped in JSON, a text of Inputs::kMostText bytes takes six times as many.
  constexpr std::size_t kMostOfTexts = std::size_t{1} << 20;
  static_assert(kMostOfTexts > 6 * Inputs::kMostText);
  std::size_t& body = http.connections.limits.body;
  body = arguments.max_body.value_or(engine.input_shape().image.size() > 0 ? body : kMostOfTexts);
  http.connections.buffered = std::max(http.connections.buffered, 2 * body);
  // Threads that read requests and write answers; what waits for the engine needs none. An image that waits
  // until there is room for its pixels does, so each of those that may wait has one: a quarter as many as
  // requests that can wait or be computed (in two batches, one of which takes steps).
  const auto queries = static_cast<std::size_t>(arguments.limits.waiting + 2 * arguments.limits.jobs);
  const std::size_t images = engine.input_shape().image.size() > 0 ? (queries + 3) / 4 : 0;
  http.connections.threads =
      std::clamp<std::size_t>(std::thread::hardware_concurrency(), 1, 32) + 16 + images;
  BatchQueue queue(arguments.limits);
  const Inputs inputs(engine.input_shape(), images);
  const Outputs outputs;
  Metrics metrics;
  HttpService service(http, inputs, engine, queue, outputs, metrics);
  const double planned = static_cast<double>(engine.planned()) / (1 << 20);
  fmt::print("serving {} of {} on {} rank{}{}: {}\n", engine.facts().task_names(), loaded.checkpoint(),
             grid.world().size(), grid.world().size() == 1 ? "" : "s",
             planned > 0 ? fmt::format(", activations {:.1f} MiB", planned) : "",
             address_of(http, service.port()));
  std::fflush(stdout);

  std::jthread signals = polling(std::chrono::milliseconds(20), [&] {
    const bool ends =
        surroundings.is_interrupted() || queue.closed() ||
        (surroundings.takes_hang_up() && !renew(service, arguments) && !surroundings.ignores_hang_up);
    if (ends) service.end();
    return !ends;
  });
  std::size_t cut_off = 0;
  std::atomic<bool> idle = false;  // for good: the engine has ended
  std::thread connections([&] {
    cut_off = service.run();
    inputs.decoding().close();  // what still waits is of connections that were cut off
    queue.close();
    if (cut_off == 0) return;
    complain(fmt::format(
        "{} connections were cut off before they had their answer, as --drain-seconds {:g} were over",
        cut_off, http.connections.drain_seconds));
    // No client waits for the engine's current work, which may take longer than a supervisor waits before it
    // kills the process.
    for (const double began = now(); !idle && now() - began < 1;)
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    if (idle) return;
    std::fflush(stdout);
    if (grid.world().size() > 1) session.abort(1);
    ::_exit(1);
  });
  // Connections' threads, which run anywhere, would else push two of the engine's threads onto one core for
  // some milliseconds, in which each of a batch's hundreds of loops waits for one thread to spin in vain.
  if (grid.device() == Device::cpu) bind_threads();
  try {
    answer_all(queue, engine, metrics, grid.world().size() == 1);
  } catch (const std::exception& error) {  // else clients, and the other ranks, would wait in vain
    complain(error.what());
    session.abort(1);
  }
  idle = true;
  connections.join();
  signals.join();
  if (cut_off > 0) return 1;
  fmt::print("all requests are answered\n");
  return 0;
}

}  // namespace conclave::commands
