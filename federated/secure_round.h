// A round of secure aggregation at the coordinator, between its loop and the calls of sites. An attempt is
// one exchange of federated/secure_aggregation that sums the updates that sites have ready. If an attempt
// fails because too few sites are left, another one follows, with the same updates and a new number, unless
// sites were asked to unmask. After that request there is no further attempt, because two sums over different
// survivors would reveal their difference: the round is then skipped. An attempt's number, and the fact that
// sites are asked to unmask, are in the database before any site is told.
#pragma once

#include <condition_variable>
#include <mutex>

#include "federated/disputes.h"
#include "federated/policy.h"
#include "federated/random_source.h"
#include "federated/round_board.h"
#include "federated/round_privacy.h"
#include "federated/secure_aggregation/coordinator.h"
#include "federated/secure_aggregation/fixed_point.h"
#include "federated/strategies/strategy.h"

namespace conclave {

struct SecureOptions {
  bool enabled = false;
  std::string federation;
  double clip_norm = 1;      ///< longer updates are scaled down to this norm by the sites
  std::size_t width = 4;     ///< bytes of a number as it is sent
  double most_examples = 0;  ///< above 0: weights are hidden, and a site counts for at most so many examples;
                             ///< 0: all sites count equally
  double phase_seconds = 60;  ///< after which a phase ends without the sites whose message is missing
  RoundPrivacy privacy = {};  ///< guarantee for the sums
  double most_epsilon = 0;    ///< most that the sums of all rounds may spend; 0: no bound
  std::int64_t least = 3;     ///< fewest sites whose sum may be revealed; at least two thirds of an attempt's
};

/// The terms of an attempt. The coordinator proposes them, and each site checks them
/// (transport/secure_site.cpp).
struct SecureTerms {
  secure_aggregation::Agreement agreement;
  std::vector<std::string> certificates;  ///< PEM, in the order of agreement.sites
  double clip_norm = 1;
};

/// How a round's updates are made, as the coordinator tells the sites.
struct RoundWork {
  std::int64_t round = 0, rounds = 0;
  std::string model_sha256 = {};  ///< of the checkpoint, which contains the recipe
  std::int64_t local_steps = 0;
  SiteRules rules = {};
  std::vector<SharingRule> sharing = {};
};

/// Text for Agreement::values: how a round's updates are made, and how sites convert them to integers. The
/// agreement's digest covers it, so an attempt cannot succeed among sites that were told different things.
///
/// It contains the round number because attempt numbers are counted over all rounds. Without it, a
/// coordinator could put sites of different rounds into one attempt. It could keep one site in its round, by
/// telling that site that each attempt has failed, and include the same update of it in several sums, each
/// with new updates of the other sites.
///
/// It contains the model's hash because sites that are given a model from which nothing is learned send
/// updates of zero; the sum would then be the update of the remaining sites (Pasquini, Francati, Ateniese
/// 2022, "Eluding Secure Aggregation in Federated Learning via Model Inconsistency").
std::string sum_values(const RoundWork& work, double clip_norm, double most_examples,
                       const RoundPrivacy& privacy);

/// If weights are hidden, a site with the share s of `most_examples` sends s times its update and, as one
/// more number, s * clip_norm * kWeightScale. A scale below 1 leaves room for rounding.
inline constexpr double kWeightScale = 0.5;

/// Throws Error if updates of `elements` numbers from `sites` sites cannot be summed: if words have no room
/// for them and the noise.
void check_sums(const SecureOptions& options, std::uint64_t elements, std::size_t sites);

/// Advice where too few sites are there. `secure`: with secure aggregation, when each site has a bound of its
/// own, at first the quorum (secure_site.cpp).
constexpr std::string_view start_with_lower_quorum(bool secure) {
  return secure ? "start the coordinator again with a lower federation.quorum, and the sites with a lower "
                  "site.least_sites, if their owners agree"
                : "start the coordinator again with a lower federation.quorum";
}

class SecureRound {
 public:
  using Say = std::function<void(const std::string&)>;
  using Bytes = secure_aggregation::Bytes;
  using Phase = AttemptPhase;

  /// Stores masked updates in transit in `directory`/masked. `board` and `database` must outlive this.
  SecureRound(std::filesystem::path directory, Database& database, RoundBoard& board, SecureOptions options,
              Say say);

  // For the coordinator's loop.

  using LackingRoom = std::function<std::string()>;
  struct Sum {
    secure_aggregation::RingVector sum;
    secure_aggregation::FixedPoint format;
    double count = 1;                            ///< by which the sum is divided to give the mean
    std::vector<ReceivedUpdate> survivors = {};  ///< in the order of the agreement's sites; with hidden
                                                 ///< weights, each has the mean number of examples

