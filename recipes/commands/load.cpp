#include "recipes/service/load.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <nlohmann/json.hpp>

#include "core/file.h"
#include "core/json_text.h"
#include "core/random.h"
#include "core/text.h"
#include "recipes/commands/commands.h"
#include "recipes/service/base64.h"

namespace conclave::commands {
namespace {

using namespace service;

// A thousand texts of common words, most of which are one token for most tokenizers.
std::vector<std::string> made_up_texts(std::int64_t words) {
  constexpr std::array<std::string_view, 32> kWords{
      "the",  "of",   "a",     "in",   "person", "small", "that", "with", "or",    "by",   "tree",
      "used", "for",  "large", "from", "plant",  "water", "his",  "as",   "body",  "one",  "having",
      "work", "part", "make",  "food", "made",   "any",   "city", "time", "being", "place"};
  std::vector<std::string> texts;
  for (std::uint32_t number = 0; number < 1000; ++number) {
    const RandomStream stream{.seed = 7, .step = number};
    std::string& text = texts.emplace_back();
    for (std::int64_t word = 0; word < words; ++word)
      text.append(word == 0 ? "" : " ")
          .append(kWords[stream.below(kWords.size(), static_cast<std::uint64_t>(word))]);
  }
  return texts;
}

std::vector<std::string> lines_of(const std::string& file) {
  std::vector<std::string> lines;
  std::string content = read_file(file, "give a file with a text in each line");
  for (std::size_t begin = 0; begin < content.size();) {
    const std::size_t end = std::min(content.find('\n', begin), content.size());
    if (end > begin) lines.push_back(content.substr(begin, end - begin));
    begin = end + 1;
  }
  require(!lines.empty(), "{}: it has no texts", file);
  return lines;
}

// Requests with texts, images, or both. Of texts with images, a thousand at most, because each has an image.
std::vector<std::string> bodies_of(const LoadArguments& arguments) {
  std::vector<std::string> texts, images, bodies;
  if (!arguments.texts.empty())
    texts = lines_of(arguments.texts);
  else if (arguments.images.empty())
    texts = made_up_texts(arguments.words);
  for (const std::string& file : arguments.images)
    images.push_back(to_base64(read_file(file, "name an image")));
  const std::size_t count =
      images.empty() ? texts.size() : std::max(images.size(), std::min<std::size_t>(texts.size(), 1000));
  for (std::size_t i = 0; i < count; ++i) {
    nlohmann::json body;
    if (!texts.empty()) body["text"] = texts[i % texts.size()];
    if (!images.empty()) body["image"] = images[i % images.size()];
    bodies.push_back(json_text(body));
  }
  return bodies;
}

LoadResult tell(const LoadOptions& options) {
  LoadResult result = load(options);
  const auto ms = [&](double share) { return 1e3 * result.percentile(share); };
  fmt::print(
      "{}: {}: {:.1f} answers/s; p50 {:.2f} ms, p90 {:.2f} ms, p99 {:.2f} ms, longest {:.2f} ms; {} "
      "refused, {} failed\n",
      options.url,
      options.rate > 0 ? fmt::format("{:g} requests/s", options.rate)
                       : fmt::format("{} clients", options.clients),
      result.throughput(), ms(0.5), ms(0.9), ms(0.99), ms(1), result.refused, result.failed);
  std::fflush(stdout);
  require(result.answered > 0, "{}{}: nothing was answered; {}", options.url, options.path,
          result.refused > 0 ? fmt::format("the status of what was refused is {}", result.refused_with)
                             : "connections failed");
  return result;
}

// How long 99 of 100 answers to a lone client take at most, in seconds: the middle of three measurements of
// each service, taken in turn. One number for all, because a lone client waits for no batch, and because a
// single disturbance of the machine decides such a percentile.
// `best` [urls] receives the most answers per second of each.
double lone_latency(LoadOptions options, const std::vector<std::string>& urls, std::vector<double>& best) {
  options.clients = 1;
  best.assign(urls.size(), 0);
  std::vector<double> latencies;
  for (int round = 0; round < 3; ++round)
    for (std::size_t i = 0; i < urls.size(); ++i) {
      options.url = urls[i];
      const LoadResult result = tell(options);
      latencies.push_back(result.percentile(0.99));
      best[i] = std::max(best[i], result.throughput());
    }
  const auto middle = latencies.begin() + std::ssize(latencies) / 2;
  std::ranges::nth_element(latencies, middle);
  return *middle;
}

// Raises `best`, the answers per second of each service, to the most over all numbers of clients at which 99
// of 100 answers take at most four times as long as `alone`, in seconds. The services take turns, so that
// changes of the machine's speed concern all.
void saturate(LoadOptions options, const std::vector<std::string>& urls, double alone,
              std::vector<double>& best) {
  const double most = 4 * alone;
  std::vector<bool> keeps_up(urls.size(), true);
  const auto more = [](unsigned clients) { return clients + std::max(std::bit_floor(clients) / 4, 1U); };
  for (unsigned clients = 2; clients <= 256 && std::ranges::find(keeps_up, true) != keeps_up.end();
       clients = more(clients))  // 2, 3, ... 8, 10, 12, 14, 16, 20 ...
    for (std::size_t i = 0; i < urls.size(); ++i) {
      if (!keeps_up[i]) continue;
      options.clients = static_cast<int>(clients), options.url = urls[i];
      const LoadResult result = tell(options);
      // Refusals are fast, and are no answers.
      const bool answers = 100 * (result.refused + result.failed) <= result.answered;
      if (answers && result.percentile(0.99) <= most) best[i] = std::max(best[i], result.throughput());
      keeps_up[i] = answers && result.percentile(0.5) <= most;
    }
  for (std::size_t i = 0; i < urls.size(); ++i)
    fmt::print("{}: at most {:.1f} answers/s with p99 within 4 x {:.2f} ms\n", urls[i], best[i], 1e3 * alone);
}

}  // namespace

int load_service(const LoadArguments& arguments) {
  LoadOptions options = arguments.options;
  options.path = "/v1/" + arguments.task;
  options.clients = arguments.clients.value_or(options.rate > 0 ? 256 : 1);
  if (!arguments.token_file.empty())
    options.token = trimmed(read_file(arguments.token_file, "write the token into it"), " \t\r\n");
  const TaskTraits& task = traits_of(task_named(arguments.task).value());
  require(task.input != TaskInput::image || !arguments.images.empty(),
          "load: {} takes images; name some: --images *.png", arguments.task);
  options.bodies = bodies_of(arguments);
  std::vector<double> best(arguments.urls.size());
  if (arguments.saturates) {
    const double alone = lone_latency(options, arguments.urls, best);
    saturate(options, arguments.urls, alone, best);
  } else {
    for (std::size_t i = 0; i < best.size(); ++i) {
      options.url = arguments.urls[i];
      best[i] = tell(options).throughput();
    }
  }
  if (best.size() > 1)
    fmt::print("the last answers {:.2f} x as many per second as the first\n", best.back() / best.front());
  return 0;
}

}  // namespace conclave::commands
