#include "federated/round_board.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/clock.h"

namespace conclave {
namespace {

constexpr double kRoomSeconds = 20;  // longest wait of an upload while the next model is made
constexpr std::size_t kMostMetrics = 64;
constexpr double kMostExamples = 1e12;

// Called before the round number that a site sent is used: messages print it plus one, which must not
// overflow.
void check_round(const UpdateOffer& offer) {
  SiteMistake::unless(offer.round >= 0 && offer.round < std::numeric_limits<std::int64_t>::max(),
                      "an update of round {}; rounds begin at 0", offer.round);
}

void check(const UpdateOffer& offer, const RoundPlan& plan) {
  SiteMistake::unless(
      offer.update.bytes == (plan.secure ? 0 : plan.elements * sizeof(float)),
      "an update of {} bytes; this model's has {} numbers of 4 bytes{}", offer.update.bytes, plan.elements,
      plan.secure ? ", and is never sent as it is: this federation is by secure aggregation" : "");
  SiteMistake::unless(std::isfinite(offer.examples) && offer.examples > 0 && offer.examples <= kMostExamples,
                      "an update trained on {} examples", offer.examples);
  SiteMistake::unless(offer.tokens.size() == plan.experts, "tokens of {} experts; the model has {}",
                      offer.tokens.size(), plan.experts);
  for (const double tokens : offer.tokens)
    SiteMistake::unless(std::isfinite(tokens) && tokens >= 0 && tokens <= kMostExamples,
                        "an expert that served {} tokens", tokens);
  SiteMistake::unless(offer.metrics.size() <= kMostMetrics, "{} metrics; there may be {}",
                      offer.metrics.size(), kMostMetrics);
  for (const auto& [name, value] : offer.metrics)
    SiteMistake::unless(
        !name.empty() && name.size() <= 100 &&
            std::ranges::all_of(name, [](char letter) { return letter > ' ' && letter < '\x7f'; }) &&
            std::isfinite(value),
        "a metric is not finite, or has no name to print");
}

// Checks `count` numbers; the first one is number `number` of the update.
void check_finite(const char* data, std::size_t count, std::uint64_t number) {
  constexpr std::uint32_t kExponent = 0x7f800000u;
  const auto bits = [&](std::size_t i) {
    std::uint32_t word;
    std::memcpy(&word, data + i * sizeof(float), sizeof word);
    return word & kExponent;
  };
  std::uint32_t largest = 0;
  for (std::size_t i = 0; i < count; ++i) largest = std::max(largest, bits(i));
  for (std::size_t i = 0; largest == kExponent && i < count; ++i)
    SiteMistake::unless(bits(i) != kExponent, "number {} of the update is not finite", number + i);
}

// The same for numbers that arrive in pieces, which may end within a number. `number` is that of the first
// one.
class FiniteCheck {
 public:
  explicit FiniteCheck(std::uint64_t number) : number_(number) {}

  void add(std::string_view bytes) {
    for (; there_ > 0 && !bytes.empty(); bytes.remove_prefix(1)) {
      cut_[there_++] = bytes.front();
      if (there_ < cut_.size()) continue;
      check_finite(cut_.data(), 1, number_++);
      there_ = 0;
    }
    const std::size_t count = bytes.size() / sizeof(float);
    check_finite(bytes.data(), count, number_);
    number_ += count;
    for (const char byte : bytes.substr(count * sizeof(float))) cut_[there_++] = byte;
  }

