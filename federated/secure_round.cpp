#include "federated/secure_round.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <ctime>
#include <type_traits>

#include "core/clock.h"
#include "federated/identity.h"
#include "federated/secure_aggregation/shared_noise.h"

namespace conclave {
namespace {

using namespace secure_aggregation;
using Phase = SecureRound::Phase;

constexpr std::string_view kPhases[] = {"advertising keys", "sharing secrets", "sending masked updates",
                                        "consenting to the survivors", "unmasking the sum"};

constexpr double kFirstPause = 1, kLongestPause = 60;  // seconds
constexpr double kRoomPause = 0.2;                     // seconds until the disk is asked again

// Limits the colluding sites such that at least two sites of a sum are honest.
Agreement agree_among(const SecureOptions& options, const RoundWork& work, std::int64_t number,
                      std::vector<std::string> sites, std::uint64_t elements) {
  Agreement agreement = Agreement::among(options.federation, static_cast<std::uint64_t>(number),
                                         std::move(sites), {options.width}, elements);
  agreement.least = std::max(agreement.least, static_cast<std::uint32_t>(options.least));
  agreement.colluding = std::min(agreement.colluding, agreement.least - 2);
  agreement.values = sum_values(work, options.clip_norm, options.most_examples, options.privacy);
  agreement.check();
  return agreement;
}

NoisyFormat format_of(const SecureOptions& options, const Agreement& agreement) {
  const RoundPrivacy& privacy = options.privacy;
  return NoisyFormat::choose(agreement, options.clip_norm, {privacy.clip_norm, privacy.noise_multiplier});
}

// Numbers that a site sends: its update's and, if weights are hidden, its weight.
std::uint64_t elements_of(const SecureOptions& options, std::uint64_t elements) {
  return elements + (options.most_examples > 0 ? 1 : 0);
}

// The first number is the current Unix time. So if a federation begins anew, its numbers are above those into
// which the same sites sent updates before; sites take part in no others (round_record.h).
void create_attempts(Database& database) {
  if (database.has_column("secure_attempts", "number")) return;
  Transaction together(database);
  database.run(
      "CREATE TABLE secure_attempts(number INTEGER PRIMARY KEY AUTOINCREMENT, round INTEGER, unmasked "
      "INTEGER DEFAULT 0)");
  database.prepare("INSERT INTO sqlite_sequence(name, seq) VALUES('secure_attempts', ?1)")
      .bind(static_cast<std::int64_t>(std::time(nullptr)))
      .run();
  together.commit();
}

}  // namespace

std::string sum_values(const RoundWork& work, double clip_norm, double most_examples,
                       const RoundPrivacy& privacy) {
  std::string values = fmt::format("round {} of {} model {} steps {}", work.round, work.rounds,
                                   work.model_sha256, work.local_steps);
  for_each_rule(work.rules, [&]<class Value>(std::string_view name, Value value) {
    if constexpr (std::is_same_v<Value, bool>)
      values += fmt::format(" {} {}", name, value);
    else
      values += fmt::format(" {} {:a}", name, value);
  });
  for (const SharingRule& rule : work.sharing)
    values += fmt::format(" {} {}:{}", to_string(rule.sharing), rule.pattern.size(), rule.pattern);
  return values + fmt::format(" clip {:a} examples {:a} unit {} clip {:a} rate {:a} noise {:a}", clip_norm,
                              most_examples, to_string(privacy.unit), privacy.clip_norm, privacy.rate,
                              privacy.noise_multiplier);
}

void check_sums(const SecureOptions& options, std::uint64_t elements, std::size_t sites) {
  std::vector<std::string> names;
  for (std::size_t i = 0; i < sites; ++i) names.push_back(std::to_string(i));
  try {
    format_of(options, agree_among(options, {}, 1, std::move(names), elements_of(options, elements)));
  } catch (const Error& error) {
    fail("no sum of the updates of {} sites is possible: {}", sites, error.what());
  }
}

SecureRound::SecureRound(std::filesystem::path directory, Database& database, RoundBoard& board,
                         SecureOptions options, Say say)
    : directory_(std::move(directory) / "masked"),
      database_(database),
      board_(board),
      options_(std::move(options)),
      say_(std::move(say)),
      disputes_(say_, random_) {
  create_attempts(database);
  database.run(
      "CREATE TABLE IF NOT EXISTS secure_noise(number INTEGER PRIMARY KEY, noise REAL, rate REAL, unit TEXT, "
      "delta REAL)");
  if (!options_.privacy.is_on()) return;
  const std::string unit(to_string(options_.privacy.unit));
  auto others = database.prepare(
      "SELECT unit FROM secure_noise JOIN secure_attempts USING(number) WHERE unmasked AND noise > 0 AND "
      "unit "
      "<> ?1");
  if (others.bind(unit).next())
    fail(
        "privacy.unit = \"{}\", and the noise of earlier rounds hid each {}: what was spent for two units "
        "cannot be added up. Go on with \"{}\", or begin another federation, in another folder",
        unit, others.text(0), others.text(0));
}

bool SecureRound::unmasked(std::int64_t round) const {
  return database_.prepare("SELECT 1 FROM secure_attempts WHERE round = ?1 AND unmasked").bind(round).next();
}

std::int64_t SecureRound::unmasked_in(std::int64_t first, std::int64_t end) const {
  auto count = database_.prepare(
      "SELECT count(DISTINCT round) FROM secure_attempts WHERE round >= ?1 AND round < ?2 AND unmasked");
  count.bind(first, end).next();
  return count.integer(0);
}

std::optional<RoundPrivacy> SecureRound::privacy_of(std::int64_t round) const {
  auto rows = database_.prepare(
      "SELECT unit, rate, noise, delta FROM secure_attempts JOIN secure_noise USING(number) WHERE round = ?1 "
      "AND unmasked AND noise > 0");
  if (!rows.bind(round).next()) return std::nullopt;
  return RoundPrivacy{.unit = parse_privacy_unit(rows.text(0)),
                      .rate = rows.real(1),
                      .noise_multiplier = rows.real(2),
                      .delta = rows.real(3)};
}

double SecureRound::epsilon(const RoundPrivacy& privacy, std::int64_t more) const {
  std::vector<PrivacyEvent> events{{privacy.noise_multiplier, privacy.rate, more}};
  auto rows = database_.prepare(  // a sum with unknown noise counts as one without noise
      "SELECT coalesce(noise, 0.0), coalesce(rate, 1.0) FROM secure_attempts LEFT JOIN secure_noise "
      "USING(number) WHERE unmasked");
  while (rows.next()) events.push_back({rows.real(0), rows.real(1), 1});
  // The noise may have been changed because of earlier outputs, and then pld is not proven (accountant.h).
  const bool alike = std::ranges::all_of(events, [&](const PrivacyEvent& event) {
    return event.noise_multiplier == privacy.noise_multiplier && event.sampling_rate == privacy.rate;
  });
  const auto accountant = make_accountant(alike ? kAccountant : "rdp");
  for (const PrivacyEvent& event : events) accountant->compose(event);
  return accountant->epsilon(privacy.delta);
}

void SecureRound::stop() {
  const std::scoped_lock lock(mutex_);
  stopped_ = true;
  changed_.notify_all();
}

void SecureRound::end_phase(Phase phase) {
  const std::scoped_lock lock(mutex_);
  if (!attempt_ || attempt_->phase != phase) return;
  attempt_->phase_ends = true;
  changed_.notify_all();
}

std::filesystem::path SecureRound::folder_of(std::int64_t attempt) const {
  return directory_ / std::to_string(attempt);
}

std::int64_t SecureRound::new_number(std::int64_t round) {
  database_.prepare("INSERT INTO secure_attempts(round) VALUES(?1)").bind(round).run();
  auto newest = database_.prepare("SELECT max(number) FROM secure_attempts");
  newest.next();
  const std::int64_t number = newest.integer(0);
  const RoundPrivacy& privacy = options_.privacy;
  database_.prepare("INSERT INTO secure_noise(number, noise, rate, unit, delta) VALUES(?1, ?2, ?3, ?4, ?5)")
      .bind(number, privacy.is_on() ? privacy.noise_multiplier : 0.0, privacy.rate, to_string(privacy.unit),
            privacy.delta)
      .run();
  return number;
}

std::optional<SecureRound::Sum> SecureRound::attempt(const RoundWork& work, std::uint64_t elements,
                                                     std::vector<ReceivedUpdate> ready,
                                                     const std::function<void()>& meanwhile,
                                                     const LackingRoom& lacking_room) {
  const std::int64_t round = work.round;
  std::set<std::string> names;
  for (const ReceivedUpdate& update : ready) names.insert(update.site);
  SiteNames left_out = names;
  names = disputes_.members(round, names, static_cast<std::size_t>(options_.least));
  std::erase_if(left_out, [&](const std::string& site) { return names.contains(site); });
  std::erase_if(ready, [&](const ReceivedUpdate& update) { return !names.contains(update.site); });
  std::vector<std::string> sites, certificates;
  for (const ReceivedUpdate& update : ready) {
    sites.push_back(update.site);
    certificates.push_back(update.certificate);
  }
  const std::int64_t number = new_number(round);
  std::error_code ignored;  // a late call of a site may still write there
  std::filesystem::remove_all(directory_, ignored);
  std::filesystem::create_directories(folder_of(number));

  std::unique_lock lock(mutex_);
  std::optional<Sum> result;
  try {
    const bool weighted = options_.most_examples > 0;
    if (const std::string lacking = lacking_room(); !lacking.empty()) fail("{}", lacking);
    require(std::ssize(ready) >= options_.least,
            "{} sites are ready{}, and federation.quorum is {}. If no other site is to come, {}{}",
            ready.size(),
            left_out.empty() ? "" : fmt::format(", without {} (the log says why)", fmt::join(left_out, ", ")),
            options_.least, left_out.empty() ? "" : "provision the federation anew without these, or ",
            start_with_lower_quorum(true));
    const Agreement agreement = agree_among(options_, work, number, sites, elements_of(options_, elements));
    const RoundPrivacy& privacy = options_.privacy;
    const NoisyFormat format = format_of(options_, agreement);
    attempt_.emplace(Attempt{number, {agreement, certificates, options_.clip_norm}, Coordinator(agreement)});
    changed_.notify_all();
    end_phases(lock, round, lacking_room);
    if (attempt_->phase == Phase::done) {
      Coordinator& coordinator = attempt_->coordinator;
      const Survivors survivors = coordinator.survivors();
      // To unmask a long sum takes seconds, so other calls must not wait for it. They only read the attempt,
      // because it is done, and this thread alone destroys it.
      const auto unmask = [&] {
        lock.unlock();
        struct Locked {
          ~Locked() { lock.lock(); }
          std::unique_lock<std::mutex>& lock;
        } const again{lock};
        if (meanwhile) meanwhile();
        return coordinator.sum();
      };
      result.emplace(Sum{unmask(), format.format});
      double records = 0;
      for (const std::uint32_t site : survivors.sites) {
        result->survivors.push_back(ready[site]);
        records += ready[site].examples;
      }
      const auto sites = static_cast<double>(survivors.sites.size());
      result->count = privacy.is_within_sites() ? privacy.rate * records : sites;
      if (weighted) {
        float weights;
        dequantize(result->sum, format.format, elements, std::span(&weights, 1));
        require(weights * format.format.scale > sites,  // each site's weight is rounded by less than 1
                "the sum of the sites' weights is no larger than what rounding may add to it; lower "
                "secure_aggregation.most_examples");
        result->count = weights / (kWeightScale * options_.clip_norm);
        for (ReceivedUpdate& site : result->survivors)
          site.examples = result->count * options_.most_examples / sites;
      }
    }
  } catch (const Error& error) {
    result.reset();
    say_(fmt::format("round {}: the attempt at its sum failed: {}", round + 1, error.what()));
  }
  changed_.wait(lock, [&] { return adding_ == 0; });
  AfterFailure after{.wait = true};  // so if no site was told
  if (attempt_) after = note_sites(round, result.has_value());
  attempt_.reset();
  std::filesystem::remove_all(directory_, ignored);  // uploads that are not complete
  changed_.notify_all();
  if (result)
    pause_ = 0;
  else if (after.wait && !stopped_)
    pause(lock, round, after);
  return result;
}

void SecureRound::pause(std::unique_lock<std::mutex>& lock, std::int64_t round, const AfterFailure& after) {
  pause_ = std::clamp(2 * pause_, kFirstPause, kLongestPause);
  if (!after.needed.empty())
    say_(fmt::format(
        "warning: round {}: attempts failed because {} did not stay to the end, and a sum needs it, by "
        "federation.quorum = {}; as each attempt spends the other sites' privacy, the next one begins after "
        "{:.0f} s",
        round + 1, fmt::join(after.needed, ", "), options_.least, pause_));
  if (after.outage)
    say_(fmt::format(
        "warning: round {}: more than half of the sites did not stay to the end; the next attempt begins "
        "after {:.0f} s",
        round + 1, pause_));
  changed_.wait_for(lock, seconds(pause_), [&] { return stopped_; });
}

AfterFailure SecureRound::note_sites(std::int64_t round, bool succeeded) {
  const Coordinator& coordinator = attempt_->coordinator;
  const std::vector<std::string>& sites = attempt_->terms.agreement.sites;
  disputes_.note(round, sites, coordinator.cheaters(), coordinator.disagreements(), coordinator.most_liars());
  FailedAttempt failed{.phase = attempt_->phase,
                       .sites = {sites.begin(), sites.end()},
                       .disputed = !coordinator.disagreements().empty() || !coordinator.cheaters().empty()};
  if (failed.phase < Phase::mask || stopped_) return {};
  const Sites& came = attempt_->came[std::min(failed.phase, Phase::unmask)];
  SiteNames stayed;
  for (const std::uint32_t site : attempt_->came[Phase::share])
    (came.contains(site) ? stayed : failed.absent).insert(sites[site]);
  if (!succeeded) return disputes_.note_failure(failed, static_cast<std::size_t>(options_.least));
  disputes_.note_present(stayed);
  return {};
}

void SecureRound::Sum::read_mean(std::size_t offset, std::span<float> out) const {
  dequantize(sum, format, offset, out);
  for (float& value : out) value = static_cast<float>(value / count);
}

// Sites that have consented ask for the others' consents until then.
void SecureRound::wait_for_room(std::unique_lock<std::mutex>& lock, std::int64_t round,
                                const LackingRoom& lacking_room) {
  for (bool told = false; !stopped_; told = true) {
    const std::string lacking = lacking_room();
    if (lacking.empty()) return;
    if (!told)
      say_(fmt::format(
          "warning: round {}: {}; its sum is unmasked once there is room, because it would be lost",
          round + 1, lacking));
    changed_.wait_for(lock, seconds(kRoomPause), [&] { return stopped_; });
  }
}

void SecureRound::end_phases(std::unique_lock<std::mutex>& lock, std::int64_t round,
                             const LackingRoom& lacking_room) {
  Attempt& attempt = *attempt_;
  while (attempt.phase != Phase::done) {
    Coordinator& coordinator = attempt.coordinator;
    changed_.wait_until(lock, Clock::now() + seconds(options_.phase_seconds),
                        [&] { return stopped_ || attempt.phase_ends || coordinator.awaited().empty(); });
    changed_.wait(lock, [&] { return adding_ == 0; });
    if (attempt.phase == Phase::consent) wait_for_room(lock, round, lacking_room);
    attempt.phase_ends = false;
    if (stopped_) return;
    for (const std::uint32_t site : coordinator.awaited())
      say_(fmt::format("round {}: {} is gone at {}", round + 1, attempt.terms.agreement.sites[site],
                       kPhases[static_cast<std::size_t>(attempt.phase)]));
    attempt.came[attempt.phase] = coordinator.arrived();
    coordinator.end_phase();
    if (attempt.phase == Phase::consent) {  // before any site is told
      database_.prepare("UPDATE secure_attempts SET unmasked = 1 WHERE number = ?1")
          .bind(attempt.number)
          .run();
      database_.checkpoint();
    }
    attempt.phase = static_cast<Phase>(static_cast<int>(attempt.phase) + 1);
    changed_.notify_all();
  }
}

std::optional<SecureTerms> SecureRound::ready(const std::string& site, const UpdateOffer& offer,
                                              std::int64_t after, double most, const Cancelled& cancelled) {
  const auto until = Clock::now() + seconds(most);
  const auto begun = [&] {
    // A site that was restarted has other keys than those it advertised, so it waits for the next attempt.
    if (!attempt_ || attempt_->number <= after || attempt_->phase != Phase::advertise) return false;
    const auto number = member(site, attempt_->number, Phase::advertise);
    // So does one whose certificate was renewed, because the attempt has its old one.
    return number && attempt_->coordinator.awaited().contains(*number) &&
           attempt_->terms.certificates[*number] == offer.certificate;
  };
  while (true) {
    board_.ready(site, offer);  // repeated, because the board opens again after an attempt has failed
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, seconds(0.2), [&] { return stopped_ || begun(); });
    if (begun()) return attempt_->terms;
    if (stopped_ || Clock::now() >= until || cancelled()) return std::nullopt;
  }
}

