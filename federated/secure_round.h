// A round by secure aggregation, between the coordinator's loop and the calls of sites: attempts at summing
// the updates that sites are ready with, each an exchange of federated/secure_aggregation. An attempt that
// fails, too few sites being left, is followed by another, with the same updates and a new number, for as
// long as nobody was asked to unmask; after that never, as sums over different survivors tell their
// difference: the round is then skipped. What was begun is in the database before any site is told.
#pragma once

#include <condition_variable>
#include <mutex>

#include "federated/policy.h"
#include "federated/round_board.h"
#include "federated/round_privacy.h"
#include "federated/secure_aggregation/coordinator.h"
#include "federated/secure_aggregation/fixed_point.h"
#include "federated/strategies/strategy.h"

namespace conclave {

struct SecureOptions {
  bool enabled = false;
  std::string federation;
  double clip_norm = 1;   ///< to which sites shorten longer updates
  std::size_t width = 4;  ///< bytes of a number
  double most_examples =
      0;  ///< as which a site counts at most, by weights that are hidden; 0: sites count alike
  double phase_seconds = 60;  ///< after which a phase goes on without who is missing
  RoundPrivacy privacy = {};  ///< of the sums
  double most_epsilon = 0;    ///< that all rounds' sums may spend; 0: no bound
  std::int64_t least = 3;     ///< sites whose sum may be known, at least; and two thirds of an attempt's
};

/// What the sites of an attempt agree on, and believe only as far as they can check it.
struct SecureTerms {
  secure_aggregation::Agreement agreement;
  std::vector<std::string> certificates;  ///< PEM, by site
  double clip_norm = 1;
};

/// What an update is made of and how, as far as a coordinator says it.
struct RoundWork {
  std::int64_t round = 0, rounds = 0;
  std::string model_sha256 = {};  ///< of the checkpoint, which has the recipe in it
  std::int64_t local_steps = 0;
  SiteRules rules = {};
  std::vector<SharingRule> sharing = {};
};

/// Of what a sum's updates are, and how sites make numbers of them: Agreement::values. Attempts at a sum have
/// numbers of their own, and one that took sites of several rounds would have whose round goes on in sum
/// after sum, with the same update. Sites that were given a model from which nothing is learned would leave
/// the others' updates alone in it (Pasquini, Francati, Ateniese 2022, "Eluding Secure Aggregation in
/// Federated Learning via Model Inconsistency").
std::string sum_values(const RoundWork& work, double clip_norm, double most_examples,
                       const RoundPrivacy& privacy);

/// Where weights are hidden, an update is sent times the site's share of `most_examples`, and behind it that
/// share times clip_norm and this, which leaves room for rounding.
inline constexpr double kWeightScale = 0.5;

class SecureRound {
 public:
  using Say = std::function<void(const std::string&)>;
  using Bytes = secure_aggregation::Bytes;
  enum class Phase : std::uint8_t { advertise, share, mask, consent, unmask, done };

  /// Masked updates under way are in `directory`/masked. `board` and `database` must outlive it.
  SecureRound(std::filesystem::path directory, Database& database, RoundBoard& board, SecureOptions options,
              Say say);

  // For the coordinator's loop.

  struct Sum {
    secure_aggregation::RingVector sum;
    secure_aggregation::FixedPoint format;
    double count = 1;                            ///< that the mean is over
    std::vector<ReceivedUpdate> survivors = {};  ///< by site; of hidden weights each has the mean

