// A site's part in a secure round: it reports that it is ready, and then takes part in attempts at the sum
// until one succeeds.
#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <ctime>

#include "federated/round_board.h"
#include "federated/round_record.h"
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
          "updates only into sums of {} or more: colluding sites would learn too much from fewer. If the "
          "site's owners "
          "agree to fewer all the same, set it to that, and start the site again",
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
  RoundRecord record(options_.directory, round.round);
  record.check_may_join(terms.attempt());
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
    if (site.has_masked()) {  // otherwise nothing of the update is sent
      record.note_sent(terms.attempt());
      spend();
    }
    if (!send(header, file)) throw AttemptOver();
    std::filesystem::remove(file);
    if (!site.has_masked())
      throw BadAttempt(
          "too many sites' shares of secrets cannot be used; the coordinator now knows which, and this site "
          "has not sent its update");
  }
  const auto survivors = Survivors::decode(bytes_of(told(Message::MASK, {})));
  const Bytes consent = of_others([&] { return site.consent(survivors).encode(); });
  const auto consents = Consents::decode(bytes_of(told(Message::CONSENT, consent)));
  const Unmasking unmasking = of_others([&] { return site.unmask(consents); });
  record.note_unmasked(terms.attempt());
  told(Message::UNMASK, unmasking.encode());
}

}  // namespace conclave
