// Updates of faulty and hostile sites. Whatever a site sends, and however often, an update counts once or not
// at all, and a refused one leaves the round as it was.
#include "federated/round_board.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <limits>
#include <set>
#include <thread>
#include <utility>

#include "core/clock.h"
#include "core/file.h"
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

TEST_CASE_METHOD(BoardFixture, "RoundBoard: an update that is sent again counts once") {
  send("north");
  CHECK(board.begin_upload("north", offer()) == nullptr);
  UpdateOffer other = offer();
  other.examples = 1e9;
  CHECK(board.begin_upload("north", other) == nullptr);
  const auto updates = board.updates_of(plan.round);
  REQUIRE(updates.size() == 1);
  CHECK(updates[0].examples == 10);
}

TEST_CASE_METHOD(BoardFixture, "RoundBoard: an update of another round or another model is refused") {
  for (const std::int64_t round : {1, 3}) {
    UpdateOffer offered = offer();
    offered.round = round;
    CHECK_THROWS_AS(board.begin_upload("north", offered), RoundOver);
  }
  UpdateOffer offered = offer();
  offered.base.xxh3[0] ^= 1;
  CHECK_THROWS_AS(board.begin_upload("north", offered), RoundOver);

  // An upload that began in time is still in progress when the round ends.
  const auto upload = board.begin_upload("north", offer());
  send("south");
  REQUIRE(board.wait({.quorum = 1}));
  CHECK_THROWS_AS(upload->append(0, bytes(), chunk_checksum(bytes())), RoundOver);
  CHECK_THROWS_AS(upload->finish(), RoundOver);
  CHECK(counted() == 1);
}

TEST_CASE_METHOD(BoardFixture, "RoundBoard: numbers that are not finite are refused") {
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
    if (wrong == 0) continue;  // valid: an expert may have served no tokens
    offered.tokens = {wrong};
    CHECK_THROWS_WITH(board.begin_upload("north", offered), Contains("tokens"));
  }
  UpdateOffer offered = offer();
  offered.metrics["loss"] = std::nan("");
  CHECK_THROWS_WITH(board.begin_upload("north", offered), Contains("metric"));
  CHECK(counted() == 0);
  send("north");
}

TEST_CASE_METHOD(BoardFixture, "RoundBoard: an infinite number is found however its bytes are divided") {
  std::string data = bytes();
  const float infinite = std::numeric_limits<float>::infinity();
  std::memcpy(data.data() + 8, &infinite, sizeof infinite);
  const std::string_view all = data;
  for (std::size_t first = 0; first <= all.size(); ++first)
    for (std::size_t second = first; second <= all.size(); ++second) {
      const std::string_view pieces[] = {all.substr(0, first), all.substr(first, second - first),
                                         all.substr(second)};
      const auto upload = board.begin_upload("north", offer());
      CHECK_THROWS_WITH(upload->append(0, pieces, chunk_checksum(pieces)),
                        Contains("number 2 of the update"));
      CHECK(upload->received() == 0);
    }
}

TEST_CASE_METHOD(BoardFixture, "RoundBoard: updates of a wrong size and wrong chunks are refused") {
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
  CHECK_THROWS_WITH(upload->append(4, data, chunk_checksum(data)), Contains("and byte 0 was expected"));
  CHECK_THROWS_WITH(upload->append(0, data, chunk_checksum(data) + 1), Contains("damaged"));
  CHECK_THROWS_WITH(upload->finish(), Contains("0 of 16 bytes came"));
  CHECK(counted() == 0);
  upload->append(0, data, chunk_checksum(data));
  upload->finish();
  CHECK(counted() == 1);
}

TEST_CASE_METHOD(BoardFixture,
                 "RoundBoard: a wrong digest discards the update, and only the newest call counts") {
  UpdateOffer offered = offer();
  offered.update.xxh3[3] ^= 1;
  const auto wrong = board.begin_upload("north", offered);
  wrong->append(0, bytes(), chunk_checksum(bytes()));
  CHECK_THROWS_WITH(wrong->finish(), Contains("does not have the announced digest"));
  CHECK(counted() == 0);

  const auto older = board.begin_upload("north", offer()), newer = board.begin_upload("north", offer());
  CHECK_THROWS_WITH(older->append(0, bytes(), chunk_checksum(bytes())), Contains("another upload"));
  newer->append(0, bytes(), chunk_checksum(bytes()));
  CHECK_THROWS_WITH(older->finish(), Contains("another upload"));
  newer->finish();
  CHECK(counted() == 1);
}