 private:
  std::uint64_t number_;
  std::array<char, sizeof(float)> cut_{};  // a number of which only part has arrived
  std::size_t there_ = 0;                  // bytes of that number
};

}  // namespace

RoundBoard::RoundBoard(std::filesystem::path directory, Database& database)
    : directory_(std::move(directory) / "updates"), database_(database) {
  Transaction transaction(database);
  database.run(
      "CREATE TABLE IF NOT EXISTS updates(round INTEGER, site TEXT, turn INTEGER, base INTEGER, examples "
      "REAL, metrics TEXT, tokens TEXT, digest TEXT,"
      " arrived TEXT DEFAULT CURRENT_TIMESTAMP, PRIMARY KEY(round, site, turn))");
  database.run("CREATE INDEX IF NOT EXISTS updates_of_site ON updates(site, turn)");
  database.run(
      "CREATE TABLE IF NOT EXISTS models(round INTEGER PRIMARY KEY, digest TEXT, strategy TEXT, asynchronous "
      "INTEGER, secure INTEGER)");
  database.run("CREATE TABLE IF NOT EXISTS assigned(round INTEGER, site TEXT, PRIMARY KEY(round, site))");
  transaction.commit();
}

std::filesystem::path RoundBoard::file_of(const std::string& site, std::int64_t turn) const {
  return directory_ / fmt::format("{}.{}.f32", site, turn);
}

std::optional<RoundMethod> RoundBoard::method_of(std::int64_t round) const {
  auto rows = database_.prepare("SELECT strategy, asynchronous, secure FROM models WHERE round = ?1");
  rows.bind(round);
  if (!rows.next()) return std::nullopt;
  return RoundMethod{rows.text(0), rows.integer(1) != 0, rows.integer(2) != 0};
}

std::int64_t RoundBoard::rounds_of_record() const {
  auto newest = database_.prepare("SELECT max(round) + 1 FROM models");
  newest.next();
  return newest.integer(0);  // the integer of NULL is 0
}

bool RoundBoard::had_plain_round_before(std::int64_t round) const {
  return database_.prepare("SELECT 1 FROM models WHERE round < ?1 AND NOT secure").bind(round).next();
}

std::vector<ReceivedUpdate> RoundBoard::updates_of(std::int64_t round) {
  auto rows = database_.prepare(
      "SELECT site, examples, metrics, tokens, digest, turn, base FROM updates WHERE round = ?1 ORDER BY "
      "site, turn");
  rows.bind(round);
  std::vector<ReceivedUpdate> updates;
  while (rows.next())
    updates.push_back({rows.text(0), file_of(rows.text(0), rows.integer(5)), rows.real(1),
                       nlohmann::json::parse(rows.text(2)).get<std::map<std::string, double>>(),
                       nlohmann::json::parse(rows.text(3)).get<std::vector<double>>(), rows.text(4), "",
                       rows.integer(5), rows.integer(6)});
  return updates;
}

void RoundBoard::open(const RoundPlan& plan) {
  const std::scoped_lock lock(mutex_);
  create_durable_directories(directory_);
  plan_ = plan;
  assigned_.clear();
  received_.clear();
  // The round was begun from another model before, as by an earlier federation in this folder.
  const std::string before = model_of_record(plan.round);
  if (!is_asynchronous() && !before.empty() && before != plan.digest.hexadecimal())
    database_.prepare("DELETE FROM updates WHERE round = ?1").bind(plan.round).run();
  for (const ReceivedUpdate& update : updates_of(plan.round)) {
    // A power cut can lose what was not yet on disk, and the strategy may have changed since the update
    // arrived.
    const bool fits = is_asynchronous() || (update.turn == plan.round && update.base == plan.round);
    if (fits && std::filesystem::exists(update.file) &&
        std::filesystem::file_size(update.file) == plan.elements * sizeof(float) &&
        digest_of(update.file).hexadecimal() == update.digest) {
      received_[{update.site, update.turn}] = update;
      assigned_.insert(update.site);
    } else {
      database_.prepare("DELETE FROM updates WHERE round = ?1 AND site = ?2 AND turn = ?3")
          .bind(plan.round, update.site, update.turn)
          .run();
    }
  }
  database_
      .prepare(
          "INSERT OR REPLACE INTO models(round, digest, strategy, asynchronous, secure) "
          "VALUES(?1, ?2, ?3, ?4, ?5)")
      .bind(plan.round, plan.digest.hexadecimal(), plan.strategy, std::int64_t{is_asynchronous()},
            std::int64_t{plan.secure})
      .run();
  for (const auto& entry : std::filesystem::directory_iterator(directory_)) {
    const bool counts = std::ranges::any_of(
        received_, [&](const auto& update) { return update.second.file == entry.path(); });
    // The name of a part contains the digest of its update. With secure aggregation none comes.
    const bool useful =
        !plan.secure && (IncomingFile::is_part(entry.path()) || IncomingFile::is_retired(entry.path()));
    if (!counts && !useful) std::filesystem::remove(entry.path());
  }
  auto rows = database_.prepare("SELECT site FROM assigned WHERE round = ?1");
  rows.bind(plan.round);
  while (rows.next()) assigned_.insert(rows.text(0));
  phase_ = Phase::open;
  changed_.notify_all();
}

std::optional<std::vector<ReceivedUpdate>> RoundBoard::wait(const Patience& patience) {
  std::unique_lock lock(mutex_);
  const auto began = Clock::now();
  const auto have_quorum = [&] { return received_.size() >= patience.quorum; };
  const auto all = [&] { return have_quorum() && received_.size() == assigned_.size(); };
  const auto nobody_else = [&] {
    return all() && patience.everyone > 0 && received_.size() >= patience.everyone;
  };
  std::optional<std::size_t> told;  // number of updates at the last tell()
  bool overdue = false, reminds = false;
  const auto tell = [&] {
    told = received_.size();
    if (!patience.tell) return;
    Progress progress{.updates = received_.size(), .missing = {}, .overdue = overdue, .reminds = reminds};
    if (overdue) progress.missing = missing();
    lock.unlock();
    patience.tell(progress);
    lock.lock();
  };
  // Returns whether enough() became true before `until`; true also if stopped.
  const auto wait_until = [&](Clock::time_point until, const auto& enough) {
    while (
        changed_.wait_until(lock, until, [&] { return stopped_ || enough() || received_.size() != told; })) {
      if (stopped_ || enough()) return true;
      tell();
    }
    return false;
  };
  if (is_asynchronous()) {
    while (!wait_until(Clock::now() + seconds(patience.remind), [&] { return !has_room(); })) {
      reminds = true;
      tell();
      reminds = false;
    }
  } else {
    const auto deadline = began + seconds(patience.deadline);
    wait_until(began + seconds(patience.gather), nobody_else);
    wait_until(deadline, all);
    for (auto next = deadline; !wait_until(next, have_quorum);
         next = Clock::now() + seconds(patience.remind)) {
      overdue = true;
      tell();
    }
  }
  if (stopped_) return std::nullopt;
  phase_ = Phase::closed;
  std::vector<ReceivedUpdate> updates;
  for (const auto& [turn, update] : received_) updates.push_back(update);
  return updates;
}

void RoundBoard::set_updates(std::int64_t round, const std::vector<ReceivedUpdate>& updates) {
  const std::scoped_lock lock(mutex_);
  Transaction transaction(database_);
  database_.prepare("DELETE FROM updates WHERE round = ?1").bind(round).run();
  for (const ReceivedUpdate& update : updates) insert(round, update);
  transaction.commit();
}

void RoundBoard::ready(const std::string& site, const UpdateOffer& offer) {
  check_round(offer);
  const std::scoped_lock lock(mutex_);
  if (phase_ == Phase::finished || offer.round < plan_.round)
    throw RoundOver(fmt::format("round {} is over", offer.round + 1));
  if (phase_ != Phase::open) return;
  if (const auto came = received_.find({site, plan_.round}); came != received_.end()) {
    came->second.certificate = offer.certificate;  // it may have been renewed since
    return;
  }
  SiteMistake::unless(plan_.secure, "this federation is not by secure aggregation");
  if (offer.round != plan_.round || offer.base != plan_.digest)
    throw RoundOver("the update was trained from another model than this round's");
  check(offer, plan_);
  assign(site);
  received_[{site, plan_.round}] = {.site = site,
                                    .file = {},
                                    .examples = offer.examples,
                                    .metrics = offer.metrics,
                                    .tokens = offer.tokens,
                                    .digest = "",
                                    .certificate = offer.certificate,
                                    .turn = plan_.round,
                                    .base = plan_.round};
  changed_.notify_all();
}

void RoundBoard::clear() {
  const std::scoped_lock lock(mutex_);
  // What the round has not written over, and, in synchronous rounds, what came of updates that are too late
  // now.
  std::vector<std::filesystem::path> useless;
  std::error_code ignored;  // somebody may have deleted the directory; open() makes it anew
  for (const auto& entry : std::filesystem::directory_iterator(directory_, ignored))
    if (IncomingFile::is_retired(entry.path()) || (IncomingFile::is_part(entry.path()) && !is_asynchronous()))
      useless.push_back(entry.path());
  for (const std::filesystem::path& file : useless) std::filesystem::remove(file);
  for (const auto& [turn, update] : received_) IncomingFile::retire(update.file);
  received_.clear();
}

void RoundBoard::finish(const RoundPlan& result, double most) {
  std::unique_lock lock(mutex_);
  plan_ = result;
  phase_ = Phase::finished;
  std::error_code ignored;  // a late call of a site may still write there
  std::filesystem::remove_all(directory_, ignored);
  assigned_.clear();
  for (const ReceivedUpdate& update : updates_of(result.round - 1)) assigned_.insert(update.site);
  // A site whose update came too late, or whose round was skipped, still asks for the result.
  auto rows = database_.prepare("SELECT DISTINCT site FROM assigned WHERE round >= ?1");
  rows.bind(result.round - 1 - (is_asynchronous() ? result.stalest : 0));
  while (rows.next()) assigned_.insert(rows.text(0));
  changed_.notify_all();
  changed_.wait_for(lock, seconds(most), [&] { return stopped_ || assigned_.empty(); });
}

void RoundBoard::stop() {
  const std::scoped_lock lock(mutex_);
  stopped_ = true;
  changed_.notify_all();
}

RoundBoard::Assignment RoundBoard::next(const std::string& site, double wait_seconds,
                                        const std::function<bool()>& cancelled) {
  std::unique_lock lock(mutex_);
  const auto until = Clock::now() + seconds(wait_seconds);
  const auto something = [&] {
    return stopped_ || phase_ == Phase::finished ||
           (has_room() && (is_asynchronous() || !received_.contains({site, plan_.round})));
  };
  // gRPC does not signal that a caller has gone, so ask regularly.
  while (!something() && Clock::now() < until && !cancelled())
    changed_.wait_until(lock, std::min(until, Clock::now() + seconds(1)), something);
  if (stopped_ || !something()) return {Work::wait};
  if (phase_ == Phase::finished) return {Work::finished, plan_};
  assign(site);
  return {Work::train, plan_, counted(site)};
}

std::int64_t RoundBoard::counted(const std::string& site) const {
  // The same round may have been opened before with the other kind of rounds.
  auto last = database_.prepare(is_asynchronous()
                                    ? "SELECT max(turn) + 1 FROM updates WHERE site = ?1"
                                    : "SELECT max(round) + 1 FROM updates WHERE site = ?1 AND round < ?2");
  if (is_asynchronous())
    last.bind(site).next();
  else
    last.bind(site, plan_.round).next();
  return last.integer(0);  // the integer of NULL is 0: no update counted
}

std::vector<std::string> RoundBoard::missing() const {
  std::vector<std::string> missing;
  for (const std::string& site : assigned_)
    if (const auto first = received_.lower_bound({site, std::numeric_limits<std::int64_t>::min()});
        first == received_.end() || first->first.first != site)
      missing.push_back(site);
  return missing;
}

bool RoundBoard::has_room() const {
  return phase_ == Phase::open && (!is_asynchronous() || received_.size() < plan_.buffer);
}

// An asynchronous update that arrives while the next model is made is not too late: it belongs to the next
// round.
void RoundBoard::await_room(std::unique_lock<std::mutex>& lock) {
  const auto over = [&] { return stopped_ || phase_ == Phase::finished || has_room(); };
  if (is_asynchronous())
    require(changed_.wait_for(lock, seconds(kRoomSeconds), over) && !stopped_,
            "the next model is being made; send the update again");
}

std::string RoundBoard::model_of_record(std::int64_t round) const {
  auto rows = database_.prepare("SELECT digest FROM models WHERE round = ?1");
  rows.bind(round);
  return rows.next() ? rows.text(0) : "";
}

RoundPlan RoundBoard::model_of(std::int64_t round) {
  const std::scoped_lock lock(mutex_);
  if (plan_.model.empty() || plan_.round != round)
    throw RoundOver("the round of this model is over; ask for the next");
  return plan_;
}

void RoundBoard::fetched(const std::string& site, std::int64_t round) {
  const std::scoped_lock lock(mutex_);
  if (phase_ != Phase::finished || plan_.round != round) return;
  assigned_.erase(site);
  changed_.notify_all();
}

// The assignment is on disk, so that a coordinator that is restarted waits for the same sites.
void RoundBoard::assign(const std::string& site) {
  if (assigned_.contains(site)) return;
  database_.prepare("INSERT OR IGNORE INTO assigned VALUES(?1, ?2)").bind(plan_.round, site).run();
  assigned_.insert(site);  // not if that failed, so that it is tried again
}

void RoundBoard::check_in_time(std::int64_t round) const {
  const bool in_time = is_asynchronous() ? phase_ != Phase::finished && round <= plan_.round &&
                                               round >= plan_.round - plan_.stalest
                                         : phase_ == Phase::open && round == plan_.round;
  if (!in_time && is_asynchronous() && phase_ != Phase::finished)
    throw RoundOver(fmt::format(
        "the update's model is that of round {}, and this is round {}: strategy.max_staleness = {}",
        round + 1, plan_.round + 1, plan_.stalest));
  if (!in_time) throw RoundOver(fmt::format("round {} is over: its update came too late", round + 1));
}

void RoundBoard::check_current(const std::string& site, std::int64_t round, std::uint64_t number) {
  check_in_time(round);
  require(upload_numbers_[site] == number, "another upload of this site's has begun");
}

std::unique_ptr<RoundBoard::Upload> RoundBoard::begin_upload(const std::string& site,
                                                             const UpdateOffer& offered) {
  check_round(offered);
  std::unique_lock lock(mutex_);
  UpdateOffer offer = offered;
  if (!is_asynchronous()) offer.turn = offer.round;
  if (offer.round == plan_.round && received_.contains({site, offer.turn})) return nullptr;
  require(!plan_.model.empty(), "the coordinator is still starting; send the update again");
  if (is_asynchronous()) {
    const std::int64_t turn = counted(site);
    SiteMistake::unless(offer.turn >= 0, "an update of turn {}", offer.turn);
    if (offer.turn < turn) return nullptr;
    // A power cut may have lost the site's last update after the site was told that it counts.
    if (offer.turn > turn)
      throw RoundOver(
          fmt::format("update number {} of this site came, and number {} was expected", offer.turn, turn));
  }
  check_in_time(offer.round);
  if (offer.base.hexadecimal() != model_of_record(offer.round))
    throw RoundOver("the update was trained from another model than this round's");
  SiteMistake::unless(!plan_.secure, "this federation is by secure aggregation: no update is sent as it is");
  check(offer, plan_);
  assign(site);
  const std::uint64_t number = ++upload_numbers_[site];
  const std::filesystem::path file = file_of(site, offer.turn);
  std::mutex& writing = writing_[site];
  lock.unlock();
  const std::scoped_lock files(writing);
  lock.lock();
  IncomingFile::make_part(file, offer.update, site);
  lock.unlock();
  return std::unique_ptr<Upload>(new Upload(*this, site, offer, number, file, writing));
}

RoundBoard::Upload::Upload(RoundBoard& board, std::string site, UpdateOffer offer, std::uint64_t number,
                           std::filesystem::path file, std::mutex& writing)
    : board_(board),
      site_(std::move(site)),
      offer_(std::move(offer)),
      number_(number),
      path_(std::move(file)),
      file_(path_, offer_.update),
      writing_(writing) {}

void RoundBoard::Upload::append(std::uint64_t offset, Pieces pieces, std::uint64_t checksum) {
  const std::size_t size = size_of(pieces);
  SiteMistake::unless(offset % sizeof(float) == 0 && size % sizeof(float) == 0,
                      "a chunk of {} bytes at byte {} has numbers cut in two", size, offset);
  const std::scoped_lock writing(writing_);
  {
    const std::scoped_lock lock(board_.mutex_);
    board_.check_current(site_, offer_.round, number_);
  }
  FiniteCheck check(offset / sizeof(float));
  file_.append(offset, pieces, checksum, [&](std::string_view piece) { check.add(piece); });
}

void RoundBoard::Upload::finish() {
  const std::scoped_lock writing(writing_);
  file_.read_back();  // calls of other sites need not wait for that
  std::unique_lock lock(board_.mutex_);
  // A synchronous round needs no fsync: the site still has its update and is asked again after a power cut.
  const bool durable = board_.is_asynchronous();
  if (durable) {
    lock.unlock();
    file_.sync();
    lock.lock();
  }
  board_.await_room(lock);
  board_.check_current(site_, offer_.round, number_);
  file_.finish();
  if (durable) sync_directory(path_.parent_path());
  board_.accept(*this);
}

void RoundBoard::insert(std::int64_t round, const ReceivedUpdate& update) {
  database_
      .prepare(
          "INSERT INTO updates(round, site, turn, base, examples, metrics, tokens, digest)"
          " VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")
      .bind(round, update.site, update.turn, update.base, update.examples,
            nlohmann::json(update.metrics).dump(), nlohmann::json(update.tokens).dump(), update.digest)
      .run();
}

void RoundBoard::accept(const Upload& upload) {
  const UpdateOffer& offer = upload.offer_;
  const ReceivedUpdate update{.site = upload.site_,
                              .file = upload.path_,
                              .examples = offer.examples,
                              .metrics = offer.metrics,
                              .tokens = offer.tokens,
                              .digest = offer.update.hexadecimal(),
                              .turn = offer.turn,
                              .base = offer.round};
  insert(plan_.round, update);
  received_[{upload.site_, offer.turn}] = update;
  changed_.notify_all();
}

}  // namespace conclave