    /// The sum divided by `count`, its elements from `offset` on. This is the mean of the survivors' updates,
    /// weighted equally or, with hidden weights, by examples. If the unit of privacy is a record or a client,
    /// `count` is the expected number of units in a round.
    void read_mean(std::size_t offset, std::span<float> out) const;
  };
  /// Makes one attempt among the sites in `ready`, without those that disputes.h leaves out. Returns nothing
  /// if it failed, which was reported, or after stop(). Before it returns from an attempt that failed before
  /// any site was told of it, or after which failed_attempt.h says to wait, it pauses: for a second, then for
  /// two, up to a minute. A sum ends that.
  /// Calls meanwhile() just before it unmasks the sum, when the calls of sites, and stop(), need not wait.
  /// lacking_room() says what keeps the round's result from being saved, "" if nothing does. Then no site is
  /// asked for an update, or to unmask the sum: the attempt fails at its beginning, and later it waits.
  std::optional<Sum> attempt(
      const RoundWork& work, std::uint64_t elements, std::vector<ReceivedUpdate> ready,
      const std::function<void()>& meanwhile = {},
      const LackingRoom& lacking_room = [] { return std::string(); });
  /// Whether sites were asked to unmask the round's sum: then there is no other attempt.
  bool unmasked(std::int64_t round) const;
  /// The privacy of that sum as it was recorded, whatever the options are now, except clip_norm, which is not
  /// recorded. Nothing if the sum had no noise.
  std::optional<RoundPrivacy> privacy_of(std::int64_t round) const;
  /// Epsilon at the current delta of all sums that sites were asked to unmask, each with the noise that it
  /// had, and of `more` further sums with the current noise.
  double epsilon(std::int64_t more = 0) const { return epsilon(options_.privacy, more); }
  /// The same with the noise and delta of `privacy` instead of the current ones.
  double epsilon(const RoundPrivacy& privacy, std::int64_t more = 0) const;
  /// Number of rounds from `first` to before `end` whose sum sites were asked to unmask. Their privacy is
  /// already spent. Those that are not over will be skipped.
  std::int64_t unmasked_in(std::int64_t first, std::int64_t end) const;
  void stop();
  /// Ends `phase` of the present attempt, if it is in progress, without the sites whose message is missing,
  /// as when its time is over. For tests.
  void end_phase(Phase phase);

  // For the calls of sites, on any thread. Each waits for at most `seconds`, and no longer once cancelled()
  // returns true.

  using Cancelled = std::function<bool()>;
  /// `site` is ready with an update. Returns the terms of the next attempt that includes it, with a number
  /// above `after`.
  std::optional<SecureTerms> ready(const std::string& site, const UpdateOffer& offer, std::int64_t after,
                                   double seconds, const Cancelled& cancelled);
  struct Answer {
    enum class State : std::uint8_t { here, not_yet, too_late } state;
    Bytes body = {};
  };
  /// Takes the site's message of a phase. Answers, at the end of the phase, with what the coordinator then
  /// sends. Throws Error if the message is not valid.
  Answer exchange(const std::string& site, std::int64_t attempt, Phase phase, std::string_view body,
                  double seconds, const Cancelled& cancelled);

  /// Upload of a masked update; see RoundBoard::Upload.
  class Upload {
   public:
    std::uint64_t received() const { return file_.received(); }
    void append(std::uint64_t offset, Pieces pieces, std::uint64_t checksum);
    void append(std::uint64_t offset, std::string_view data, std::uint64_t checksum) {
      append(offset, Pieces(&data, 1), checksum);
    }
    /// Adds the update to the sum. Calls meanwhile() just before, when other sites' calls need not wait.
    void finish(const std::function<void()>& meanwhile = {});

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
  /// Null if the masked update has already arrived. Throws RoundOver if the attempt is over, or goes on
  /// without the site.
  std::unique_ptr<Upload> begin_upload(const std::string& site, std::int64_t attempt,
                                       const FileDigest& digest);

 private:
  using Sites = std::set<std::uint32_t>;
  struct Attempt {
    std::int64_t number;
    SecureTerms terms;
    secure_aggregation::Coordinator coordinator;
    Phase phase = Phase::advertise;
    bool phase_ends = false;           // although messages are missing
    std::map<Phase, Sites> came = {};  // for each phase that is over: the sites that completed it
    std::map<std::string, std::uint64_t> uploads = {};
  };
  /// The number of `site` in `attempt`. Nothing if this is not the current attempt, or if the site did not
  /// get as far as `phase`.
  std::optional<std::uint32_t> member(const std::string& site, std::int64_t attempt, Phase phase) const;
  void receive(std::uint32_t site, Phase phase, std::string_view body);
  Bytes told(std::uint32_t site, Phase phase) const;
  void check_current(const Upload& upload) const;
  std::filesystem::path folder_of(std::int64_t attempt) const;  ///< for its masked updates
  /// A new attempt's number, which is on disk when this returns and never used again.
  std::int64_t new_number(std::int64_t round);
  void end_phases(std::unique_lock<std::mutex>& lock, std::int64_t round, const LackingRoom& lacking_room);
  void wait_for_room(std::unique_lock<std::mutex>& lock, std::int64_t round, const LackingRoom& lacking_room);
  /// Notes what the attempt has shown of its sites. Returns what follows if it failed.
  AfterFailure note_sites(std::int64_t round, bool succeeded);
  /// Says why the next attempt waits, and waits.
  void pause(std::unique_lock<std::mutex>& lock, std::int64_t round, const AfterFailure& after);

  std::filesystem::path directory_;
  Database& database_;
  RoundBoard& board_;
  SecureOptions options_;
  Say say_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool stopped_ = false;
  double pause_ = 0;  // seconds of the last pause since there was a sum
  std::optional<Attempt> attempt_;
  std::size_t adding_ = 0;  // masked updates that are being added; above 0, attempt_ stays
  SystemRandom random_;     // before disputes_
  Disputes disputes_;
  std::mutex sum_mutex_;  // for adding to the sum; taken without mutex_
};

}  // namespace conclave
