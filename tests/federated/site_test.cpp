// Limits on what a coordinator can make a site download, store, and repeat without a result.
#include "federated/transport/site.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <set>

#include "core/clock.h"
#include "tests/data/temporary_directory.h"
#include "tests/federated/transport/offer_trial.h"
#include "tests/federated/transport/sum_trial.h"

namespace conclave {
namespace {

using Catch::Matchers::Contains;

struct OfferedSite {
  TemporaryDirectory folder;
  OfferTrial trial{folder.path()};

  std::set<std::string> files() const {
    std::set<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(folder.path() + "/site"))
      names.insert(entry.path().filename().string());
    return names;
  }
};

TEST_CASE_METHOD(OfferedSite, "Site: keeps one model and, during a download, the part of the next") {
  trial.offer(0, "a model");
  trial.site().next();
  CHECK(files() == std::set<std::string>{"model-00000000.h5"});
  // Leftovers of rounds that the coordinator ended before their models were downloaded.
  for (const char* part : {"site/model-00000001.h5.aa.part", "site/model-00000003.h5.bb.part"})
    folder.write(part, "a mod");
  std::set<std::string> meanwhile;
  trial.at_download([&] { meanwhile = files(); });
  trial.offer(3, "the next");
  trial.site().next();
  REQUIRE(meanwhile.size() == 2);
  CHECK(*meanwhile.begin() == "model-00000000.h5");
  CHECK_THAT(*meanwhile.rbegin(), Contains("model-00000003.h5.") && !Contains(".bb."));
  CHECK(files() == std::set<std::string>{"model-00000003.h5"});
  // Other models are removed even if this one need not be downloaded.
  folder.write("site/model-00000002.h5", "older");
  trial.offer(3, "the next");
  trial.site().next();
  CHECK(files() == std::set<std::string>{"model-00000003.h5"});
  CHECK(trial.downloads() == 2);
}

TEST_CASE_METHOD(OfferedSite, "Site: a model much larger than the first one is not downloaded") {
  trial.offer(0, "a model");
  trial.offer(1, "a model", (std::uint64_t{64} << 20) + 1);
  trial.site().next();
  CHECK_THROWS_WITH(trial.site().next(), Contains("has 67108872 bytes") && Contains("first one had 7:"));
  CHECK(trial.downloads() == 1);
}

TEST_CASE_METHOD(OfferedSite, "Site: without disk space it does not begin a download but waits") {
  for (int i = 0; i < 2; ++i) trial.offer(0, "a model", std::uint64_t{1} << 60);
  CHECK_THROWS_WITH(trial.site().next(), Contains("given up after") && Contains("must stay free; make room"));
  CHECK(trial.downloads() == 0);
  REQUIRE(trial.said().size() == 1);
  CHECK_THAT(trial.said()[0], Contains("there is room for") && Contains("trying again"));
}

TEST_CASE_METHOD(OfferedSite, "Site: without disk space it takes the next round's model when offered") {
  trial.offer(0, "a model", std::uint64_t{1} << 60);
  trial.offer(1, "a model");
  CHECK(trial.site().next().round == 1);
  CHECK(trial.downloads() == 1);
}

TEST_CASE_METHOD(OfferedSite, "Site: repeats fruitless work at most once a second and logs little") {
  const auto began = Clock::now();
  SECTION("rounds that are over before their model has come") {
    trial.end_download("the round\nis over" + std::string(10'000, '!'));
    for (int i = 0; i < 2; ++i) trial.offer(i, "a model");
    CHECK(trial.site().next().round == 1);
    REQUIRE(trial.said().size() == 1);
    CHECK(trial.said()[0].size() == 500);
    CHECK_THAT(trial.said()[0], Catch::StartsWith("the round is over!"));
    CHECK(seconds_since(began) >= 1);
  }
  const std::string update = folder.write("update.f32", std::string(12, '\0'));
  SiteRound round;
  round.elements = 3;
  const auto deliver = [&] { return trial.site().deliver(round, {update, digest_of(update)}, 1, {}, {}); };
  SECTION("a round again and again, for whose update it is too late") {
    CHECK_FALSE(deliver());
    CHECK(seconds_since(began) >= 1);
    CHECK_FALSE(deliver());
    CHECK(seconds_since(began) >= 3);
  }
  SECTION("a sum that others are not ready for") {
    round.secure = true;
    trial.answer_early(5);
    CHECK_THROWS_WITH(deliver(), Contains("there is no sum"));
    CHECK(seconds_since(began) >= 0.5);
  }
}

TEST_CASE("Site: what it sends for a sum is on record and paid for first") {
  const TemporaryDirectory folder;
  SumTrial trial(folder.path(), false);
  CHECK(trial.deliver());
  CHECK(trial.at_upload() == SumTrial::Done{.sent = SumTrial::kAttempt, .spends = 1});
  CHECK(trial.at_unmask() ==
        SumTrial::Done{.sent = SumTrial::kAttempt, .unmasked = SumTrial::kAttempt, .spends = 1});
  CHECK(trial.sum() == std::vector<std::int64_t>(SumTrial::kElements, 10));  // two others', of 5 each
}

TEST_CASE("Site: without shares it sends random words, which cost nothing") {
  const TemporaryDirectory folder;
  SumTrial trial(folder.path(), true);
  CHECK_FALSE(trial.deliver());
  CHECK(trial.at_upload() == SumTrial::Done{});
  CHECK_FALSE(trial.at_unmask());
}

}  // namespace
}  // namespace conclave