    /// Of the survivors' updates, each counting the same or, where weights are hidden, by its examples; where
    /// the unit of privacy is a record or a client, their sum over those that are in a round on average. The
    /// numbers from `offset` on.
    void read_mean(std::size_t offset, std::span<float> out) const;
  };
  /// One attempt among those who are ready. Nothing where it failed, and why was said, or stop().
  std::optional<Sum> attempt(const RoundWork& work, std::uint64_t elements,
                             const std::vector<ReceivedUpdate>& ready);
  /// Whether sites were asked to unmask the round's sum: then there is no other attempt.
  bool unmasked(std::int64_t round) const;
  /// The privacy that that sum had, whatever it is now, but for clip_norm; nothing where it had no noise, and
  /// where not all of it is on record.
  std::optional<RoundPrivacy> privacy_of(std::int64_t round) const;
  /// What the sums that sites were asked to unmask have spent, each with the noise that it had, and what so
  /// many `more` of the present noise would; at the present delta.
  double epsilon(std::int64_t more = 0) const { return epsilon(options_.privacy, more); }
  /// The same with another noise and delta than the present.
  double epsilon(const RoundPrivacy& privacy, std::int64_t more = 0) const;
  /// Rounds from this one on whose sum sites were asked to unmask: they are among what was spent, and
  /// skipped.
  std::int64_t unmasked_from(std::int64_t round) const;
  void stop();

  // For the calls of sites. Any thread; each waits up to `seconds`, or until `cancelled` says so.

  using Cancelled = std::function<bool()>;
  /// `site` is ready with an update; the terms of the next attempt that it is in, by a number above `after`.
  std::optional<SecureTerms> ready(const std::string& site, const UpdateOffer& offer, std::int64_t after,
                                   double seconds, const Cancelled& cancelled);
  struct Answer {
    enum class State : std::uint8_t { here, not_yet, too_late } state;
    Bytes body = {};
  };
  /// The message of a phase, for what the coordinator tells at its end. Throws Error where it is none.
  Answer exchange(const std::string& site, std::int64_t attempt, Phase phase, std::string_view body,
                  double seconds, const Cancelled& cancelled);

  /// A masked update on its way; as RoundBoard::Upload.
  class Upload {
   public:
    std::uint64_t received() const { return file_.received(); }
    void append(std::uint64_t offset, Pieces pieces, std::uint64_t checksum);
    void append(std::uint64_t offset, std::string_view data, std::uint64_t checksum) {
      append(offset, Pieces(&data, 1), checksum);
    }
    void finish();

   private:
    friend class SecureRound;
    Upload(SecureRound& round, std::string site, std::int64_t attempt, std::uint64_t number,
           std::filesystem::path path, const FileDigest& digest);
    SecureRound& round_;
    std::string site_;
    std::int64_t attempt_;
    std::uint64_t number_;
    std::filesystem::path path_;
    IncomingFile file_;
  };
  /// Null where it has come. Throws RoundOver where the attempt is over, or goes on without the site.
  std::unique_ptr<Upload> begin_upload(const std::string& site, std::int64_t attempt,
                                       const FileDigest& digest);

 private:
  using Sites = std::set<std::uint32_t>;
  struct Attempt {
    std::int64_t number;
    SecureTerms terms;
    secure_aggregation::Coordinator coordinator;
    Phase phase = Phase::advertise;
    std::map<Phase, Sites> came = {};  // through phases that are over
    std::map<std::string, std::uint64_t> uploads = {};
  };
  /// The number of `site` in the present attempt, if that is it, and the site still in it at `phase`.
  std::optional<std::uint32_t> member(const std::string& site, std::int64_t attempt, Phase phase) const;
  void receive(std::uint32_t site, Phase phase, std::string_view body);
  Bytes told(std::uint32_t site, Phase phase) const;
  void check_current(const Upload& upload) const;
  std::filesystem::path folder_of(std::int64_t attempt) const;  ///< for its updates
  /// Of an attempt; on the disk when it is returned, and no other's ever.
  std::int64_t new_number(std::int64_t round);
  void end_phases(std::unique_lock<std::mutex>& lock, std::int64_t round);

  std::filesystem::path directory_;
  Database& database_;
  RoundBoard& board_;
  SecureOptions options_;
  Say say_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool stopped_ = false;
  std::optional<Attempt> attempt_;
};

}  // namespace conclave
