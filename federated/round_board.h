// The state that the coordinator's loop shares with the threads that serve sites: the current round, the
// sites that were given it, and the updates that have arrived.
//
// In asynchronous rounds (federated/strategies/fed_buff.h), a site that has delivered is given the newest
// model at once, even if that is the model it had. Its next update counts in whichever round it arrives,
// unless its model is too old. An update is identified by its site and turn. In synchronous rounds a site has
// one update per round, and the turn is the round. In asynchronous rounds the turn is the number of updates
// of the site that counted before. The board counts them, so that it recognizes an update that is sent again,
// however many rounds later. The digest of each round's model is on record, so that a site cannot claim that
// its update was made from a model that never existed.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "core/error.h"
#include "federated/database.h"
#include "federated/file_transfer.h"

namespace conclave {

struct RoundPlan {
  std::int64_t round = 0, rounds = 0;
  std::filesystem::path model;  ///< the checkpoint that the round begins with
  FileDigest digest;            ///< of the model
  std::uint64_t elements = 0;   ///< numbers in an update
  std::size_t experts = 0;      ///< whose token counts come with an update
  bool secure = false;          ///< sites announce that they are ready; no readable update is accepted
  std::size_t buffer = 0;       ///< updates that complete an asynchronous round; 0: the round is synchronous
  std::int64_t stalest = 0;     ///< asynchronous: by how many rounds an update's model may be older
  std::string strategy = {};    ///< makes the next model from the updates
};

/// How a round's updates become the next model.
struct RoundMethod {
  std::string strategy;
  bool asynchronous = false, secure = false;
};

struct ReceivedUpdate {
  std::string site;
  std::filesystem::path file;  ///< empty in a secure round
  double examples = 0;
  std::map<std::string, double> metrics;
  std::vector<double> tokens;    ///< [plan.experts]
  std::string digest;            ///< of the file, in hexadecimal
  std::string certificate = {};  ///< of the site, in PEM, in a secure round
  std::int64_t turn = 0;         ///< see above
  std::int64_t base = 0;         ///< round whose model the update was made from
};

/// What a site states about an update.
struct UpdateOffer {
  std::int64_t round = 0;
  FileDigest base, update;
  double examples = 0;
  std::map<std::string, double> metrics;
  std::vector<double> tokens;
  std::string certificate = {};  ///< of the site, in PEM, in a secure round
  std::int64_t turn = 0;         ///< in asynchronous rounds
};

/// The update's round is over, or the update was made from another model: it can no longer be used.
class RoundOver : public Error {
 public:
  using Error::Error;
};

/// A request or update of a site is not valid in any round, so sending it again is useless. Other Errors,
/// such as damage in transit or a full disk, may not occur the next time.
class SiteMistake : public Error {
 public:
  using Error::Error;

  template <class... Args>
  static void unless(bool holds, fmt::format_string<Args...> format, Args&&... args) {
    if (!holds) throw SiteMistake(fmt::format(format, std::forward<Args>(args)...));
  }

  /// Calls f(), which reads and checks a site's message. Throws SiteMistake in place of its Errors.
  template <class F>
  static auto in(F f) {
    try {
      return f();
    } catch (const Error& error) {
      throw SiteMistake(error.what());
    }
  }
};

class RoundBoard {
 public:
  /// Stores updates in `directory`/updates, and their metadata in `database`, which must outlive this.
  RoundBoard(std::filesystem::path directory, Database& database);

  // For the coordinator's loop.

  /// Opens a round. Finds the updates of it that arrived before a restart.
  void open(const RoundPlan& plan);
  /// How far an open round is.
  struct Progress {
    std::size_t updates = 0;                ///< that have come
    std::vector<std::string> missing = {};  ///< if overdue: sites that joined the round, and did not deliver
    bool overdue = false;                   ///< the deadline is over, and there is no quorum
    bool reminds = false;                   ///< an asynchronous round still waits; in intervals
  };
  struct Patience {
    std::size_t quorum = 1;    ///< updates that are needed
    std::size_t everyone = 0;  ///< updates that can come at most; 0: unknown
    double gather = 0;         ///< seconds for sites to join the round
    double deadline = 0;       ///< seconds for the sites that joined it
    /// Seconds without an update after the deadline, until tell() is called again; in an asynchronous round,
    /// seconds between two reminders.
    double remind = 300;
    /// Called at first and for every update that comes; without a quorum also at the deadline, and after it
    /// in intervals; in an asynchronous round also in intervals. Called by wait()'s thread, which holds no
    /// lock.
    std::function<void(const Progress&)> tell = {};
  };
  /// Waits for a synchronous round's updates until a quorum is there and, besides,
  /// - all sites that were given the round have delivered, and these are `everyone`, or `gather` is over; or
  /// - `deadline` is over.
  /// Waits for an asynchronous round's updates until there are plan.buffer of them. Returns the updates,
  /// ordered by site, and accepts no more until the next open(). Returns nothing after stop().
  std::optional<std::vector<ReceivedUpdate>> wait(const Patience& patience);
  /// The method by which the round was last opened; nothing if it never was.
  std::optional<RoundMethod> method_of(std::int64_t round) const;
  /// Number of rounds on record: the newest that was opened, and those before it.
  std::int64_t rounds_of_record() const;
  /// Whether one of the rounds before `round` had no secure aggregation.
  bool had_plain_round_before(std::int64_t round) const;
  /// The updates on record for a round; their files may be gone.
  std::vector<ReceivedUpdate> updates_of(std::int64_t round);
  /// Replaces the updates on record for a round by those that its result was made of.
  void set_updates(std::int64_t round, const std::vector<ReceivedUpdate>& updates);
  /// Retires the closed round's updates, over which those of the next are written, and deletes its other
  /// files.
  void clear();
  /// The last round is over: its files are deleted, and sites are told so. Returns when the sites that were
  /// given it (in asynchronous rounds, also those that may still train) have fetched the result, after
  /// `seconds`, or at stop().
  void finish(const RoundPlan& result, double seconds);
  void stop();

