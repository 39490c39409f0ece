// How much of a coordinator a site can occupy, by many calls or by silence.
#include <catch2/catch.hpp>
#include <chrono>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "core/clock.h"
#include "core/file.h"
#include "federated/transport/rate_limited_log.h"
#include "federated/transport/upload_trial.h"
#include "tests/data/temporary_directory.h"

using namespace conclave;

namespace {

double seconds_of(auto f) {
  const Clock::time_point began = Clock::now();
  f();
  return seconds_since(began);
}

// Replaces the list atomically, so that no reader sees half of it.
void replace_list(const TemporaryDirectory& folder, const std::string& text) {
  std::filesystem::rename(folder.write("new_sites.txt", text), folder.path() + "/sites.txt");
}

constexpr const char* kEditedList = "# Certificates\nmember 12";  // as an editor may leave it for a moment
constexpr std::uint64_t kTrialElements = 3'000'000;               // three chunks

}  // namespace

TEST_CASE("thousands of calls of a site do not stop others, and end with its revocation") {
  const TemporaryDirectory folder;
  UploadTrial trial(folder.path(), kTrialElements);
  trial.deliver();
  trial.hinder(40, 100);  // more calls than the server has threads
  trial.open_round();
  CHECK(seconds_of([&] { trial.deliver(); }) < 20);
  trial.revoke();
  UploadTrial::Ended ended;
  CHECK(seconds_of([&] { ended = trial.wait_for_end(); }) < 20);
  CHECK(ended.refused >= 3900);
  CHECK(ended.cut >= 1);
  CHECK(ended.cut <= 8);
  trial.open_round();
  trial.deliver();
}

TEST_CASE("a stalled upload is cancelled, and idle connections do no harm") {
  const TemporaryDirectory folder;
  UploadTrial trial(folder.path(), kTrialElements, std::chrono::milliseconds(200));
  trial.hinder(200, 0);
  trial.hinder(1, 2);
  CHECK(trial.wait_for_end().cut == 2);
  trial.deliver();
}

TEST_CASE("a call above the limit is refused before the list is read") {
  const TemporaryDirectory folder;
  UploadTrial trial(folder.path(), kTrialElements);
  trial.hinder(1, 8);
  const std::string list = read_file(folder.path() + "/sites.txt", "");
  replace_list(folder, kEditedList);
  CHECK(trial.call_once() == UploadTrial::Refusal::too_many);
  replace_list(folder, list);
  trial.revoke();
  CHECK(trial.wait_for_end().cut == 8);
}

TEST_CASE("a list of certificates that is being edited ends no call") {
  const TemporaryDirectory folder;
  UploadTrial trial(folder.path(), kTrialElements);
  const std::string edited = GENERATE(as<std::string>{}, kEditedList, "");
  const std::string told = trial.deliver([&] {
    replace_list(folder, edited);
    trial.wait_for_look();
  });
  CHECK(told == "");
}

TEST_CASE("a site that is refused repeatedly causes few lines in the log") {
  const TemporaryDirectory folder;
  UploadTrial trial(folder.path(), kTrialElements);
  trial.revoke();
  const Clock::time_point began = Clock::now();
  for (int call = 0; call < 50; ++call) CHECK(trial.call_once() == UploadTrial::Refusal::not_let_in);
  CHECK(trial.said() >= 1);
  CHECK(static_cast<double>(trial.said()) <= 6 * (1 + seconds_since(began) / 10));
}

TEST_CASE("RateLimitedLog: repeated lines are left out and counted") {
  std::vector<std::string> said;
  RateLimitedLog log([&](const std::string& line) { said.push_back(line); });
  const Clock::time_point began{};
  const auto after = [&](double count) { return began + seconds(count); };
  log.say("north", "refused", "no", after(0));
  log.say("north", "refused", "no", after(1));
  log.say("south", "refused", "nor south", after(1));
  log.say("north", "mistake", "wrong", after(2));
  log.say("north", "refused", "no", after(9.9));
  log.say("north", "refused", "no", after(10));
  log.say("north", "refused", "no", after(20));
  CHECK(said == std::vector<std::string>{"no", "nor south", "wrong",
                                         "2 other lines about north (refused) were left out", "no", "no"});
}

TEST_CASE("RateLimitedLog: different lines of a site and kind are logged, up to five") {
  std::vector<std::string> said;
  RateLimitedLog log([&](const std::string& line) { said.push_back(line); });
  const Clock::time_point began{};
  const auto after = [&](double count) { return began + seconds(count); };
  for (const char* text : {"damaged", "disk full", "damaged", "3", "4", "5", "6", "7"})
    log.say("north", "failed", text, after(1));
  std::vector<std::string> expected{"damaged", "disk full", "3", "4", "5"};
  CHECK(said == expected);
  log.tell_left_out(after(10.9));
  CHECK(said == expected);
  // Counted even without further calls, and only once.
  for (const double later : {11.0, 12.0, 30.0}) log.tell_left_out(after(later));
  expected.push_back("3 other lines about north (failed) were left out");
  CHECK(said == expected);
}