TEST_CASE_METHOD(BoardFixture, "RoundBoard: after a restart complete updates count and others continue") {
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
  const auto updates = again.wait({.quorum = 2});
  REQUIRE(updates);
  CHECK(updates->size() == 2);

  // A power cut truncated a file that the table lists as complete, so the site is asked to send it again.
  std::filesystem::resize_file(updates->front().file, 4);
  RoundBoard third(folder.path(), database);
  third.open(plan);
  CHECK(third.next("north", 0, [] { return false; }).work == RoundBoard::Work::train);
  CHECK(third.next("south", 0, [] { return false; }).work == RoundBoard::Work::wait);
}

TEST_CASE_METHOD(BoardFixture,
                 "RoundBoard: updates of another model that the round was begun from do not count") {
  send("north");
  plan.model = folder.write("another", "another model");
  plan.digest = digest_of(plan.model);
  RoundBoard anew(folder.path(), database);
  anew.open(plan);
  CHECK(counted() == 0);
  CHECK(anew.next("north", 0, [] { return false; }).work == RoundBoard::Work::train);
  CHECK(anew.begin_upload("north", offer()) != nullptr);
}

TEST_CASE_METHOD(BoardFixture, "RoundBoard: a round's updates are written over those of the round before") {
  const auto files = [&] {
    std::set<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(folder.path() + "/updates"))
      names.insert(entry.path().filename().string());
    return names;
  };
  send("north"), send("south");
  REQUIRE(board.wait({.quorum = 2}));
  board.clear();
  const std::set<std::string> retired{"north.2.f32.retired", "south.2.f32.retired"};
  CHECK(files() == retired);
  plan.round = 3;
  RoundBoard(folder.path(), database).open(plan);  // is killed at once
  board.open(plan);
  CHECK(files() == retired);
  numbers[0] = 7;
  send("west");  // takes the place of whichever
  CHECK(files().size() == 2);
  CHECK(read_file(folder.path() + "/updates/west.3.f32", "") == bytes());
  const auto late = board.begin_upload("east", offer());
  CHECK(files().size() == 2);
  REQUIRE(board.wait({.quorum = 1}));
  board.clear();
  CHECK(files() == std::set<std::string>{"west.3.f32.retired"});
  std::filesystem::remove_all(folder.path() + "/updates");
  CHECK_NOTHROW(board.clear());

  // What is left of rounds without secure aggregation is gone when it is introduced.
  plan.round = 4, plan.secure = true;
  board.open(plan);
  CHECK(files().empty());
  board.finish(plan, 0);
  CHECK_FALSE(std::filesystem::exists(folder.path() + "/updates"));
}

TEST_CASE_METHOD(BoardFixture, "RoundBoard: no call writes to what a later call has finished") {
  for (plan.round = 3; plan.round < 30; ++plan.round) {
    board.open(plan);
    std::vector<std::thread> calls;
    for (int call = 0; call < 12; ++call)
      calls.emplace_back([&, offered = offer()] {
        try {
          const auto upload = board.begin_upload("north", offered);
          if (!upload) return;
          if (upload->received() == 0) upload->append(0, bytes(), chunk_checksum(bytes()));
          upload->finish();
        } catch (const Error&) {  // another one has begun
        }
      });
    for (std::thread& call : calls) call.join();
    send("south");
    const auto updates = board.wait({.quorum = 1});
    REQUIRE(updates);
    for (const ReceivedUpdate& update : *updates) CHECK(read_file(update.file.string(), "") == bytes());
    board.clear();
  }
}

TEST_CASE_METHOD(BoardFixture, "RoundBoard: a round waits for sites to join until all have delivered") {
  const auto seconds_of = [&](std::size_t everyone, double gather) {
    const auto began = Clock::now();
    REQUIRE(board.wait({.quorum = 1, .everyone = everyone, .gather = gather, .deadline = 600}));
    board.open(plan);
    return seconds_since(began);
  };
  send("north");
  CHECK(seconds_of(2, 0.3) >= 0.3);
  CHECK(seconds_of(0, 0.3) >= 0.3);
  CHECK(seconds_of(1, 60) < 10);
  send("south");
  CHECK(seconds_of(2, 60) < 10);
}

TEST_CASE_METHOD(BoardFixture, "RoundBoard: after the deadline a quorum ends the round") {
  const auto never = [] { return false; };
  for (const std::string site : {"north", "south"})
    REQUIRE(board.next(site, 0, never).work == RoundBoard::Work::train);
  const auto late = board.begin_upload("south", offer());
  send("north");
  const auto updates = board.wait({.quorum = 1, .everyone = 2, .deadline = 0.05});
  REQUIRE(updates);
  REQUIRE(updates->size() == 1);
  CHECK(updates->front().site == "north");
  CHECK_THROWS_AS(late->append(0, bytes(), chunk_checksum(bytes())), RoundOver);
  CHECK_THROWS_AS(late->finish(), RoundOver);
  CHECK_THROWS_AS(board.begin_upload("south", offer()), RoundOver);
  CHECK(counted() == 1);
}

