// A site's part in a secure round: it reports that it is ready, and then takes part in attempts at the sum
// until one succeeds.
#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <ctime>

#include "federated/database.h"
#include "federated/round_board.h"
#include "federated/secure_aggregation/shared_noise.h"
#include "federated/secure_aggregation/site.h"
#include "federated/secure_round.h"
#include "federated/transport/site_connection.h"

namespace conclave {
namespace {

using Message = federated::SecureMessage;
using secure_aggregation::Agreement;
using secure_aggregation::Bytes;
using secure_aggregation::ByteView;
using secure_aggregation::Consents;
using secure_aggregation::Identity;
using secure_aggregation::NoisyFormat;
using secure_aggregation::Roster;
using secure_aggregation::SharesDelivery;
using secure_aggregation::Survivors;
using secure_aggregation::Unmasking;

constexpr double kHeldSeconds = 20;  // longest time for which the coordinator delays an answer
constexpr std::uint32_t kLeastSites = 3;

struct AttemptOver {};

/// The messages of other sites or of the coordinator are not valid. This site has not revealed anything that
/// matters.
class BadAttempt : public Error {
 public:
  using Error::Error;
};

/// Calls f(), all Errors of which are caused by messages of others.
template <class F>
auto of_others(F f) {
  try {
    return f();
  } catch (const Error& error) {
    throw BadAttempt(error.what());
  }
}

RoundWork work_of(const SiteRound& round) {
  return {.round = round.round,
          .rounds = round.rounds,
          .model_sha256 = round.model_sha256,
          .local_steps = round.local_steps,
          .rules = round.rules,
          .sharing = round.sharing};
}

std::string text_of(const Bytes& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}
ByteView bytes_of(const std::string& text) { return std::as_bytes(std::span(text)); }

// The agreement in the coordinator's terms, after the checks that a site can make: the terms must be at least
// as strong as a site requires (at least three sites, for example), and every site must have a certificate of
// the federation's authority.
Agreement agreement_of(const federated::SecureTerms& terms, const SiteRound& round, const Kit& kit) {
  Agreement agreement{
      .federation = terms.federation(),
      .round = static_cast<std::uint64_t>(terms.attempt()),
      .sites = {},
      .least = terms.least(),
      .colluding = terms.colluding(),
      .ring = {terms.width()},
      .length = terms.length(),
      .values = sum_values(work_of(round), terms.clip_norm(), round.most_examples, round.privacy)};
  for (const auto& member : terms.members()) {
    check_site_certificate(member.certificate(), kit.authority, member.site());
    agreement.sites.push_back(member.site());
  }
  agreement.check();
  // With fewer masks or shares than the sites would choose themselves, fewer colluding sites could expose an
  // update.
  const Agreement own = Agreement::among(agreement.federation, agreement.round, agreement.sites,
                                         agreement.ring, agreement.length);
  const auto expected = static_cast<std::uint64_t>(round.elements) + (round.most_examples > 0 ? 1 : 0);
  require(agreement.least >= own.least && agreement.colluding >= std::min(own.colluding, agreement.least - 2),
          "the coordinator's terms are too weak: the sum of at least {} of {} sites, of which {} may "
          "collude; expected at least {} sites, and {} that may collude",
          agreement.least, agreement.sites.size(), agreement.colluding, own.least,
          std::min(own.colluding, agreement.least - 2));
  require(
      agreement.least >= kLeastSites && agreement.length == expected,
      "the coordinator's terms make no sense: the sum of at least {} sites and {} numbers; expected {} or "
      "more, and {}",
      agreement.least, agreement.length, kLeastSites, expected);
  return agreement;
}

std::vector<float> shortened(const std::filesystem::path& update, std::size_t elements, double norm) {
  std::vector<float> values(elements);
  OutgoingFile(update).read_at(values.data(), elements * sizeof(float), 0);
  secure_aggregation::shorten(values, norm);
  return values;
}

// A record of the sums that this site has helped to unmask: for each round, the sites in the sum and how the
// numbers were made of their updates. It is on disk before the help is sent.
//
// The key is the round's number alone, because anything else that could distinguish two federations comes
// from the coordinator. For the same round, check() refuses
// - a sum over other sites: the two sums would reveal their difference;
// - a sum of numbers that were made differently. With another clip_norm, for example, the sums would differ
//   only for sites whose update is longer than it, and so expose these updates;
// - a second sum with noise: its noise is drawn anew, and the mean of the two sums would have less noise than
//   was accounted for.
// The same sum again, without noise, reveals nothing new.
class Unmasked {
 public:
  /// Whether this site has a record; the constructor makes one.
  static bool exists(const std::filesystem::path& directory) {
    return std::filesystem::exists(file_in(directory));
  }
  Unmasked(const std::filesystem::path& directory, std::int64_t round)
      : file_(file_in(directory).string()), database_(file_), round_(round) {
    database_.run(
        "CREATE TABLE IF NOT EXISTS unmasked(round INTEGER PRIMARY KEY, sites TEXT, made TEXT DEFAULT '')");
    if (!database_.has_column("unmasked", "made"))  // a file of an earlier version
      database_.run("ALTER TABLE unmasked ADD COLUMN made TEXT DEFAULT ''");
  }
  /// Before anything is sent: a sum with noise is over if this site has helped with one.
  void check_first(bool noisy) const {
    auto rows = database_.prepare("SELECT 1 FROM unmasked WHERE round = ?1");
    if (noisy && rows.bind(round_).next()) refuse_other_noise();
  }
  void check(const std::string& sites, const std::string& made, bool noisy) const {
    auto rows = database_.prepare("SELECT sites, made FROM unmasked WHERE round = ?1");
    rows.bind(round_);
    if (!rows.next()) return;
    require(rows.text(0) == sites,
            "round {}: the coordinator asks for the sum over {}, and this site helped with the sum over {} "
            "before: the two would reveal their difference. If you know that this is another federation, "
            "remove {}",
            round_ + 1, sites, rows.text(0), file_);
    require(rows.text(1) == made,
            "round {}: the coordinator asks for its sum once more, of updates from another model, or scaled, "
            "weighted or rounded in another way, and this site helped with one before: the two would reveal "
            "their difference. If you know that this is another federation, remove {}",
            round_ + 1, file_);
    if (noisy) refuse_other_noise();
  }
  void add(const std::string& sites, const std::string& made) {
    database_.prepare("INSERT OR IGNORE INTO unmasked VALUES(?1, ?2, ?3)").bind(round_, sites, made).run();
  }

