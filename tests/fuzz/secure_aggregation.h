// Fuzzes the decoders of secure aggregation's messages, and the coordinator and the site that receive them.
// The coordinator and the site are copies taken before each phase of a successful round. The corpus contains
// the messages of that round.
#pragma once

#include <string_view>

#include "federated/secure_aggregation/coordinator.h"
#include "federated/secure_aggregation/site.h"

namespace conclave {

class FuzzedRound {
 public:
  /// Runs a successful round and calls `keep(name, bytes)` with each of its messages.
  template <class Keep>
  explicit FuzzedRound(Keep keep) {
    using namespace secure_aggregation;
    const Identity nobody{[](ByteView) { return Bytes(2); },
                          [](auto, auto, ByteView signature) { return signature.size() == 2; }};
    const Agreement agreement = Agreement::among("fuzz", 1, {"a", "b", "c"}, {4}, kLength);
    Coordinator coordinator(agreement);
    std::vector<Site> sites;
    for (std::uint32_t site = 0; site < 3; ++site) sites.emplace_back(agreement, site, nobody, random_);
    const auto phase = [&](const char* name, auto send) {
      coordinators_.push_back(coordinator);
      sites_.push_back(sites[0]);
      for (std::uint32_t site = 0; site < 3; ++site) {
        const auto message = send(site);
        if (site == 0) keep(name, message.encode());
        coordinator.receive(message);
      }
      coordinator.end_phase();
    };
    phase("advertisement", [&](auto site) { return sites[site].advertise(); });
    keep("roster", coordinator.roster().encode());
    digests_ = {agreement.digest(), coordinator.roster().digest()};
    phase("shares_upload", [&](auto site) { return sites[site].share(coordinator.roster()); });
    keep("shares_delivery", coordinator.delivery(0).encode());
    phase("masked_input", [&](auto site) {
      return sites[site].mask(coordinator.delivery(site), std::vector<std::int64_t>(kLength, 5));
    });
    keep("survivors", coordinator.survivors(0).encode());
    phase("consent", [&](auto site) { return sites[site].consent(coordinator.survivors(site)); });
    keep("consents", coordinator.consents(0).encode());
    phase("unmasking", [&](auto site) { return sites[site].unmask(coordinator.consents(site)); });
  }

  /// Delivers `text` as it is and with the digests of the round, as messages with other digests are refused
  /// early.
  void run(std::string_view text) {
    using namespace secure_aggregation;
    const ByteView view = std::as_bytes(std::span(text));
    Bytes bytes(view.begin(), view.end());
    deliver(bytes);
    for (const Key& digest : digests_)
      if (bytes.size() >= 34) {
        std::ranges::copy(digest, bytes.begin() + 2);
        deliver(bytes);
      }
  }

 private:
  static constexpr std::size_t kLength = 3;

  void deliver(secure_aggregation::ByteView bytes) {
    using namespace secure_aggregation;
    to_coordinator<Advertisement>(bytes);
    to_coordinator<SharesUpload>(bytes);
    to_coordinator<MaskedInput>(bytes);
    to_coordinator<Consent>(bytes);
    to_coordinator<Unmasking>(bytes);
    to_site<Roster>(bytes, [](Site& site, const auto& message) { site.share(message); });
    to_site<SharesDelivery>(bytes, [](Site& site, const auto& message) {
      site.mask(message, std::vector<std::int64_t>(kLength, 5));
    });
    to_site<Survivors>(bytes, [](Site& site, const auto& message) { site.consent(message); });
    to_site<Consents>(bytes, [](Site& site, const auto& message) { site.unmask(message); });
  }
  template <class Message, class Receive>
  void receive(secure_aggregation::ByteView bytes, Receive receive) {
    Message message;
    try {
      message = Message::decode(bytes);
    } catch (const Error&) {
      return;
    }
    if (!std::ranges::equal(message.encode(), bytes)) throw std::logic_error("a message with two encodings");
    receive(message);
  }
  template <class Message>
  void to_coordinator(secure_aggregation::ByteView bytes) {
    receive<Message>(bytes, [&](const Message& message) {
      for (secure_aggregation::Coordinator coordinator : coordinators_) try {
          coordinator.receive(message);
        } catch (const Error&) {
        }
    });
  }
  template <class Message, class Use>
  void to_site(secure_aggregation::ByteView bytes, Use use) {
    receive<Message>(bytes, [&](const Message& message) {
      for (secure_aggregation::Site site : sites_) try {
          use(site, message);
        } catch (const Error&) {
        }
    });
  }

  secure_aggregation::SeededRandom random_{secure_aggregation::Secret()};  // the same round every time
  std::vector<secure_aggregation::Coordinator> coordinators_;
  std::vector<secure_aggregation::Site> sites_;
  std::vector<secure_aggregation::Key> digests_;
};

inline void fuzz_secure_aggregation(std::string_view bytes) {
  static FuzzedRound round([](auto, auto) {});
  round.run(bytes);
}

}  // namespace conclave