  // For the calls of sites. Any thread.

  enum class Work : std::uint8_t { wait, train, finished };
  struct Assignment {
    Work work;
    RoundPlan plan = {};
    std::int64_t counted = 0;  ///< turn after that of the site's last update that counted; 0: none counted
  };
  /// Waits until there is something to do for `site`, but for at most `seconds`, and no longer once
  /// cancelled() returns true.
  Assignment next(const std::string& site, double seconds, const std::function<bool()>& cancelled);
  /// In a secure round: `site` has an update, which counts as delivered. Has no effect while the round is not
  /// open, so it is to be called again. Of several calls the first offer counts, with the last certificate.
  /// Throws RoundOver, and Error if the offer is not valid for this round.
  void ready(const std::string& site, const UpdateOffer& offer);
  /// The current round's model (or the result), to be sent. Throws RoundOver if the current round is not
  /// `round`.
  RoundPlan model_of(std::int64_t round);
  /// `site` has received all of that model.
  void fetched(const std::string& site, std::int64_t round);

  /// An upload in progress. Only a site's newest upload is valid; an older one that still hangs is refused.
  class Upload {
   public:
    std::uint64_t received() const { return file_.received(); }
    /// Throws Error if the chunk is malformed or a number is not finite; RoundOver if the round is over.
    void append(std::uint64_t offset, Pieces pieces, std::uint64_t checksum);
    void append(std::uint64_t offset, std::string_view data, std::uint64_t checksum) {
      append(offset, Pieces(&data, 1), checksum);
    }
    /// Throws Error if the file is not what was offered. The update counts when this returns.
    void finish();

   private:
    friend class RoundBoard;
    Upload(RoundBoard& board, std::string site, UpdateOffer offer, std::uint64_t number,
           std::filesystem::path file, std::mutex& writing);
    RoundBoard& board_;
    std::string site_;
    UpdateOffer offer_;
    std::uint64_t number_;  // among the site's uploads
    std::filesystem::path path_;
    IncomingFile file_;
    std::mutex& writing_;
  };
  /// Null if this update of the site is already complete. Throws RoundOver, and Error if the offer is not
  /// valid for this round.
  std::unique_ptr<Upload> begin_upload(const std::string& site, const UpdateOffer& offer);

 private:
  enum class Phase : std::uint8_t { closed, open, finished };
  void accept(const Upload& upload);
  void assign(const std::string& site);
  std::int64_t counted(const std::string& site) const;
  bool is_asynchronous() const { return plan_.buffer > 0; }
  /// Whether the round is open and, if it is asynchronous, still needs updates.
  bool has_room() const;
  std::vector<std::string> missing() const;
  void await_room(std::unique_lock<std::mutex>& lock);
  std::string model_of_record(std::int64_t round) const;  ///< its digest; "" if there was none
  void insert(std::int64_t round, const ReceivedUpdate& update);
  /// Throws RoundOver if an update made from the model of `round` can no longer count.
  void check_in_time(std::int64_t round) const;
  void check_current(const std::string& site, std::int64_t round, std::uint64_t number);
  std::filesystem::path file_of(const std::string& site, std::int64_t turn) const;

  std::filesystem::path directory_;
  Database& database_;
  std::mutex mutex_;
  std::condition_variable changed_;
  Phase phase_ = Phase::closed;
  bool stopped_ = false;
  RoundPlan plan_;
  std::set<std::string> assigned_;  // sites that were given the round; after the last round: sites that have
                                    // yet to fetch the result
  std::map<std::pair<std::string, std::int64_t>, ReceivedUpdate> received_;  // by site and turn
  std::map<std::string, std::uint64_t> upload_numbers_;
  // Of each site: held while a file of it is written to, so that no call writes to what a later call has
  // finished. To be locked before mutex_.
  std::map<std::string, std::mutex> writing_;
};

}  // namespace conclave
