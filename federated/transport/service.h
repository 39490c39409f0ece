// The calls of sites, as gRPC brings them. Who calls is looked up by the certificate's fingerprint in the
// list of those let in, at every call, so that a revoked one is out at once.
#pragma once

#include <functional>
#include <string>

#include "federated/policy.h"
#include "federated/round_board.h"
#include "federated/secure_round.h"
#include "federated/strategies/strategy.h"
#include "federated/transport/transport.h"
#include "protocol.grpc.pb.h"

namespace conclave {

/// What sites are told to do with the model of a round.
struct LocalWork {
  std::int64_t steps = 0;
  SiteRules rules = {};
  std::vector<SharingRule> sharing;
  RoundPrivacy privacy = {};
};

class FederationService final : public federated::Federation::Service {
 public:
  using Say = std::function<void(const std::string&)>;

  /// `board` must outlive it, and `secure`, which is null where updates come as they are.
  FederationService(RoundBoard& board, SecureRound* secure, AllowList allowed, LocalWork work, Say say)
      : board_(board),
        secure_(secure),
        allowed_(std::move(allowed)),
        work_(std::move(work)),
        say_(std::move(say)) {}

  grpc::Status Next(grpc::ServerContext* context, const federated::NextRequest* request,
                    federated::Assignment* reply) override;
  grpc::Status Download(grpc::ServerContext* context, const federated::DownloadRequest* request,
                        grpc::ServerWriter<federated::Chunk>* writer) override;
  grpc::Status Progress(grpc::ServerContext* context, const federated::UpdateHeader* request,
                        federated::UploadState* reply) override;
  grpc::Status Upload(grpc::ServerContext* context, grpc::ServerReader<federated::UploadPart>* reader,
                      federated::UploadState* reply) override;
  grpc::Status Exchange(grpc::ServerContext* context, const federated::SecureMessage* request,
                        federated::SecureMessage* reply) override;

 private:
  template <class Work>
  grpc::Status answer(const grpc::ServerContext& context, Work work);

  SecureRound& secure() const;
  /// f(the upload that a header is of, or null).
  template <class F>
  void with_upload(const std::string& site, const federated::UpdateHeader& header, F f);

  RoundBoard& board_;
  SecureRound* secure_;
  AllowList allowed_;
  LocalWork work_;
  Say say_;
};

}  // namespace conclave