 private:
  static std::filesystem::path file_in(const std::filesystem::path& directory) {
    return directory / "unmasked.sqlite";
  }
  [[noreturn]] void refuse_other_noise() const {
    fail(
        "round {}: the coordinator asks for its sum once more, with other noise, and this site helped with "
        "one before: the two together would reveal more than was accounted for. If you know that this is "
        "another "
        "federation, remove {}",
        round_ + 1, file_);
  }

  std::string file_;
  Database database_;
  std::int64_t round_;
};

}  // namespace

std::string Site::exchange(const SiteRound& round, std::int64_t attempt, int kind, const std::string& body) {
  Message message, reply;
  message.set_round(round.round);
  message.set_attempt(attempt);
  message.set_kind(static_cast<Message::Kind>(kind));
  message.set_body(body);
  while (true) {
    if (!call("secure aggregation", kHeldSeconds + kAnswerSeconds, [&](grpc::ClientContext& context) {
          return connection_->stub->exchange(context, message, reply);
        }))
      throw RoundOver("the round is over");
    if (reply.state() != Message::NOT_YET) break;
    pause(std::chrono::milliseconds(100));  // in case the coordinator does not delay its answers
  }
  if (reply.state() == Message::TOO_LATE) throw AttemptOver();
  return reply.body();
}

bool Site::deliver_masked(const SiteRound& round, const std::filesystem::path& update, double examples,
                          const federated::UpdateHeader& header, const std::function<void()>& spend) {
  federated::UpdateHeader offer = header;
  *offer.mutable_update() = to_message(FileDigest{});  // a digest would confirm a guess of the update
  std::int64_t attempt = 0;
  // If units are sampled, a masked update that was sent may be in a noisy sum. In a second sum the same
  // sample would not be an independent one, but the accounting assumes that it is.
  bool sent = false;
  const auto spend_and_note = [&] {
    sent = true;
    spend();
  };
  const auto drawn = [&] { return sent && round.privacy.rate < 1; };
  while (true) try {
      federated::SecureTerms terms;
      require(terms.ParseFromString(exchange(round, attempt, Message::READY, offer.SerializeAsString())) &&
                  terms.attempt() > attempt,
              "the coordinator's terms of secure aggregation cannot be read");
      attempt = terms.attempt();
      take_part(round, update, examples, offer, terms, spend_and_note);
      return true;
    } catch (const AttemptOver&) {
      say_(fmt::format("the attempt at a sum is over; ready for the next{}",
                       drawn() ? ", by other records" : ""));
      if (drawn()) return false;
      pause(kIdlePause);
    } catch (const RoundOver&) {
      return false;
    } catch (const BadAttempt& error) {  // the next attempt may be without its cause
      say_(fmt::format("this site cannot continue with this attempt at a sum: {}", as_told(error.what())));
      if (drawn()) return false;
      pause(kIdlePause);
    }
}

void Site::take_part(const SiteRound& round, const std::filesystem::path& update, double examples,
                     federated::UpdateHeader header, const federated::SecureTerms& terms,
                     const std::function<void()>& spend) {
  const Agreement agreement = of_others([&] { return agreement_of(terms, round, kit_); });
  require(agreement.least >= options_.least_sites,
          "the coordinator wants the sum of at least {} of {} sites, and by site.least_sites this site sends "
          "updates only into sums of {} or more: colluding sites would learn too much from fewer",
          agreement.least, agreement.sites.size(), options_.least_sites);
  const auto self =
      static_cast<std::size_t>(std::ranges::find(agreement.sites, kit_.info.name) - agreement.sites.begin());
  require(self < agreement.sites.size(), "the coordinator's terms do not include this site");
  const Identity identity{[this](ByteView message) { return sign(kit_, message); },
                          [&terms](std::uint32_t site, ByteView message, ByteView signature) {
                            return is_signed(terms.members(static_cast<int>(site)).certificate(), message,
                                             signature);
                          }};
  const auto told = [&](Message::Kind kind, const Bytes& body) {
    return exchange(round, terms.attempt(), kind, text_of(body));
  };
  if (Unmasked::exists(options_.directory))
    Unmasked(options_.directory, round.round).check_first(round.privacy.is_on());
  secure_aggregation::Site site(agreement, static_cast<std::uint32_t>(self), identity, source_);
  const auto roster = Roster::decode(bytes_of(told(Message::ADVERTISE, site.advertise().encode())));
  const Bytes shares = of_others([&] { return site.share(roster).encode(); });
  const auto delivery = SharesDelivery::decode(bytes_of(told(Message::SHARE, shares)));
  say_(fmt::format("round {} of {}: keys are shared among {} sites; masking the update", round.round + 1,
                   round.rounds, roster.sites.size()));
  {
    const auto format = of_others([&] {
      return NoisyFormat::choose(agreement, terms.clip_norm(),
                                 {round.privacy.clip_norm, round.privacy.noise_multiplier});
    });
    require(round.privacy.unit != RoundPrivacy::Unit::site || terms.clip_norm() <= round.privacy.clip_norm,
            "the coordinator's terms allow updates of norm {}, and its noise is for norm {}",
            terms.clip_norm(), round.privacy.clip_norm);
    auto values = shortened(update, static_cast<std::size_t>(round.elements), terms.clip_norm());
    if (round.most_examples > 0) {
      const double share = std::min(examples / round.most_examples, 1.0);
      for (float& value : values) value = secure_aggregation::toward_zero(share * value);
      values.push_back(secure_aggregation::toward_zero(share * kWeightScale * terms.clip_norm()));
    }
    auto numbers = secure_aggregation::quantize(values, format.format, random_);
    format.add_share(numbers, random_);
    const Bytes masked = of_others([&] { return site.mask(delivery, numbers).encode(); });
    const std::filesystem::path file = options_.directory / "masked.bin";
    FileDescriptor(file.string(), O_WRONLY | O_CREAT | O_TRUNC).write(masked.data(), masked.size());
    *header.mutable_update() = to_message(digest_of(file));
    header.set_attempt(terms.attempt());
    spend();
    if (!send(header, file)) throw AttemptOver();
    std::filesystem::remove(file);
  }
  const auto survivors = Survivors::decode(bytes_of(told(Message::MASK, {})));
  std::string names;
  for (const std::uint32_t one : survivors.sites)
    names += (names.empty() ? "" : ", ") + (one < agreement.sites.size() ? agreement.sites[one] : "?");
  const std::string made = fmt::format("{} bytes {}", agreement.values, agreement.ring.width);
  Unmasked unmasked(options_.directory, round.round);
  unmasked.check(names, made, round.privacy.is_on());
  const Bytes consent = of_others([&] { return site.consent(survivors).encode(); });
  const auto consents = Consents::decode(bytes_of(told(Message::CONSENT, consent)));
  const Unmasking unmasking = of_others([&] { return site.unmask(consents); });
  unmasked.add(names, made);
  told(Message::UNMASK, unmasking.encode());
}

}  // namespace conclave
