// The calls of protocol.proto, with chunks of files as frames (frames.h).
#pragma once

#include <grpcpp/grpcpp.h>
#include <grpcpp/support/sync_stream.h>

#include <memory>

#include "federated/transport/frames.h"
#include "protocol.pb.h"

namespace conclave {

namespace calls {
inline constexpr const char* kNext = "/conclave.federated.Federation/Next";
inline constexpr const char* kDownload = "/conclave.federated.Federation/Download";
inline constexpr const char* kProgress = "/conclave.federated.Federation/Progress";
inline constexpr const char* kUpload = "/conclave.federated.Federation/Upload";
inline constexpr const char* kExchange = "/conclave.federated.Federation/Exchange";
}  // namespace calls

/// How a site calls the coordinator.
class Stub {
 public:
  virtual ~Stub() = default;
  virtual grpc::Status next(grpc::ClientContext& context, const federated::NextRequest& request,
                            federated::Assignment& reply) = 0;
  virtual grpc::Status progress(grpc::ClientContext& context, const federated::UpdateHeader& request,
                                federated::UploadState& reply) = 0;
  virtual grpc::Status exchange(grpc::ClientContext& context, const federated::SecureMessage& request,
                                federated::SecureMessage& reply) = 0;
  using Download = std::unique_ptr<grpc::ClientReaderInterface<ChunkFrame>>;
  virtual Download download(grpc::ClientContext& context, const federated::DownloadRequest& request) = 0;
  using Upload = std::unique_ptr<grpc::ClientWriterInterface<UploadFrame>>;
  virtual Upload upload(grpc::ClientContext& context, federated::UploadState& reply) = 0;
};

std::unique_ptr<Stub> make_stub(std::shared_ptr<grpc::Channel> channel);

}  // namespace conclave
