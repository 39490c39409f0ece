// What one site, or one that is silent, can take of a coordinator.
#include <catch2/catch.hpp>
#include <chrono>

#include "core/clock.h"
#include "federated/transport/upload_trial.h"
#include "tests/data/temporary_directory.h"

using namespace conclave;

namespace {

double seconds_of(auto f) {
  const Clock::time_point began = Clock::now();
  f();
  return seconds_since(began);
}

constexpr std::uint64_t kTrialElements = 3'000'000;  // three chunks

}  // namespace

TEST_CASE("thousands of calls of one site do not stop another, and end when it is turned out") {
  const TemporaryDirectory folder;
  UploadTrial trial(folder.path(), kTrialElements);
  trial.deliver();
  trial.hinder(40, 100);  // more than the server has threads for
  CHECK(seconds_of([&] { trial.deliver(); }) < 20);
  trial.turn_out();
  UploadTrial::Ended ended;
  CHECK(seconds_of([&] { ended = trial.wait_for_end(); }) < 20);
  CHECK(ended.refused >= 3900);
  CHECK(ended.cut >= 1);
  CHECK(ended.cut <= 8);
  trial.deliver();
}

TEST_CASE("an upload that is not gone on with is ended; connections on which nothing happens harm nobody") {
  const TemporaryDirectory folder;
  UploadTrial trial(folder.path(), kTrialElements, std::chrono::milliseconds(200));
  trial.hinder(200, 0);
  trial.hinder(1, 2);
  CHECK(trial.wait_for_end().cut == 2);
  trial.deliver();
}
