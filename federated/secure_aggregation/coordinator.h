// One round of secure aggregation as the coordinator goes through it; site.h has the other side.
//
//     phase       receives        then tells
//     advertise   Advertisement   roster(), to all
//     share       SharesUpload    delivery(site), to each
//     mask        MaskedInput     survivors(), to all
//     consent     Consent         consents(site), to each
//     unmask      Unmasking       sum()
//
// end_phase() goes from one to the next, when the caller thinks fit (all are there; a deadline): who has not
// sent by then has dropped out, and is refused from then on. A message that is refused throws Error and
// changes nothing. Where too few sites are left, end_phase() throws, and the round is over.
//
// A site that leaves between `share` and `mask` costs most: the masks that others have with it are all to be
// computed. Begin when updates are ready, not before they are computed.
//
// It learns the sum and who is in it. A vector is added as it comes, from its file if it is not in memory: of
// memory one vector is needed, whatever the number of sites.
#pragma once

#include <map>
#include <optional>
#include <set>

#include "federated/secure_aggregation/round_context.h"

namespace conclave::secure_aggregation {

class Coordinator {
 public:
  explicit Coordinator(Agreement agreement);

  void receive(const Advertisement& message);
  void receive(const SharesUpload& message);
  void receive(const MaskedInput& message);
  /// The same of one whose packed bytes, `size`, are not in memory. Where read() throws, the round is over.
  void receive(const MaskedInput& head, std::size_t size, const RingVector::ReadPacked& read);
  void receive(const Consent& message);
  void receive(const Unmasking& message);

  /// Sites of this phase that have sent what it asks for, and that have not yet.
  const std::set<std::uint32_t>& arrived() const { return arrived_; }
  const std::set<std::uint32_t>& awaited() const { return awaited_; }
  void end_phase();

  const Roster& roster() const { return roster_; }
  SharesDelivery delivery(std::uint32_t site) const;
  const Survivors& survivors() const { return survivors_; }
  Consents consents(std::uint32_t site) const;

  /// The sum of the survivors' vectors, [agreement.length]; after the last phase's end. Throws Error where
  /// shares are missing, or do not give the secret back that its site committed to.
  RingVector sum();

 private:
  enum class Phase { advertise, share, mask, consent, unmask, done };
  void arrive_with_vector(const MaskedInput& head, std::size_t size);
  /// Takes `sender` from awaited_ to arrived_, or throws Error.
  void arrive(Phase phase, std::uint32_t sender);
  bool survived(std::uint32_t site) const { return std::ranges::binary_search(survivors_.sites, site); }
  /// Holders, and what they say their share is.
  using Shares = std::map<std::uint32_t, Secret>;
  Secret secret_of(std::uint32_t owner);
  /// What is to be added to the sum of the survivors' vectors.
  std::vector<Mask> remaining_masks();

  Agreement agreement_;
  Phase phase_ = Phase::advertise;
  std::set<std::uint32_t> awaited_, arrived_;
  std::map<std::uint32_t, Advertisement> advertisements_;
  Roster roster_;
  std::optional<RoundContext> round_;
  std::set<std::uint32_t> sharers_;  // who came through phase `share`
  std::map<std::uint32_t, SharesUpload> uploads_;
  RingVector sum_;
  bool damaged_ = false;  // the sum has part of a vector
  Survivors survivors_;
  std::map<std::uint32_t, Consent> consents_;
  std::map<std::uint32_t, Shares> shares_;  // by owner, of that secret of the two that unmasking asks for
};

}  // namespace conclave::secure_aggregation
