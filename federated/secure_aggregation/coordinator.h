// The coordinator's side of one round of secure aggregation; site.h has the sites' side.
//
//     phase       receives        then sends
//     advertise   Advertisement   roster(), to all
//     share       SharesUpload    delivery(site), to each
//     mask        MaskedInput     survivors(site), to each
//     consent     Consent         consents(site), to each
//     unmask      Unmasking       sum()
//
// end_phase() goes to the next phase when the caller decides so: all messages are there, or a deadline has
// passed. A site that has not sent its message by then has dropped out; its later messages are refused. A
// message that is refused throws Error and changes nothing. If too few sites are left, end_phase() throws,
// and the round is over.
//
// A site that drops out between `share` and `mask` costs most: all masks that the other sites have in common
// with it must be computed. So begin when updates are ready, not before they are computed.
//
// The coordinator learns the sum and which sites are in it. Each vector is added when it arrives, from its
// file if it is not in memory. So memory is needed for one vector, whatever the number of sites.
#pragma once

#include <map>
#include <optional>
#include <set>

#include "federated/secure_aggregation/round_context.h"

namespace conclave::secure_aggregation {

class Coordinator {
 public:
  explicit Coordinator(Agreement agreement);

  /// Each throws Error, and changes nothing, for a message that came in another phase or twice, or from a
  /// site that has dropped out; of another round or setting; with a key that agrees with no other; or with
  /// shares, receipts or a vector of another size than were asked for. False shares are no Error: their
  /// sender is then one of cheaters().
  void receive(const Advertisement& message);
  void receive(const SharesUpload& message);
  void receive(const MaskedInput& message);
  /// The same for a vector of `size` packed bytes that is not in memory, in two steps: arrive(), then add()
  /// with read(), which supplies the bytes. add() takes long. Another thread may call it while this one calls
  /// anything but end_phase(), sum(), receive(MaskedInput) and add(). If read() throws, the round is over.
  void arrive(const MaskedInput& head, std::size_t size);
  void add(const RingVector::ReadPacked& read);
  void receive(const Consent& message);
  void receive(const Unmasking& message);

  /// Sites whose message of this phase has arrived, and sites whose message has not.
  const std::set<std::uint32_t>& arrived() const { return arrived_; }
  const std::set<std::uint32_t>& awaited() const { return awaited_; }
  void end_phase();
  /// Sites that lied, after sum() or what it threw: they sent other shares to unmask with than they had, or
  /// dealt shares of another secret than the one that they committed to. No site can make another one one of
  /// these.
  const std::set<std::uint32_t>& cheaters() const { return cheaters_; }
  /// By site: those with which it disagrees on whether shares have come; after `mask`. One of each two lies.
  const std::map<std::uint32_t, std::set<std::uint32_t>>& disagreements() const { return disagreements_; }
  /// A site that disagrees with more than so many others is the one that lies, if no more sites collude than
  /// agreed.
  std::size_t most_liars() const;

  const Roster& roster() const { return roster_; }
  SharesDelivery delivery(std::uint32_t site) const;
  /// The survivors alone, and with what `site` needs in order to consent.
  const Survivors& survivors() const { return survivors_; }
  Survivors survivors(std::uint32_t site) const;
  Consents consents(std::uint32_t site) const;

  /// The sum of the survivors' vectors, [agreement.length]; available once, after the last phase has ended.
  /// Throws Error if shares are missing, or if a secret reconstructed from shares does not match its owner's
  /// commitment (of a survivor) or public key (of a site that dropped out). Takes long for a long sum.
  /// Another thread may meanwhile call const functions other than cheaters().
  RingVector sum();

 private:
  enum class Phase { advertise, share, mask, consent, unmask, done };
  /// Moves `sender` from awaited_ to arrived_, or throws Error.
  void arrive(Phase phase, std::uint32_t sender);
  bool survived(std::uint32_t site) const { return std::ranges::binary_search(survivors_.sites, site); }
  /// Holders, and the share that each sent.
  using Shares = std::map<std::uint32_t, Secret>;
  /// The secret of which unmasking gave shares.
  Secret secret_of(std::uint32_t owner);
  bool is_secret_of(std::uint32_t owner, const Secret& secret) const;
  bool is_dealt(const Unmasking::Part& part, std::uint32_t holder) const;
  /// Whether `from` says that it has the shares of `owner`, and `owner`, if it has survived, that it says so.
  bool has_receipt(std::uint32_t from, std::uint32_t owner) const;
  /// Throws Error if shares that were passed on have not come, according to their receiver.
  void check_receipts();
  /// The masks to add to the sum of the survivors' vectors, so that no mask is left in it.
  std::vector<Mask> remaining_masks();

  Agreement agreement_;
  Phase phase_ = Phase::advertise;
  std::set<std::uint32_t> awaited_, arrived_;
  std::map<std::uint32_t, Advertisement> advertisements_;
  Roster roster_;
  std::optional<RoundContext> round_;
  std::set<std::uint32_t> sharers_;  // sites that completed phase `share`
  std::map<std::uint32_t, SharesUpload> uploads_;
  RingVector sum_;
  bool damaged_ = false;  // part of a vector was added, and the rest was not
  std::map<std::uint32_t, std::vector<Receipt>> receipts_, expected_;  // by sender
  Survivors survivors_;
  std::map<std::uint32_t, Consent> consents_;
  std::set<std::uint32_t> cheaters_;
  std::map<std::uint32_t, std::set<std::uint32_t>> disagreements_;
  std::map<std::uint32_t, Shares> shares_;  // by owner: shares of the one secret that unmasking asks for
};

}  // namespace conclave::secure_aggregation
