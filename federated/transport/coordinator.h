// The coordinator: gives sites the global model, collects their updates, and makes the next model from them,
// round by round. Its state is on disk: a checkpoint for each round, DIRECTORY/step-0000000N.h5 after N
// rounds, which appears as a whole; the round's updates as files; and a table of the complete ones. So the
// process may be killed at any moment: when it is started again, it continues the round that it was in. With
// secure aggregation the coordinator has no single updates, and a round begins again or is skipped
// (federated/secure_round.h).
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "core/schedule.h"
#include "federated/identity.h"
#include "federated/policy.h"
#include "federated/secure_round.h"
#include "federated/strategies/strategy.h"
#include "parallel/communicator.h"

namespace conclave {

struct CoordinatorOptions {
  std::string directory;
  std::string address;  ///< host:port to listen at; port 0: any free one
  std::string start;    ///< checkpoint that the first round begins with
  std::int64_t rounds = 1;
  std::int64_t quorum = 1;        ///< updates that a round needs
  double gather_seconds = 10;     ///< for sites to join a round, unless all accepted sites have delivered
  double deadline_seconds = 600;  ///< after which a quorum is enough
  std::int64_t local_steps = 100;
  std::int64_t keep = 2;        ///< number of checkpoints to keep; 0: all
  std::set<std::string> sites;  ///< those of the federation; only control variates need them
  StrategyOptions strategy;
  Schedule::Kind schedule = Schedule::Kind::constant;  ///< of server_rate over all rounds
  std::int64_t max_staleness = 20;  ///< rounds by which the model of an asynchronous update may be older
  std::vector<SharingRule> sharing;
  SecureOptions secure;
};

class Coordinator {
 public:
  using Say = std::function<void(const std::string&)>;

  /// Continues from the newest checkpoint in the directory, or begins with options.start. Throws Error if
  /// there is neither, if another coordinator uses that directory, or if its record of rounds is older than
  /// its checkpoints or transcript. `world`, of one rank, is for writing checkpoints.
  Coordinator(CoordinatorOptions options, Kit kit, AllowList allowed, Communicator& world, Say say);
  ~Coordinator();

  /// The port that it listens at.
  int port() const;
  /// Epsilon of the sums of all rounds, past and future, at options.secure.privacy's delta. Call it before
  /// run().
  double epsilon() const;
  /// Returns true when the last round is over and every site that was given it has fetched the result, or a
  /// minute after the end of the round. Returns false when interrupted(), which is polled, returns true.
  bool run(const std::function<bool()>& interrupted);

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace conclave