std::optional<std::uint32_t> SecureRound::member(const std::string& site, std::int64_t attempt,
                                                 Phase phase) const {
  if (!attempt_ || attempt_->number != attempt) return std::nullopt;
  const auto& sites = attempt_->terms.agreement.sites;
  const auto found = std::ranges::find(sites, site);
  if (found == sites.end()) return std::nullopt;
  const auto number = static_cast<std::uint32_t>(found - sites.begin());
  if (attempt_->phase > phase)
    return attempt_->came.at(phase).contains(number) ? std::optional(number) : std::nullopt;
  SiteMistake::unless(attempt_->phase == phase, "a message of a phase that is still to come");
  const Coordinator& coordinator = attempt_->coordinator;
  const bool there = coordinator.awaited().contains(number) || coordinator.arrived().contains(number);
  return there ? std::optional(number) : std::nullopt;
}

void SecureRound::receive(std::uint32_t site, Phase phase, std::string_view body) {
  const auto bytes = std::as_bytes(std::span(body));
  const auto take = [&](const auto& message) {
    require(message.sender == site, "a message of another site");
    attempt_->coordinator.receive(message);
  };
  // Other sites check the signatures as well, and could not continue. So a site with a wrong one drops out
  // alone.
  const auto check_signature = [&](const Bytes& text, const auto& signature) {
    SiteMistake::unless(is_signed(attempt_->terms.certificates[site], text, signature),
                        "the message at {} is not signed by this site's key",
                        kPhases[static_cast<std::size_t>(phase)]);
  };
  if (phase == Phase::advertise) {
    const auto message = Advertisement::decode(bytes);
    SiteMistake::unless(
        message.context == attempt_->terms.agreement.digest(),
        "the coordinator's settings of secure aggregation or of privacy are not those that the site "
        "was told of when it began; start the site again");
    check_signature(message.signed_text(), message.signature);
    take(message);
  }
  if (phase == Phase::share) take(SharesUpload::decode(bytes));
  if (phase == Phase::consent) {
    const auto message = Consent::decode(bytes);
    check_signature(attempt_->coordinator.survivors().signed_text(), message.signature);
    take(message);
  }
  if (phase == Phase::unmask) take(Unmasking::decode(bytes));
  changed_.notify_all();
}

