// A site's side of the connection: asks what there is to do, fetches the model, delivers the update. Every
// call is tried again, ever more rarely, for as long as the coordinator cannot be reached; transfers go on
// where they broke. What the coordinator refuses is an Error.
#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/clock.h"
#include "core/error.h"
#include "federated/file_transfer.h"
#include "federated/identity.h"
#include "federated/policy.h"
#include "federated/random_source.h"
#include "federated/round_privacy.h"
#include "federated/strategies/strategy.h"

namespace grpc {
class ClientContext;
class Status;
}  // namespace grpc
namespace conclave::federated {
class SecureTerms;
class UpdateHeader;
}  // namespace conclave::federated

namespace conclave {

/// Of all rounds of a federation together, of training at one site.
inline constexpr std::int64_t kMostFederatedSteps = 100'000'000;

struct SiteOptions {
  std::string address;              ///< of the coordinator, host:port
  std::filesystem::path directory;  ///< for models and updates
  double patience_seconds = 600;    ///< how long to try to reach the coordinator; 0: for ever
  bool secure_only = false;         ///< refuses to send an update that the coordinator could read
  std::int64_t least_sites = 3;     ///< in whose sum it sends one, at least, whatever the coordinator says
};

/// A round, as the site has to do it.
struct SiteRound {
  bool finished = false;  ///< the last one is over; model is the result
  std::int64_t round = 0, rounds = 0;
  std::filesystem::path model;    ///< a checkpoint
  FileDigest digest;              ///< of that
  std::string model_sha256 = {};  ///< of that, too, where a secure round begins with it
  std::int64_t elements = 0;      ///< of the update
  std::int64_t local_steps = 0;
  SiteRules rules = {};
  std::vector<SharingRule> sharing;
  std::int64_t counted = 0;   ///< the number, from 1, of this site's last update that counted; 0: none
  bool asynchronous = false;  ///< updates are numbered as they come, not by their rounds
  bool secure = false;        ///< the coordinator is told no more than a sum
  double most_examples = 0;   ///< by which a site counts in that sum, at most; 0: sites count alike
  RoundPrivacy privacy = {};  ///< of that sum

  /// The number, from 0, of the update that is to be made.
  std::int64_t turn() const { return asynchronous ? counted : round; }
};

/// A file to be delivered: f32 numbers, little-endian.
struct SiteUpdateFile {
  std::filesystem::path path;
  FileDigest digest;
};

class Interrupted : public Error {
 public:
  Interrupted() : Error("interrupted") {}
};

class Site {
 public:
  using Say = std::function<void(const std::string&)>;

  /// `interrupted` is asked while there is nothing to do; then calls throw Interrupted.
  Site(SiteOptions options, const Kit& kit, std::function<bool()> interrupted, Say say);
  struct Connection;
  /// The same with another connection than over TLS.
  Site(SiteOptions options, const Kit& kit, std::unique_ptr<Connection> connection,
       std::function<bool()> interrupted, Say say);
  ~Site();

  /// Waits for something to do, and fetches its model. Throws Error where the coordinator refuses this site,
  /// or cannot be reached for too long; where there is no room for a model for as long; and where the model
  /// is much larger than the first that was fetched.
  SiteRound next();
  /// Delivers `update`, of `round.elements` numbers; where the round is secure, shortened to the federation's
  /// norm and masked, once all sites are ready. False where the round was over before, or where a sum of
  /// units that are drawn by chance came to nothing: they are to be drawn again. Throws Error where the
  /// update has not so many numbers, and where the coordinator asks for what would tell more than one sum of
  /// a round. Each time before a masked update is sent, `spend` is called, whose errors end this: it may come
  /// to be in a sum, whose noise is new, and the site would not know.
  bool deliver(
      const SiteRound& round, const SiteUpdateFile& update, double examples,
      const std::vector<double>& tokens, const std::map<std::string, double>& metrics,
      const std::function<void()>& spend = [] {});

 private:
  bool call(std::string_view what, double seconds,
            const std::function<grpc::Status(grpc::ClientContext&)>& once);
  void pause(std::chrono::duration<double> time) const;
  void check_size(const FileDigest& model) const;
  /// False where the round is over, or there is no room: ask again what there is to do.
  bool fetch(const SiteRound& round);
  /// Why the round's model is not to be fetched now; "" where there is room, or nobody knows.
  std::string lacking_room(const SiteRound& round) const;
  void wait_for_room(const std::string& lacking);
  /// In the directory, and what has come of others.
  std::vector<std::filesystem::path> models() const;
  /// Of those.
  void remove_models(const std::function<bool(const std::filesystem::path&)>& which) const;

  bool send(const federated::UpdateHeader& header, const std::filesystem::path& file);

  // Secure rounds (secure_site.cpp).
  bool deliver_masked(const SiteRound& round, const std::filesystem::path& update, double examples,
                      const federated::UpdateHeader& header, const std::function<void()>& spend);
  void take_part(const SiteRound& round, const std::filesystem::path& update, double examples,
                 federated::UpdateHeader header, const federated::SecureTerms& terms,
                 const std::function<void()>& spend);
  std::string exchange(const SiteRound& round, std::int64_t attempt, int kind, const std::string& body);

  SiteOptions options_;
  Kit kit_;
  std::function<bool()> interrupted_;
  Say say_;
  std::optional<std::uint64_t> first_bytes_;  // of the first model
  std::optional<Clock::time_point> without_room_since_;
  std::optional<std::int64_t> delivered_;  // the turn of the last update that was, or was too late
  SystemRandom source_;
  RandomBits random_{source_};
  std::unique_ptr<Connection> connection_;
};

}  // namespace conclave
