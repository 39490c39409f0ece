// Updates as a site that errs, or means harm, would send them: whoever sends what, and however often, an
// update counts once or not at all, and what was refused leaves the round as it was.
#include "federated/round_board.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <utility>

#include "tests/data/temporary_directory.h"

namespace conclave {
namespace {

using Catch::Matchers::Contains;

struct BoardFixture {
  TemporaryDirectory folder;
  Database database{folder.path() + "/rounds.sqlite"};
  RoundBoard board{folder.path(), database};
  std::vector<float> numbers{1, -2, 3, 0.5F};
  RoundPlan plan;

  BoardFixture() {
    const std::string model = folder.write("model", "a model");
    plan = {.round = 2, .rounds = 5, .model = model, .digest = digest_of(model), .elements = 4, .experts = 1};
    board.open(plan);
  }
  std::string bytes() const {
    return {reinterpret_cast<const char*>(numbers.data()), numbers.size() * sizeof(float)};
  }
  UpdateOffer offer() const {
    return {.round = plan.round,
            .base = plan.digest,
            .update = digest_of(folder.write("update", bytes())),
            .examples = 10,
            .metrics = {{"loss", 1.0}},
            .tokens = {3},
            .certificate = {}};
  }
  void send(const std::string& site) {
    const auto upload = board.begin_upload(site, offer());
    REQUIRE(upload);
    upload->append(upload->received(), bytes(), chunk_checksum(bytes()));
    upload->finish();
  }
  std::size_t counted() { return board.updates_of(plan.round).size(); }
};

TEST_CASE_METHOD(BoardFixture, "an update that is sent again counts once") {
  send("north");
  CHECK(board.begin_upload("north", offer()) == nullptr);
  UpdateOffer other = offer();
  other.examples = 1e9;
  CHECK(board.begin_upload("north", other) == nullptr);
  const auto updates = board.updates_of(plan.round);
  REQUIRE(updates.size() == 1);
  CHECK(updates[0].examples == 10);
}

TEST_CASE_METHOD(BoardFixture, "an update of another round, or made from another model, is too late") {
  for (const std::int64_t round : {1, 3, -1}) {
    UpdateOffer offered = offer();
    offered.round = round;
    CHECK_THROWS_AS(board.begin_upload("north", offered), RoundOver);
  }
  UpdateOffer offered = offer();
  offered.base.xxh3[0] ^= 1;
  CHECK_THROWS_AS(board.begin_upload("north", offered), RoundOver);

  // Begun in time, and still under way when the round ends.
  const auto upload = board.begin_upload("north", offer());
  send("south");
  REQUIRE(board.wait(1, 0, 0));
  CHECK_THROWS_AS(upload->append(0, bytes(), chunk_checksum(bytes())), RoundOver);
  CHECK_THROWS_AS(upload->finish(), RoundOver);
  CHECK(counted() == 1);
}

TEST_CASE_METHOD(BoardFixture, "numbers that are not finite are refused, wherever they are") {
  for (const float wrong : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                            -std::numeric_limits<float>::infinity()})
    for (float& number : numbers) {
      const float right = std::exchange(number, wrong);
      const auto upload = board.begin_upload("north", offer());
      CHECK_THROWS_WITH(upload->append(0, bytes(), chunk_checksum(bytes())), Contains("is not finite"));
      CHECK_THROWS(upload->finish());
      number = right;
    }
  for (const double wrong : {std::nan(""), -1.0, 0.0, HUGE_VAL}) {
    UpdateOffer offered = offer();
    offered.examples = wrong;
    CHECK_THROWS_WITH(board.begin_upload("north", offered), Contains("examples"));
    offered = offer();
    if (wrong == 0) continue;  // an expert may have served none
    offered.tokens = {wrong};
    CHECK_THROWS_WITH(board.begin_upload("north", offered), Contains("tokens"));
  }
  UpdateOffer offered = offer();
  offered.metrics["loss"] = std::nan("");
  CHECK_THROWS_WITH(board.begin_upload("north", offered), Contains("metric"));
  CHECK(counted() == 0);
  send("north");
}

TEST_CASE_METHOD(BoardFixture, "an update of another size, and chunks that do not fit, are refused") {
  for (const std::uint64_t size :
       {std::uint64_t{0}, std::uint64_t{12}, std::uint64_t{20}, ~std::uint64_t{0}}) {
    UpdateOffer offered = offer();
    offered.update.bytes = size;
    CHECK_THROWS_WITH(board.begin_upload("north", offered), Contains("this model's has 4 numbers"));
  }
  UpdateOffer offered = offer();
  offered.tokens = {1, 2};
  CHECK_THROWS_WITH(board.begin_upload("north", offered), Contains("the model has 1"));

  const auto upload = board.begin_upload("north", offer());
  const std::string longer = bytes() + "more", huge(kChunkBytes + 4, '\0'), data = bytes();
  CHECK_THROWS_WITH(upload->append(0, longer, chunk_checksum(longer)), Contains("of a file of 16"));
  CHECK_THROWS_WITH(upload->append(0, huge, chunk_checksum(huge)), Contains("there may be"));
  CHECK_THROWS_WITH(upload->append(4, data, chunk_checksum(data)), Contains("where byte 0 was to come"));
  CHECK_THROWS_WITH(upload->append(0, data, chunk_checksum(data) + 1), Contains("damaged"));
  CHECK_THROWS_WITH(upload->finish(), Contains("0 of 16 bytes came"));
  CHECK(counted() == 0);
  upload->append(0, data, chunk_checksum(data));
  upload->finish();
  CHECK(counted() == 1);
}

TEST_CASE_METHOD(BoardFixture,
                 "what is not what was offered has to come again, and an older call is refused") {
  UpdateOffer offered = offer();
  offered.update.xxh3[3] ^= 1;
  const auto wrong = board.begin_upload("north", offered);
  wrong->append(0, bytes(), chunk_checksum(bytes()));
  CHECK_THROWS_WITH(wrong->finish(), Contains("another digest"));
  CHECK(counted() == 0);

  const auto older = board.begin_upload("north", offer()), newer = board.begin_upload("north", offer());
  CHECK_THROWS_WITH(older->append(0, bytes(), chunk_checksum(bytes())), Contains("another upload"));
  newer->append(0, bytes(), chunk_checksum(bytes()));
  CHECK_THROWS_WITH(older->finish(), Contains("another upload"));
  newer->finish();
  CHECK(counted() == 1);
}

TEST_CASE_METHOD(BoardFixture,
                 "a board that is opened again has what had arrived whole, and goes on with the rest") {
  send("north");
  const auto cut = board.begin_upload("south", offer());
  cut->append(0, bytes().substr(0, 8), chunk_checksum(bytes().substr(0, 8)));
  RoundBoard again(folder.path(), database);
  again.open(plan);
  CHECK(again.begin_upload("north", offer()) == nullptr);
  const auto rest = again.begin_upload("south", offer());
  REQUIRE(rest->received() == 8);
  rest->append(8, bytes().substr(8), chunk_checksum(bytes().substr(8)));
  rest->finish();
  const auto updates = again.wait(2, 0, 0);
  REQUIRE(updates);
  CHECK(updates->size() == 2);

  // A power cut has taken the file of what the table says is there: the site is asked again.
  std::filesystem::resize_file(updates->front().file, 4);
  RoundBoard third(folder.path(), database);
  third.open(plan);
  CHECK(third.next("north", 0, [] { return false; }).work == RoundBoard::Work::train);
  CHECK(third.next("south", 0, [] { return false; }).work == RoundBoard::Work::wait);
}

}  // namespace
}  // namespace conclave