SecureRound::Bytes SecureRound::told(std::uint32_t site, Phase phase) const {
  const Coordinator& coordinator = attempt_->coordinator;
  switch (phase) {
    case Phase::advertise:
      return coordinator.roster().encode();
    case Phase::share:
      return coordinator.delivery(site).encode();
    case Phase::mask:
      return coordinator.survivors(site).encode();
    case Phase::consent:
      return coordinator.consents(site).encode();
    default:
      return {};
  }
}

SecureRound::Answer SecureRound::exchange(const std::string& site, std::int64_t attempt, Phase phase,
                                          std::string_view body, double most, const Cancelled& cancelled) {
  std::unique_lock lock(mutex_);
  const auto until = Clock::now() + seconds(most);
  while (true) {
    const auto number = member(site, attempt, phase);
    if (!number) return {Answer::State::too_late};
    if (attempt_->phase > phase) return {Answer::State::here, told(*number, phase)};
    // The vector comes as a file. A message that has already been received is not taken again.
    if (phase != Phase::mask && attempt_->coordinator.awaited().contains(*number))
      SiteMistake::in([&] { receive(*number, phase, body); });
    if (phase == Phase::unmask) return {Answer::State::here};  // the coordinator completes the sum alone
    if (stopped_ || Clock::now() >= until || cancelled()) return {Answer::State::not_yet};
    changed_.wait_until(lock, std::min(until, Clock::now() + seconds(1)));
  }
}

