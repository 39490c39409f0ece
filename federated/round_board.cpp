#include "federated/round_board.h"

#include <fmt/format.h>

#include <chrono>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

namespace conclave {
namespace {

using Clock = std::chrono::steady_clock;

Clock::duration seconds(double count) {
  return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(count));
}

constexpr std::size_t kMostMetrics = 64;
constexpr double kMostExamples = 1e12;

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
    SiteMistake::unless(name.size() <= 100 && std::isfinite(value),
                        "a metric is not finite, or has no name to print");
}

void check_finite(std::string_view data, std::uint64_t offset) {
  constexpr std::uint32_t kExponent = 0x7f800000u;
  const std::size_t count = data.size() / sizeof(float);
  const auto bits = [&](std::size_t i) {
    std::uint32_t word;
    std::memcpy(&word, data.data() + i * sizeof(float), sizeof word);
    return word & kExponent;
  };
  std::uint32_t largest = 0;
  for (std::size_t i = 0; i < count; ++i) largest = std::max(largest, bits(i));
  for (std::size_t i = 0; largest == kExponent && i < count; ++i)
    SiteMistake::unless(bits(i) != kExponent, "number {} of the update is not finite",
                        offset / sizeof(float) + i);
}

}  // namespace

RoundBoard::RoundBoard(std::filesystem::path directory, Database& database)
    : directory_(std::move(directory) / "updates"), database_(database) {
  database.run(
      "CREATE TABLE IF NOT EXISTS updates(round INTEGER, site TEXT, examples REAL, metrics TEXT, tokens "
      "TEXT, digest TEXT,"
      " arrived TEXT DEFAULT CURRENT_TIMESTAMP, PRIMARY KEY(round, site))");
  database.run("CREATE TABLE IF NOT EXISTS assigned(round INTEGER, site TEXT, PRIMARY KEY(round, site))");
}

std::filesystem::path RoundBoard::file_of(const std::string& site) const {
  return directory_ / fmt::format("{}.f32", site);
}

std::vector<ReceivedUpdate> RoundBoard::updates_of(std::int64_t round) {
  auto rows = database_.prepare(
      "SELECT site, examples, metrics, tokens, digest FROM updates WHERE round = ?1 ORDER BY site");
  rows.bind(round);
  std::vector<ReceivedUpdate> updates;
  while (rows.next())
    updates.push_back({rows.text(0), file_of(rows.text(0)), rows.real(1),
                       nlohmann::json::parse(rows.text(2)).get<std::map<std::string, double>>(),
                       nlohmann::json::parse(rows.text(3)).get<std::vector<double>>(), rows.text(4), ""});
  return updates;
}

void RoundBoard::open(const RoundPlan& plan) {
  const std::scoped_lock lock(mutex_);
  std::filesystem::create_directories(directory_);
  plan_ = plan;
  assigned_.clear();
  received_.clear();
  for (const ReceivedUpdate& update : updates_of(plan.round)) {
    // A power cut can take what was not yet on the disk.
    if (std::filesystem::exists(update.file) && digest_of(update.file).hexadecimal() == update.digest) {
      received_[update.site] = update;
      assigned_.insert(update.site);
    } else {
      database_.prepare("DELETE FROM updates WHERE round = ?1 AND site = ?2")
          .bind(plan.round, update.site)
          .run();
    }
  }
  for (const auto& entry : std::filesystem::directory_iterator(directory_)) {
    const bool counts =
        entry.path().extension() == ".f32" && received_.contains(entry.path().stem().string());
    const bool part = entry.path().extension() == ".part";  // its name says of which update
    if (!counts && !part) std::filesystem::remove(entry.path());
  }
  auto rows = database_.prepare("SELECT site FROM assigned WHERE round = ?1");
  rows.bind(plan.round);
  while (rows.next()) assigned_.insert(rows.text(0));
  phase_ = Phase::open;
  changed_.notify_all();
}

std::optional<std::vector<ReceivedUpdate>> RoundBoard::wait(std::size_t quorum, double gather,
                                                            double deadline) {
  std::unique_lock lock(mutex_);
  const auto began = Clock::now();
  const auto all = [&] { return received_.size() >= quorum && received_.size() == assigned_.size(); };
  changed_.wait_until(lock, began + seconds(gather), [&] { return stopped_; });
  changed_.wait_until(lock, began + seconds(deadline), [&] { return stopped_ || all(); });
  changed_.wait(lock, [&] { return stopped_ || received_.size() >= quorum; });
  if (stopped_) return std::nullopt;
  phase_ = Phase::closed;
  std::vector<ReceivedUpdate> updates;
  for (const auto& [site, update] : received_) updates.push_back(update);
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
  const std::scoped_lock lock(mutex_);
  if (phase_ == Phase::finished || offer.round < plan_.round)
    throw RoundOver(fmt::format("round {} is over", offer.round));
  if (phase_ != Phase::open || received_.contains(site)) return;
  SiteMistake::unless(plan_.secure, "this federation is not by secure aggregation");
  if (offer.round != plan_.round || offer.base != plan_.digest)
    throw RoundOver("the update was trained from another model than this round's");
  check(offer, plan_);
  assign(site);
  received_[site] = {site, {}, offer.examples, offer.metrics, offer.tokens, "", offer.certificate};
  changed_.notify_all();
}

void RoundBoard::clear() {
  const std::scoped_lock lock(mutex_);
  received_.clear();
  std::filesystem::remove_all(directory_);
}

