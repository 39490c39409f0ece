// The calls of sites, as gRPC brings them. Who calls is looked up by the certificate's fingerprint in the
// list of those let in, at every call, and again while it goes on, so that a revoked one is out at once.
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
#include "federated/transport/stub.h"
#include "federated/transport/transport.h"

namespace conclave {

/// What sites are told to do with the model of a round.
struct LocalWork {
  std::int64_t steps = 0;
  SiteRules rules = {};
  std::vector<SharingRule> sharing = {};
  double most_examples = 0;  ///< SecureOptions::most_examples
  RoundPrivacy privacy = {};
};

/// Who calls, as its connection says.
struct Caller {
  std::string site, certificate;        // the latter in PEM
  std::function<bool()> has_gone = {};  // or has been turned out
};

/// What sites may ask for, apart from how it comes and goes. Any thread. What cannot be answered throws, as
/// RoundBoard's and SecureRound's calls do.
class SiteCalls {
 public:
  /// `board` must outlive it, and `secure`, which is null where updates come as they are.
  SiteCalls(RoundBoard& board, SecureRound* secure, LocalWork work)
      : board_(board), secure_(secure), work_(std::move(work)) {}

  federated::Assignment next(const Caller& caller, const federated::NextRequest& request);
  /// `write` is false where the site takes no more.
  void download(const Caller& caller, const federated::DownloadRequest& request,
                const std::function<bool(const ChunkFrame&)>& write);
  federated::UploadState progress(const Caller& caller, const federated::UpdateHeader& request);
  /// `read` is false at the end, which is that of the connection, too.
  federated::UploadState upload(const Caller& caller, const std::function<bool(UploadFrame&)>& read);
  /// Holds its answer back for up to `seconds`.
  federated::SecureMessage exchange(const Caller& caller, const federated::SecureMessage& request,
                                    double seconds);

 private:
  SecureRound& secure() const;
  /// f(the upload that a header is of, or null).
  template <class F>
  void with_upload(const std::string& site, const federated::UpdateHeader& header, F f);

  RoundBoard& board_;
  SecureRound* secure_;
  LocalWork work_;
};

class FederationService final : public grpc::Service {
 public:
  using Say = std::function<void(const std::string&)>;

  /// `silence`: how long a call waits for the next chunk of a transfer.
  FederationService(RoundBoard& board, SecureRound* secure, AllowList allowed, LocalWork work, Say say,
                    Clock::duration silence = std::chrono::minutes(2));

 private:
  template <class Handler, class F>
  void serve(const char* name, grpc::internal::RpcMethod::RpcType type, F f);
  template <class Request, class Reply, class F>
  void serve_one(const char* name, F f);
  /// What a call does, for the site that calls; how its errors are told.
  template <class Work>
  grpc::Status answer(grpc::ServerContext& context, Work work);

  SiteCalls calls_;
  CallWatch watch_;
  Say say_;
};

}  // namespace conclave