std::unique_ptr<SecureRound::Upload> SecureRound::begin_upload(const std::string& site, std::int64_t attempt,
                                                               const FileDigest& digest) {
  std::unique_lock lock(mutex_);
  const auto number = member(site, attempt, Phase::mask);
  if (!number) throw RoundOver("this attempt at a sum is over, or goes on without this site");
  const bool awaited = attempt_->phase == Phase::mask && attempt_->coordinator.awaited().contains(*number);
  if (!awaited) return nullptr;
  const Agreement& agreement = attempt_->terms.agreement;
  const std::size_t head = MaskedInput::most_head(agreement.sites.size());
  SiteMistake::unless(digest.bytes <= agreement.length * agreement.ring.width + head,
                      "a masked update of {} bytes, where {} numbers of {} bytes are expected", digest.bytes,
                      agreement.length, agreement.ring.width);
  const std::filesystem::path folder = folder_of(attempt), file = folder / (site + ".masked");
  const std::uint64_t upload = ++attempt_->uploads[site];
  lock.unlock();
  IncomingFile::make_part(file, digest, site);
  return std::unique_ptr<Upload>(new Upload(*this, site, attempt, upload, file, digest));
}

SecureRound::Upload::Upload(SecureRound& round, std::string site, std::int64_t attempt, std::uint64_t number,
                            std::filesystem::path path, const FileDigest& digest)
    : round_(round),
      site_(std::move(site)),
      attempt_(attempt),
      number_(number),
      path_(std::move(path)),
      file_(path_, digest) {}