TEST_CASE_METHOD(BoardFixture, "RoundBoard: without a quorum the round waits and names the missing sites") {
  const auto never = [] { return false; };
  for (const std::string site : {"north", "south", "west"})
    REQUIRE(board.next(site, 0, never).work == RoundBoard::Work::train);
  send("north");
  std::vector<RoundBoard::Progress> told;
  const auto tell = [&](const RoundBoard::Progress& progress) {
    told.push_back(progress);
    if (told.size() == 3) send("south");  // this was the second report after the deadline
    if (told.size() == 4) send("west");
  };
  const auto updates = board.wait({.quorum = 3, .deadline = 0.05, .remind = 0.01, .tell = tell});
  REQUIRE(updates);
  CHECK(updates->size() == 3);
  REQUIRE(told.size() == 4);
  for (std::size_t i = 0; i < told.size(); ++i) {
    CHECK(told[i].updates == (i < 3 ? 1 : 2));
    CHECK(told[i].missing == (i == 0  ? std::vector<std::string>{}
                              : i < 3 ? std::vector<std::string>{"south", "west"}
                                      : std::vector<std::string>{"west"}));
    CHECK(told[i].overdue == (i > 0));
  }
}

TEST_CASE_METHOD(BoardFixture, "RoundBoard: a repeated ready() replaces the site's certificate") {
  plan.secure = true;
  board.open(plan);
  UpdateOffer offered = offer();
  offered.update = {};
  for (const char* certificate : {"the old one", "a renewed one"}) {
    offered.certificate = certificate;
    board.ready("north", offered);
  }
  const auto updates = board.wait({.quorum = 1, .everyone = 1});
  REQUIRE(updates);
  REQUIRE(updates->size() == 1);
  CHECK(updates->front().certificate == "a renewed one");
}

TEST_CASE_METHOD(BoardFixture, "RoundBoard: wait() reports each update that arrives") {
  std::vector<std::size_t> told;
  const std::vector<std::string> sites{"north", "south", "west"};
  const auto tell = [&](const auto& progress) {
    told.push_back(progress.updates);
    send(sites[progress.updates]);
  };
  REQUIRE(board.wait({.quorum = 3, .everyone = 3, .deadline = 600, .tell = tell}));
  CHECK(told == std::vector<std::size_t>{0, 1, 2});
}

TEST_CASE_METHOD(BoardFixture, "RoundBoard: finish() waits until the last round's sites have the result") {
  const auto never = [] { return false; };
  for (const std::string site : {"north", "south"})
    REQUIRE(board.next(site, 0, never).work == RoundBoard::Work::train);
  const bool delivered = GENERATE(true, false);  // false: the round was skipped
  if (delivered) send("north");
  REQUIRE(board.wait({.quorum = 0}));
  if (!delivered) board.set_updates(plan.round, {});
  const bool restarted = GENERATE(false, true), all = GENERATE(false, true);
  RoundBoard later(folder.path(), database);
  RoundBoard& ending = restarted ? later : board;
  ++plan.round;
  const std::jthread sites([&] {
    for (const std::string site : {"north", "south"})
      if ((all || site == "north") && ending.next(site, 60, never).work == RoundBoard::Work::finished)
        ending.fetched(site, plan.round);
  });
  const auto began = Clock::now();
  ending.finish(plan, all ? 60 : 0.1);
  const double waited = seconds_since(began);
  CHECK((all ? waited < 10 : waited >= 0.1));
}

TEST_CASE_METHOD(BoardFixture, "RoundBoard: a site is told in which round its update last counted") {
  const auto counted_of = [&](const std::string& site) {
    return board.next(site, 0, [] { return false; }).counted;
  };
  CHECK(counted_of("north") == 0);
  send("north");
  board.wait({.quorum = 1});
  for (const std::int64_t round : {3, 4}) {  // it has not sent an update for these rounds yet
    plan.round = round;
    board.open(plan);
    CHECK(counted_of("north") == 3);
    CHECK(counted_of("south") == 0);
  }
}

// Two updates complete a round, and an update's model may be one round old.
struct AsynchronousFixture : BoardFixture {
  std::map<std::int64_t, FileDigest> models;

