// What the coordinator's loop and the calls of sites, on threads of their own, share: which round it is, who
// has been given it, and whose update has come.
//
// Where rounds are asynchronous (federated/strategies/fed_buff.h), a site that has delivered is given the
// newest model at once, the same again or not, and what it makes of it counts in whichever round it comes, if
// its model is not too old. Updates are told apart by their site and turn. The turn is the round in
// synchronous rounds, where a site has one in each; else how many of the site's came before, which this board
// counts, so that what is sent again is known, however many rounds later. Each round's model is on record, so
// that a site cannot say that its update is of a model that there was not.
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
  std::filesystem::path model;  ///< the checkpoint that it begins with
  FileDigest digest;            ///< of that
  std::uint64_t elements = 0;   ///< of an update
  std::size_t experts = 0;      ///< whose tokens come with it
  bool secure = false;          ///< sites say that they are ready, and no update comes this way
  std::size_t buffer = 0;       ///< updates that make an asynchronous round; 0: it is synchronous
  std::int64_t stalest = 0;     ///< of an asynchronous one: rounds that an update's model may be older
  std::string strategy = {};    ///< by which its updates become the next model
};

/// How a round's updates become the next model.
struct RoundMethod {
  std::string strategy;
  bool asynchronous = false, secure = false;
};

struct ReceivedUpdate {
  std::string site;
  std::filesystem::path file;  ///< none in a secure round
  double examples = 0;
  std::map<std::string, double> metrics;
  std::vector<double> tokens;    ///< [plan.experts]
  std::string digest;            ///< of the file, in hexadecimal
  std::string certificate = {};  ///< of the site, where the round is secure
  std::int64_t turn = 0;         ///< of the site
  std::int64_t base = 0;         ///< round whose model it was made from
};

/// What a site says of the update that it sends.
struct UpdateOffer {
  std::int64_t round = 0;
  FileDigest base, update;
  double examples = 0;
  std::map<std::string, double> metrics;
  std::vector<double> tokens;
  std::string certificate = {};  ///< of the site, where the round is secure
  std::int64_t turn = 0;         ///< where rounds are asynchronous
};

/// The round that an update is for is over, or it was made from another model: it is of no use any more.
class RoundOver : public Error {
 public:
  using Error::Error;
};

/// What a site asks for or sends can be no part of any round: there is no use in sending it again. Other
/// Errors of calls, of damage on the way or a full disk, may be gone the next time.
class SiteMistake : public Error {
 public:
  using Error::Error;

  template <class... Args>
  static void unless(bool holds, fmt::format_string<Args...> format, Args&&... args) {
    if (!holds) throw SiteMistake(fmt::format(format, std::forward<Args>(args)...));
  }
};

class RoundBoard {
 public:
  /// Keeps updates in `directory`/updates, and what is known of them in `database`. Both must outlive it.
  RoundBoard(std::filesystem::path directory, Database& database);

  // For the coordinator's loop.

  /// Opens a round, and finds what arrived of it before a restart.
  void open(const RoundPlan& plan);
  struct Patience {
    std::size_t quorum = 1;    ///< updates that there must be
    std::size_t everyone = 0;  ///< updates that there can be, 0: nobody knows
    double gather = 0;         ///< seconds for sites to find the round
    double deadline = 0;       ///< seconds for those that were given it
  };
  /// Waits until every site that was given the round has delivered and a quorum has, and nobody else is to
  /// find it; or until a quorum has, after the deadline; or until stop(). Returns the updates, by site; none
  /// more is let in until the next open(). Nothing where stopped.
  /// Of an asynchronous round it waits for plan.buffer updates, and for nothing else.
  std::optional<std::vector<ReceivedUpdate>> wait(const Patience& patience);
  /// By what the round was opened last; nothing where it never was, or before this was kept.
  std::optional<RoundMethod> method_of(std::int64_t round) const;
  /// What is on record of a round's updates, their files aside.
  std::vector<ReceivedUpdate> updates_of(std::int64_t round);
  /// Has these, in the place of what is on record, as the updates that a round's result was made of.
  void set_updates(std::int64_t round, const std::vector<ReceivedUpdate>& updates);
  /// Forgets the closed round's files.
  void clear();
  /// The last round is over: sites are told so. Returns when all that delivered in it have fetched the
  /// result, or after `seconds`, or at stop().
  void finish(const RoundPlan& result, double seconds);
  void stop();

  // For the calls of sites. Any thread.

  enum class Work : std::uint8_t { wait, train, finished };
  struct Assignment {
    Work work;
    RoundPlan plan = {};
    std::int64_t counted = 0;  ///< the turn after that of the site's last update that counted; 0: none did
  };
  /// Waits up to `seconds` until there is something to do for `site`, or until `cancelled` says so.
  Assignment next(const std::string& site, double seconds, const std::function<bool()>& cancelled);
  /// In a secure round: `site` has its update, which counts as delivered once the round is open. Throws
  /// RoundOver, and Error where the offer is not one of this round.
  void ready(const std::string& site, const UpdateOffer& offer);
  /// The model of the present round (or the result), to be sent. Throws RoundOver where it is not of `round`.
  RoundPlan model_of(std::int64_t round);
  /// `site` has all of that model.
  void fetched(const std::string& site, std::int64_t round);

  /// An update under way. Of a site's, the newest call's is the one: another that still hangs is refused.
  class Upload {
   public:
    std::uint64_t received() const { return file_.received(); }
    /// Throws Error where the chunk is wrong or its numbers are not finite; RoundOver.
    void append(std::uint64_t offset, Pieces pieces, std::uint64_t checksum);
    void append(std::uint64_t offset, std::string_view data, std::uint64_t checksum) {
      append(offset, Pieces(&data, 1), checksum);
    }
    /// Throws Error where it is not what was offered. It counts from then on.
    void finish();

   private:
    friend class RoundBoard;
    Upload(RoundBoard& board, std::string site, UpdateOffer offer, std::uint64_t number,
           std::filesystem::path file);
    RoundBoard& board_;
    std::string site_;
    UpdateOffer offer_;
    std::uint64_t number_;  // of the site's uploads
    std::filesystem::path path_;
    IncomingFile file_;
  };
  /// Null where the site's update of that round is complete. Throws RoundOver, and Error where the offer is
  /// not one of this round.
  std::unique_ptr<Upload> begin_upload(const std::string& site, const UpdateOffer& offer);

 private:
  enum class Phase : std::uint8_t { closed, open, finished };
  void accept(const Upload& upload);
  void assign(const std::string& site);
  std::int64_t counted(const std::string& site) const;
  bool is_asynchronous() const { return plan_.buffer > 0; }
  /// Whether the round goes on, and is not yet of as many updates as it is to have.
  bool has_room() const;
  void await_room(std::unique_lock<std::mutex>& lock);
  std::string model_of_record(std::int64_t round) const;  ///< its digest; "" where there was none
  void insert(std::int64_t round, const ReceivedUpdate& update);
  /// Throws RoundOver where an update of the model of `round` counts no more.
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
  std::set<std::string> assigned_;  // the round; when all are over: those who have yet to fetch the result
  std::map<std::pair<std::string, std::int64_t>, ReceivedUpdate> received_;  // by site and turn
  std::map<std::string, std::uint64_t> upload_numbers_;
};

}  // namespace conclave
