// The calls of sites, as gRPC delivers them. The caller is identified by its certificate's fingerprint. It is
// looked up in the list of accepted certificates at every call, and again while the call goes on, so that a
// revoked certificate is useless within a second.
#pragma once

#include <grpcpp/impl/service_type.h>
#include <grpcpp/support/method_handler.h>

#include <chrono>
#include <functional>
#include <string>

#include "federated/policy.h"
#include "federated/round_board.h"
#include "federated/secure_round.h"
#include "federated/strategies/strategy.h"
#include "federated/transport/call_watch.h"
#include "federated/transport/rate_limited_log.h"
#include "federated/transport/stub.h"
#include "federated/transport/transport.h"

namespace conclave {

/// What sites must do with the model of a round.
struct LocalWork {
  std::int64_t steps = 0;
  SiteRules rules = {};
  std::vector<SharingRule> sharing = {};
  double most_examples = 0;  ///< SecureOptions::most_examples
  RoundPrivacy privacy = {};
};

/// The caller, as identified by its connection.
struct Caller {
  std::string site, certificate;  // in PEM
  /// Whether the caller has gone, or is no longer accepted. Called under locks, so it must not wait.
  std::function<bool()> has_gone = {};
};

/// The calls that sites can make, independent of their transport. Any thread. A call that cannot be answered
/// throws what RoundBoard's and SecureRound's functions throw.
class SiteCalls {
 public:
  /// `board` and `secure` must outlive this. `secure` is null if the federation is not by secure aggregation.
  SiteCalls(RoundBoard& board, SecureRound* secure, LocalWork work)
      : board_(board), secure_(secure), work_(std::move(work)) {}

  federated::Assignment next(const Caller& caller, const federated::NextRequest& request);
  /// `write` returns false if the site takes no more chunks.
  void download(const Caller& caller, const federated::DownloadRequest& request,
                const std::function<bool(const ChunkFrame&)>& write);
  federated::UploadState progress(const Caller& caller, const federated::UpdateHeader& request);
  /// `read` returns false at the end of the stream, also if the connection broke.
  federated::UploadState upload(const Caller& caller, const std::function<bool(UploadFrame&)>& read);
  /// Delays its answer for at most `seconds`.
  federated::SecureMessage exchange(const Caller& caller, const federated::SecureMessage& request,
                                    double seconds);

 private:
  SecureRound& secure() const;
  /// Calls f with the upload that belongs to a header, or with null if it is complete.
  template <class F>
  void with_upload(const std::string& site, const federated::UpdateHeader& header, F f);

  RoundBoard& board_;
  SecureRound* secure_;
  LocalWork work_;
};

/// The status that answers a call which ended with this exception.
grpc::Status status_of(const std::exception& error);

class FederationService final : public grpc::Service {
 public:
  using Say = std::function<void(const std::string&)>;

  /// `silence`: how long a call may wait for the next chunk of a transfer.
  FederationService(RoundBoard& board, SecureRound* secure, AllowList allowed, LocalWork work, Say say,
                    Clock::duration silence = std::chrono::minutes(2));

  const CallWatch& watch() const { return watch_; }

 private:
  template <class Handler, class F>
  void serve(const char* name, grpc::internal::RpcMethod::RpcType type, F f);
  template <class Request, class Reply, class F>
  void serve_one(const char* name, F f);
  /// Does the work of a call for the calling site, and converts errors to status codes.
  template <class Work>
  grpc::Status answer(grpc::ServerContext& context, Work work);

  SiteCalls calls_;
  RateLimitedLog log_;
  CallWatch watch_;  // last, because its thread uses log_
};

}  // namespace conclave