  AsynchronousFixture() {
    plan.buffer = 2, plan.stalest = 1;
    open(board, plan.round);
  }
  void open(RoundBoard& where, std::int64_t round) {
    plan.round = round;
    plan.model = folder.write("model", "the model of round " + std::to_string(round));
    models[round] = plan.digest = digest_of(plan.model);
    where.open(plan);
  }
  std::vector<ReceivedUpdate> end_round() {
    const auto updates = board.wait({.quorum = 0});
    REQUIRE(updates);
    board.clear();
    open(board, plan.round + 1);
    return *updates;
  }
  auto begin(const std::string& site, std::int64_t turn, std::int64_t base) {
    UpdateOffer offered = offer();
    offered.round = base, offered.turn = turn, offered.base = models.at(base);
    return board.begin_upload(site, offered);
  }
  void finish(RoundBoard::Upload& upload) const {
    upload.append(upload.received(), bytes(), chunk_checksum(bytes()));
    upload.finish();
  }
  void send(const std::string& site, std::int64_t turn, std::int64_t base) {
    const auto upload = begin(site, turn, base);
    REQUIRE(upload);
    finish(*upload);
  }
  RoundBoard::Assignment next(const std::string& site) {
    return board.next(site, 0, [] { return false; });
  }
};

TEST_CASE_METHOD(AsynchronousFixture, "RoundBoard: an impossible round number is the site's mistake") {
  plan.buffer = GENERATE(0u, 2u);
  plan.secure = GENERATE(false, true);
  board.open(plan);
  using Limits = std::numeric_limits<std::int64_t>;
  for (const std::int64_t round : {std::int64_t{-1}, Limits::min(), Limits::max()}) {
    UpdateOffer offered = offer();
    offered.round = round;
    CHECK_THROWS_AS(board.begin_upload("north", offered), SiteMistake);
    CHECK_THROWS_AS(board.ready("north", offered), SiteMistake);
  }
  UpdateOffer offered = offer();
  offered.round = Limits::max() - 1;
  CHECK_THROWS_AS(board.begin_upload("north", offered), RoundOver);
}

TEST_CASE_METHOD(AsynchronousFixture, "RoundBoard: the first updates complete an asynchronous round") {
  CHECK(next("north").work == RoundBoard::Work::train);
  CHECK(next("south").work == RoundBoard::Work::train);
  send("north", 0, 2);
  const auto again = next("north");
  CHECK((again.work == RoundBoard::Work::train && again.plan.round == 2 && again.counted == 1));
  CHECK(begin("north", 0, 2) == nullptr);
  send("north", 1, 2);
  CHECK(next("north").work == RoundBoard::Work::wait);  // the round is complete: wait for its model
  const auto first = end_round();
  REQUIRE(first.size() == 2);
  CHECK((first[0].turn == 0 && first[1].turn == 1 && first[0].file != first[1].file));
  CHECK(!std::filesystem::exists(first[0].file));

  CHECK(begin("north", 1, 2) == nullptr);  // already counted, one round before
  send("south", 0, 2);
  CHECK((next("north").counted == 2 && next("south").counted == 1));
  send("north", 2, 3);
  const auto second = end_round();
  REQUIRE(second.size() == 2);
  CHECK(
      (second[0].site == "north" && second[0].base == 3 && second[1].site == "south" && second[1].base == 2));
  CHECK_THROWS_AS(begin("south", 1, 2), RoundOver);  // its model is too old
  CHECK(begin("south", 1, 3));
}

TEST_CASE_METHOD(AsynchronousFixture,
                 "RoundBoard: an asynchronous round that waits is told of in intervals") {
  send("north", 0, 2);
  std::vector<RoundBoard::Progress> told;
  const auto tell = [&](const RoundBoard::Progress& progress) {
    told.push_back(progress);
    if (told.size() == 3) send("south", 0, 2);  // this was the second reminder
  };
  REQUIRE(board.wait({.remind = 0.01, .tell = tell}));
  REQUIRE(told.size() == 3);
  for (std::size_t i = 0; i < told.size(); ++i) {
    CHECK(told[i].updates == 1);
    CHECK(told[i].reminds == (i > 0));
    CHECK_FALSE(told[i].overdue);
  }
}

TEST_CASE_METHOD(AsynchronousFixture,
                 "RoundBoard: an asynchronous update of a wrong model or turn is refused") {
  open(board, 3);
  UpdateOffer offered = offer();
  offered.round = 2, offered.base = models.at(3);
  CHECK_THROWS_AS(board.begin_upload("north", offered), RoundOver);
  offered.round = 4;
  CHECK_THROWS_AS(board.begin_upload("north", offered), RoundOver);
  CHECK_THROWS_AS(begin("north", 1, 3), RoundOver);
  CHECK_THROWS_AS(begin("north", -1, 3), SiteMistake);
  send("north", 0, 3);
}

