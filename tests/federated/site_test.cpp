// What a coordinator can have a site fetch, keep on its disk, and spend.
#include "federated/transport/site.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <set>

#include "federated/transport/offer_trial.h"
#include "tests/data/temporary_directory.h"

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

TEST_CASE_METHOD(OfferedSite, "a site has one model and, while another comes, the part of that") {
  trial.offer(0, "a model");
  trial.site().next();
  CHECK(files() == std::set<std::string>{"model-00000000.h5"});
  // As of a coordinator that begins round after round, and ends each before its model has come.
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
  // Nor does another stay where this one need not come again.
  folder.write("site/model-00000002.h5", "older");
  trial.offer(3, "the next");
  trial.site().next();
  CHECK(files() == std::set<std::string>{"model-00000003.h5"});
  CHECK(trial.downloads() == 2);
}

TEST_CASE_METHOD(OfferedSite, "a model much larger than the one that a site began with is not fetched") {
  trial.offer(0, "a model");
  trial.offer(1, "a model", (std::uint64_t{64} << 20) + 1);
  trial.site().next();
  CHECK_THROWS_WITH(trial.site().next(), Contains("has 67108872 bytes") && Contains("began with 7:"));
  CHECK(trial.downloads() == 1);
}

TEST_CASE_METHOD(OfferedSite, "a model for which a site's disk has no room is not begun, but waited for") {
  trial.offer(0, "a model", std::uint64_t{1} << 60);
  CHECK_THROWS_WITH(trial.site().next(), Contains("given up after") && Contains("must stay free; make room"));
  CHECK(trial.downloads() == 0);
  REQUIRE(trial.said().size() == 1);
  CHECK_THAT(trial.said()[0], Contains("there is room for") && Contains("trying again"));
}

TEST_CASE_METHOD(OfferedSite, "a site that passes over a round waits for the next") {
  for (const std::int64_t round : {4, 4, 5}) trial.offer(round, "a model");
  CHECK(trial.site().next(4).round == 5);
  CHECK(trial.downloads() == 1);
}

TEST_CASE_METHOD(OfferedSite, "what a site may spend is looked at before each attempt at a sum") {
  const std::string update = folder.write("update.f32", std::string(12, '\0'));
  SiteRound round;
  round.elements = 3;
  round.secure = true;
  int checked = 0, recorded = 0;
  const auto check = [&] { require(++checked < 3, "no more is spent"); };
  const auto record = [&] { ++recorded; };
  CHECK_THROWS_WITH(trial.site().deliver(round, {update, digest_of(update)}, 1, {}, {}, {check, record}),
                    Contains("no more is spent"));
  CHECK(checked == 3);
  CHECK(recorded == 0);
}

}  // namespace
}  // namespace conclave
