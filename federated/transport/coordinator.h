// The coordinator: gives sites the global model, gathers what they make of it, and makes the next of that,
// round by round. What it has is on disk: a checkpoint for each round, DIRECTORY/step-0000000N.h5 after N
// rounds, in which a round's result appears at once, whole; the round's updates as files, and a table of what
// is complete. So it may be killed at any instant: started again, it goes on with the round it was in.
// By secure aggregation no update is there, and a round begins again or is skipped
// (federated/secure_round.h).
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
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
  std::string address;  ///< host:port to listen at; port 0: one that is free
  std::string start;    ///< checkpoint that the first round begins with
  std::int64_t rounds = 1;
  std::int64_t quorum = 1;        ///< updates that a round needs
  double gather_seconds = 10;     ///< for sites to find a round, unless all that are let in have delivered
  double deadline_seconds = 600;  ///< after which the quorum is enough
  std::int64_t local_steps = 100;
  std::int64_t keep = 2;  ///< checkpoints, 0: all
  StrategyOptions strategy;
  Schedule::Kind schedule = Schedule::Kind::constant;  ///< how its server_rate goes, over all rounds
  std::int64_t max_staleness = 20;  ///< rounds that an asynchronous update's model may be older
  std::vector<SharingRule> sharing;
  SecureOptions secure;
};

class Coordinator {
 public:
  using Say = std::function<void(const std::string&)>;

  /// Goes on from the newest checkpoint in the directory, or begins with options.start. Throws Error where
  /// there is neither, or another coordinator is at work in that directory. `world`, of one rank, is for
  /// writing checkpoints.
  Coordinator(CoordinatorOptions options, Kit kit, AllowList allowed, Communicator& world, Say say);
  ~Coordinator();

  /// Where it listens.
  int port() const;
  /// Of the sums of all rounds, those to come among them, at options.secure.privacy's delta. Before run().
  double epsilon() const;
  /// Until the last round is over, and every site that took part in it knows, or has had a minute to; true.
  /// Or until interrupted(), which is asked now and then; false.
  bool run(const std::function<bool()>& interrupted);

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace conclave