TEST_CASE_METHOD(AsynchronousFixture,
                 "RoundBoard: an asynchronous update between rounds counts in the next one") {
  const auto late = begin("west", 0, 2), cut = begin("east", 0, 2);
  cut->append(0, bytes().substr(0, 8), chunk_checksum(bytes().substr(0, 8)));
  send("north", 0, 2);
  send("south", 0, 2);
  std::thread waits([&] { finish(*late); });
  const auto updates = end_round();
  waits.join();
  CHECK((updates.size() == 2 && counted() == 1));
  CHECK(begin("east", 0, 2)->received() == 8);  // the upload continues in the next round
}

TEST_CASE_METHOD(AsynchronousFixture, "RoundBoard: after a restart asynchronous updates count once") {
  send("north", 0, 2);
  send("north", 1, 2);
  RoundBoard again(folder.path(), database);  // after a kill before the next model was written
  open(again, 2);
  const auto updates = again.wait({.quorum = 0});
  REQUIRE(updates);
  CHECK((updates->size() == 2 && updates->front().turn == 0 && updates->back().base == 2));
  RoundBoard after(folder.path(), database);  // after a kill before clear()
  open(after, 3);
  CHECK(after.next("north", 0, [] { return false; }).counted == 2);
  UpdateOffer offered = offer();
  offered.round = 2, offered.turn = 1, offered.base = models.at(2);
  CHECK(after.begin_upload("north", offered) == nullptr);
  offered.turn = 2;
  CHECK(after.begin_upload("north", offered) != nullptr);
}

TEST_CASE_METHOD(BoardFixture, "RoundBoard: an assignment that could not be stored is stored the next time") {
  const auto next = [&] { return board.next("north", 0, [] { return false; }).work; };
  database.run("ALTER TABLE assigned RENAME TO elsewhere");
  CHECK_THROWS_WITH(next(), Catch::Contains("assigned"));
  database.run("ALTER TABLE elsewhere RENAME TO assigned");
  CHECK(next() == RoundBoard::Work::train);
  CHECK(database.prepare("SELECT 1 FROM assigned WHERE site = 'north'").next());
}

TEST_CASE_METHOD(BoardFixture, "RoundBoard: the method of a round is on record") {
  plan.strategy = "fedadam";
  board.open(plan);
  RoundBoard later(folder.path(), database);
  const auto method = later.method_of(plan.round);
  REQUIRE(method);
  CHECK((method->strategy == "fedadam" && !method->asynchronous && !method->secure));
  CHECK_FALSE(later.method_of(plan.round - 1));
  plan.strategy = "fedbuff", plan.buffer = 2;
  later.open(plan);
  CHECK((board.method_of(plan.round)->strategy == "fedbuff" && board.method_of(plan.round)->asynchronous));
  plan.strategy = "fedavg", plan.buffer = 0, plan.secure = true;
  later.open(plan);
  CHECK((!board.method_of(plan.round)->asynchronous && board.method_of(plan.round)->secure));
}

TEST_CASE("RoundBoard: a database of another layout is refused by name") {
  const TemporaryDirectory folder;
  const std::string path = folder.path() + "/rounds.sqlite";
  Database database(path);
  database.run("CREATE TABLE updates(round INTEGER, site TEXT, PRIMARY KEY(round, site))");
  CHECK_THROWS_WITH(RoundBoard(folder.path(), database),
                    Catch::Matchers::Contains(path) && Catch::Matchers::Contains("turn"));
}

TEST_CASE_METHOD(BoardFixture, "RoundBoard: updates of another length are asked for again") {
  send("north");
  plan.elements = 8;  // as after a change from fedavg to scaffold, whose updates are twice as long
  RoundBoard longer(folder.path(), database);
  longer.open(plan);
  CHECK(counted() == 0);
  CHECK(longer.next("north", 0, [] { return false; }).work == RoundBoard::Work::train);
}

TEST_CASE_METHOD(AsynchronousFixture,
                 "RoundBoard: asynchronous updates do not count in a synchronous round") {
  send("north", 0, 2);
  RoundBoard synchronous(folder.path(), database);
  plan.buffer = 0;
  synchronous.open(plan);
  CHECK(counted() == 0);
  UpdateOffer offered = offer();
  CHECK(synchronous.begin_upload("north", offered) != nullptr);
}

}  // namespace
}  // namespace conclave
