// gRPC over TLS 1.3, with a certificate on both sides. Sites dial out and keep the connection; what a NAT or
// a proxy forgets in silence, pings find.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>

#include "federated/file_transfer.h"
#include "federated/identity.h"
#include "protocol.pb.h"

namespace conclave {

/// What sites and coordinators say that understand each other.
inline constexpr int kProtocol = 6;

/// Not yet connected: that happens with the first call. `address` is host:port.
std::shared_ptr<grpc::Channel> open_channel(const std::string& address, const Kit& kit);

/// Listens at `address`, which is host:port; port 0 becomes one that is free, told in `port`. Throws Error
/// where it cannot.
std::unique_ptr<grpc::Server> start_server(const std::string& address, const Kit& kit, grpc::Service& service,
                                           int& port);

/// The certificate of who called, in PEM. TLS has checked that the authority signed it.
std::string peer_certificate(const grpc::ServerContext& context);

federated::FileInfo to_message(const FileDigest& digest);
/// Throws Error where it is malformed.
FileDigest from_message(const federated::FileInfo& info);

}  // namespace conclave
