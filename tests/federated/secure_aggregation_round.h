// A round of secure aggregation in one process. Sites have ECDSA P-256 identities, and every message is
// encoded and decoded again, as on a connection.
#pragma once

#include <openssl/ec.h>
#include <openssl/evp.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "federated/secure_aggregation/coordinator.h"
#include "federated/secure_aggregation/site.h"

namespace conclave::secure_aggregation {

/// A signing key of ECDSA P-256, drawn by OpenSSL.
class SigningKey {
 public:
  SigningKey() : key_(EVP_EC_gen("P-256"), EVP_PKEY_free) {}
  Bytes sign(ByteView message) const {
    const Context context(EVP_MD_CTX_new(), EVP_MD_CTX_free);
    std::size_t size = 128;
    Bytes signature(size);
    require(EVP_DigestSignInit(context.get(), nullptr, EVP_sha256(), nullptr, key_.get()) == 1 &&
                EVP_DigestSign(context.get(), reinterpret_cast<unsigned char*>(signature.data()), &size,
                               reinterpret_cast<const unsigned char*>(message.data()), message.size()) == 1,
            "no signature");
    signature.resize(size);
    return signature;
  }
  bool verify(ByteView message, ByteView signature) const {
    const Context context(EVP_MD_CTX_new(), EVP_MD_CTX_free);
    return EVP_DigestVerifyInit(context.get(), nullptr, EVP_sha256(), nullptr, key_.get()) == 1 &&
           EVP_DigestVerify(context.get(), reinterpret_cast<const unsigned char*>(signature.data()),
                            signature.size(), reinterpret_cast<const unsigned char*>(message.data()),
                            message.size()) == 1;
  }

 private:
  using Context = std::unique_ptr<EVP_MD_CTX, void (*)(EVP_MD_CTX*)>;
  std::unique_ptr<EVP_PKEY, void (*)(EVP_PKEY*)> key_;
};

/// When a site drops out.
enum class Leaves {
  never,
  before_advertising,
  after_advertising,
  after_sharing,
  after_vector,
  after_consent
};

class TestRound {
 public:
  explicit TestRound(Agreement agreement, RandomSource& random = system())
      : agreement(std::move(agreement)), coordinator(this->agreement), keys_(this->agreement.sites.size()) {
    for (std::uint32_t site = 0; site < this->agreement.sites.size(); ++site)
      sites.emplace_back(this->agreement, site, identity(site), random);
  }
  Identity identity(std::uint32_t site) {
    return {[this, site](ByteView message) { return keys_[site].sign(message); },
            [this](std::uint32_t other, ByteView message, ByteView signature) {
              return keys_[other].verify(message, signature);
            }};
  }

  // Each function runs one phase: the sites that are left send their messages, and the phase ends. Sites that
  // are not in `leaves` stay to the end.
  void advertise() {
    for_those_after(Leaves::before_advertising,
                    [&](Site& site) { coordinator.receive(sent(site.advertise())); });
  }
  void share() {
    const Roster roster = sent(coordinator.roster());
    for_those_after(Leaves::after_advertising,
                    [&](Site& site) { coordinator.receive(sent(site.share(roster))); });
  }
  void mask(const std::vector<std::vector<std::int64_t>>& vectors) {
    for_those_after(Leaves::after_sharing, [&](Site& site) {
      const std::uint32_t number = number_of(site);
      const MaskedInput input = sent(site.mask(sent(coordinator.delivery(number)), vectors[number]));
      seen[number] = input.packed;
      coordinator.receive(input);
    });
  }
  void consent() {
    for_those_after(Leaves::after_vector, [&](Site& site) {
      coordinator.receive(sent(site.consent(sent(coordinator.survivors(number_of(site))))));
    });
  }
  void unmask() {
    for_those_after(Leaves::after_consent, [&](Site& site) {
      coordinator.receive(sent(site.unmask(sent(coordinator.consents(number_of(site))))));
    });
  }
  std::vector<std::int64_t> sum(const std::vector<std::vector<std::int64_t>>& vectors) {
    advertise();
    share();
    mask(vectors);
    consent();
    unmask();
    const RingVector sum = coordinator.sum();
    std::vector<std::int64_t> values(sum.size());
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = sum[i];
    return values;
  }

  /// The message as its receiver decodes it.
  template <class Message>
  static Message sent(const Message& message) {
    return Message::decode(message.encode());
  }
  static RandomSource& system() {
    static SystemRandom random;
    return random;
  }

  Agreement agreement;
  Coordinator coordinator;
  std::vector<Site> sites;
  std::map<std::uint32_t, Leaves> leaves;
  std::map<std::uint32_t, Bytes> seen;  // the masked vectors that the coordinator received

 private:
  std::uint32_t number_of(const Site& site) const { return static_cast<std::uint32_t>(&site - sites.data()); }
  template <class Sends>
  void for_those_after(Leaves phase, Sends sends) {
    for (Site& site : sites) {
      const auto found = leaves.find(number_of(site));
      if (found == leaves.end() || found->second == Leaves::never || found->second > phase) sends(site);
    }
    coordinator.end_phase();
  }

  std::vector<SigningKey> keys_;
};

inline Agreement agreement_among(std::size_t sites, std::uint64_t length, std::size_t width = 4,
                                 std::uint64_t round = 1) {
  std::vector<std::string> names;
  for (std::size_t i = 0; i < sites; ++i) names.push_back("site " + std::to_string(i));
  return Agreement::among("test", round, names, {width}, length);
}

}  // namespace conclave::secure_aggregation