void SecureRound::check_current(const Upload& upload) const {
  if (!member(upload.site_, upload.attempt_, Phase::mask) || attempt_->phase != Phase::mask)
    throw RoundOver("this attempt at a sum is over, or goes on without this site");
  require(attempt_->uploads.at(upload.site_) == upload.number_, "another upload of this site's has begun");
}

void SecureRound::Upload::append(std::uint64_t offset, Pieces pieces, std::uint64_t checksum) {
  {
    const std::scoped_lock lock(round_.mutex_);
    round_.check_current(*this);
  }
  file_.append(offset, pieces, checksum);
}

void SecureRound::Upload::finish(const std::function<void()>& meanwhile) {
  file_.read_back();  // other calls need not wait for that
  std::unique_lock lock(round_.mutex_);
  round_.check_current(*this);
  file_.finish();
  const OutgoingFile file(path_);
  std::filesystem::remove(path_);  // `file` keeps its bytes until it is closed
  Coordinator& coordinator = round_.attempt_->coordinator;
  const Agreement& agreement = round_.attempt_->terms.agreement;
  const std::uint64_t vector = agreement.length * agreement.ring.width;
  secure_aggregation::Bytes head(file.bytes() - std::min(file.bytes(), vector));
  file.read_at(head.data(), head.size(), 0);
  SiteMistake::in([&] {
    const auto input = MaskedInput::decode(head);
    require(input.sender == round_.member(site_, attempt_, Phase::mask), "a masked update of another site");
    require(input.packed.empty(), "a masked update with {} bytes too many", input.packed.size());
    coordinator.arrive(input, file.bytes() - head.size());
  });
  // Adding takes as long as reading the file, so other sites' calls must not wait for it. While adding_ is
  // above 0, the attempt does not end its phase and is not destroyed.
  ++round_.adding_;
  lock.unlock();
  struct Added {
    ~Added() {
      lock.lock();
      --round.adding_;
      round.changed_.notify_all();
    }
    SecureRound& round;
    std::unique_lock<std::mutex>& lock;
  } const added{round_, lock};
  if (meanwhile) meanwhile();
  const std::scoped_lock one(round_.sum_mutex_);
  coordinator.add([&](std::size_t offset, std::span<std::byte> out) {
    file.read_at(out.data(), out.size(), head.size() + offset);
  });
}

}  // namespace conclave
