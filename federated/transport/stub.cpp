#include "federated/transport/stub.h"

#include <grpcpp/impl/client_unary_call.h>
#include <grpcpp/impl/rpc_method.h>

#include <utility>

namespace conclave {
namespace {

using grpc::internal::RpcMethod;

// Like the code that protoc's gRPC plugin generates, but with other types for streamed messages.
class ChannelStub final : public Stub {
 public:
  explicit ChannelStub(std::shared_ptr<grpc::Channel> channel) : channel_(std::move(channel)) {}

  grpc::Status next(grpc::ClientContext& context, const federated::NextRequest& request,
                    federated::Assignment& reply) override {
    return call(next_, context, request, reply);
  }
  grpc::Status progress(grpc::ClientContext& context, const federated::UpdateHeader& request,
                        federated::UploadState& reply) override {
    return call(progress_, context, request, reply);
  }
  grpc::Status exchange(grpc::ClientContext& context, const federated::SecureMessage& request,
                        federated::SecureMessage& reply) override {
    return call(exchange_, context, request, reply);
  }
  Download download(grpc::ClientContext& context, const federated::DownloadRequest& request) override {
    return Download(grpc::internal::ClientReaderFactory<ChunkFrame>::Create(channel_.get(), download_,
                                                                            &context, request));
  }
  Upload upload(grpc::ClientContext& context, federated::UploadState& reply) override {
    return Upload(
        grpc::internal::ClientWriterFactory<UploadFrame>::Create(channel_.get(), upload_, &context, &reply));
  }

 private:
  RpcMethod method(const char* name, RpcMethod::RpcType type) const {
    return {name, nullptr, type, channel_};
  }

  template <class Request, class Reply>
  grpc::Status call(const RpcMethod& method, grpc::ClientContext& context, const Request& request,
                    Reply& reply) const {
    return grpc::internal::BlockingUnaryCall(channel_.get(), method, &context, request, &reply);
  }

  std::shared_ptr<grpc::Channel> channel_;
  RpcMethod next_ = method(calls::kNext, RpcMethod::NORMAL_RPC);
  RpcMethod download_ = method(calls::kDownload, RpcMethod::SERVER_STREAMING);
  RpcMethod progress_ = method(calls::kProgress, RpcMethod::NORMAL_RPC);
  RpcMethod upload_ = method(calls::kUpload, RpcMethod::CLIENT_STREAMING);
  RpcMethod exchange_ = method(calls::kExchange, RpcMethod::NORMAL_RPC);
};

}  // namespace

std::unique_ptr<Stub> make_stub(std::shared_ptr<grpc::Channel> channel) {
  return std::make_unique<ChannelStub>(std::move(channel));
}

}  // namespace conclave
