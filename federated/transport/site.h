// A site's side of the connection: asks for work, downloads the model, delivers the update. While the
// coordinator cannot be reached, every call is repeated, with longer and longer pauses. Transfers continue
// where they were interrupted. A refusal by the coordinator is an Error.
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

/// Limit for the training steps at one site, in all rounds of a federation together.
inline constexpr std::int64_t kMostFederatedSteps = 100'000'000;

struct SiteOptions {
  std::string address;              ///< of the coordinator, host:port
  std::filesystem::path directory;  ///< for models and updates
  double patience_seconds = 600;    ///< how long to try to reach the coordinator; 0: without limit
  bool secure_only = false;         ///< refuses to send an update that the coordinator could read
  std::int64_t least_sites = 3;     ///< fewest sites in a sum that it sends an update for
};

/// A round that this site has been assigned.
struct SiteRound {
  bool finished = false;  ///< the last round is over; `model` is the result
  std::int64_t round = 0, rounds = 0;
  std::filesystem::path model;    ///< a checkpoint
  FileDigest digest;              ///< of the model
  std::string model_sha256 = {};  ///< of the model, in a secure round
  std::int64_t elements = 0;      ///< numbers in an update
  std::int64_t local_steps = 0;
  SiteRules rules = {};
  std::vector<SharingRule> sharing;
  std::int64_t counted = 0;   ///< number, from 1, of this site's last update that counted; 0: none
  bool asynchronous = false;  ///< updates are numbered as they come, not by their round
  bool secure = false;        ///< secure aggregation: the coordinator learns a sum only
  double most_examples = 0;  ///< above 0: weights are hidden, and a site counts for at most so many examples;
                             ///< 0: all sites count equally
  RoundPrivacy privacy = {};  ///< guarantee for that sum

  /// Number, from 0, of the update that is to be made.
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

/// What a site's job calls of its connection: class Site, or a test's own.
class SiteTransport {
 public:
  virtual ~SiteTransport() = default;
  /// As Site's.
  virtual SiteRound next() = 0;
  virtual bool deliver(const SiteRound& round, const SiteUpdateFile& update, double examples,
                       const std::vector<double>& tokens, const std::map<std::string, double>& metrics,
                       const std::function<void()>& spend) = 0;
};

class Site final : public SiteTransport {
 public:
  using Say = std::function<void(const std::string&)>;

  /// `interrupted` is polled during waits; when it returns true, the current call throws Interrupted.
  Site(SiteOptions options, const Kit& kit, std::function<bool()> interrupted, Say say);
  struct Connection;
  /// The same with a connection other than TLS.
  Site(SiteOptions options, const Kit& kit, std::unique_ptr<Connection> connection,
       std::function<bool()> interrupted, Say say);
  ~Site() override;

  /// Waits for work, and downloads the round's model. Throws Error if the coordinator refuses this site; if,
  /// for options.patience_seconds, it cannot be reached or there is no disk space for a model; or if the
  /// model is much larger than the first one.
  SiteRound next() override;
  /// Delivers `update`, which has `round.elements` numbers. In a secure round, scales it down to the
  /// federation's clip norm if it is longer, and sends it only masked, in attempts at a sum.
  ///
  /// Returns false if the round is over. Also returns false if units are sampled (round.privacy.rate < 1) and
  /// an attempt failed after the masked update was sent: the caller must draw other units. Throws Error if
  /// the update has another length, or if the coordinator asks for something that would reveal more than one
  /// sum of the round.
  ///
  /// `spend` is called each time before a masked update is sent, to record what that costs in privacy: the
  /// update's noise is new each time, and the coordinator may use the update in a sum without the site's
  /// knowledge. If `spend` throws, nothing is sent.
  bool deliver(
      const SiteRound& round, const SiteUpdateFile& update, double examples,
      const std::vector<double>& tokens, const std::map<std::string, double>& metrics,
      const std::function<void()>& spend = [] {}) override;

 private:
  bool call(std::string_view what, double seconds,
            const std::function<grpc::Status(grpc::ClientContext&)>& once);
  void pause(std::chrono::duration<double> time) const;
  void check_size(const FileDigest& model) const;
  /// False if the round is over, or if there is no disk space: ask for work again.
  bool fetch(const SiteRound& round);
  /// Why the round's model cannot be downloaded now for lack of disk space; "" if there is enough space, or
  /// if this is unknown.
  std::string lacking_room(const SiteRound& round) const;
  void wait_for_room(const std::string& lacking);
  /// Files of models in the directory, including incomplete ones.
  std::vector<std::filesystem::path> models() const;
  /// Removes those of models() for which `which` returns true.
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
  std::optional<std::uint64_t> first_bytes_;  // size of the first model
  std::optional<Clock::time_point> without_room_since_;
  std::optional<std::int64_t> delivered_;  // turn of the update for which deliver() was last called
  SystemRandom source_;
  RandomBits random_{source_};
  std::unique_ptr<Connection> connection_;
};

}  // namespace conclave