void RoundBoard::finish(const RoundPlan& result, double most) {
  std::unique_lock lock(mutex_);
  plan_ = result;
  phase_ = Phase::finished;
  assigned_.clear();
  for (const ReceivedUpdate& update : updates_of(result.round - 1)) assigned_.insert(update.site);
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
    return stopped_ || phase_ == Phase::finished || (phase_ == Phase::open && !received_.contains(site));
  };
  // gRPC tells nobody that a caller has gone; it is asked.
  while (!something() && Clock::now() < until && !cancelled())
    changed_.wait_until(lock, std::min(until, Clock::now() + seconds(1)), something);
  if (stopped_ || !something()) return {Work::wait};
  if (phase_ == Phase::finished) return {Work::finished, plan_};
  assign(site);
  return {Work::train, plan_, counted(site)};
}

std::int64_t RoundBoard::counted(const std::string& site) const {
  auto last = database_.prepare("SELECT max(round) + 1 FROM updates WHERE site = ?1 AND round < ?2");
  last.bind(site, plan_.round).next();
  return last.integer(0);  // 0 of NULL, where there is none
}

RoundPlan RoundBoard::model_of(std::int64_t round) {
  const std::scoped_lock lock(mutex_);
  if (plan_.model.empty() || plan_.round != round)
    throw RoundOver(fmt::format("round {} is over; ask for the next", round));
  return plan_;
}

void RoundBoard::fetched(const std::string& site, std::int64_t round) {
  const std::scoped_lock lock(mutex_);
  if (phase_ != Phase::finished || plan_.round != round) return;
  assigned_.erase(site);
  changed_.notify_all();
}

// On the disk, so that a coordinator that is started again waits for whom it waited for.
void RoundBoard::assign(const std::string& site) {
  if (!assigned_.insert(site).second) return;
  database_.prepare("INSERT OR IGNORE INTO assigned VALUES(?1, ?2)").bind(plan_.round, site).run();
}

void RoundBoard::check_current(const std::string& site, std::int64_t round, std::uint64_t number) {
  if (phase_ != Phase::open || round != plan_.round)
    throw RoundOver(fmt::format("round {} is over: its update came too late", round));
  require(upload_numbers_[site] == number, "another upload of this site's has begun");
}

std::unique_ptr<RoundBoard::Upload> RoundBoard::begin_upload(const std::string& site,
                                                             const UpdateOffer& offer) {
  std::unique_lock lock(mutex_);
  if (offer.round == plan_.round && received_.contains(site)) return nullptr;
  require(!plan_.model.empty(), "the coordinator has not yet found its place again");
  if (phase_ != Phase::open || offer.round != plan_.round)
    throw RoundOver(fmt::format("round {} is over: its update came too late", offer.round));
  if (offer.base != plan_.digest)
    throw RoundOver("the update was trained from another model than this round's");
  SiteMistake::unless(!plan_.secure, "this federation is by secure aggregation: no update is sent as it is");
  check(offer, plan_);
  assign(site);
  const std::uint64_t number = ++upload_numbers_[site];
  const std::filesystem::path file = file_of(site);
  // Parts of other updates that this site began: it has room for one.
  const std::filesystem::path kept = IncomingFile::part_of(file, offer.update);
  const std::string parts = file.filename().string() + ".";
  for (const auto& entry : std::filesystem::directory_iterator(directory_))
    if (entry.path().filename().string().starts_with(parts) && entry.path() != kept)
      std::filesystem::remove(entry.path());
  lock.unlock();
  return std::unique_ptr<Upload>(new Upload(*this, site, offer, number, file));
}

RoundBoard::Upload::Upload(RoundBoard& board, std::string site, UpdateOffer offer, std::uint64_t number,
                           std::filesystem::path file)
    : board_(board),
      site_(std::move(site)),
      offer_(std::move(offer)),
      number_(number),
      path_(std::move(file)),
      file_(path_, offer_.update) {}

void RoundBoard::Upload::append(std::uint64_t offset, std::string_view data, std::uint64_t checksum) {
  require(data.size() <= kChunkBytes, "a chunk of {} bytes; there may be {}", data.size(), kChunkBytes);
  SiteMistake::unless(offset % sizeof(float) == 0 && data.size() % sizeof(float) == 0,
                      "a chunk of {} bytes at byte {} has numbers cut in two", data.size(), offset);
  check_finite(data, offset);
  {
    const std::scoped_lock lock(board_.mutex_);
    board_.check_current(site_, offer_.round, number_);
  }
  file_.append(offset, data, checksum);
}

void RoundBoard::Upload::finish() {
  const std::scoped_lock lock(board_.mutex_);
  board_.check_current(site_, offer_.round, number_);
  file_.finish();
  board_.accept(*this);
}

void RoundBoard::insert(std::int64_t round, const ReceivedUpdate& update) {
  database_
      .prepare(
          "INSERT INTO updates(round, site, examples, metrics, tokens, digest) VALUES(?1, ?2, ?3, ?4, ?5, "
          "?6)")
      .bind(round, update.site, update.examples, nlohmann::json(update.metrics).dump(),
            nlohmann::json(update.tokens).dump(), update.digest)
      .run();
}

void RoundBoard::accept(const Upload& upload) {
  const UpdateOffer& offer = upload.offer_;
  const ReceivedUpdate update{upload.site_,
                              upload.path_,
                              offer.examples,
                              offer.metrics,
                              offer.tokens,
                              offer.update.hexadecimal(),
                              ""};
  insert(offer.round, update);
  received_[upload.site_] = update;
  changed_.notify_all();
}

}  // namespace conclave
