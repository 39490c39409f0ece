// gRPC over TLS 1.3, with a certificate on both sides. Sites open the connections and keep them. Pings detect
// connections that a NAT or a proxy has silently dropped.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>

#include "federated/file_transfer.h"
#include "federated/identity.h"
#include "protocol.pb.h"

namespace conclave {

/// Version of the protocol. Site and coordinator must have the same one.
inline constexpr int kProtocol = 7;

/// A channel to `address`, which is host:port. It connects at the first call.
std::shared_ptr<grpc::Channel> open_channel(const std::string& address, const Kit& kit);

/// Listens at `address`, which is host:port. With port 0, any free port; `port` is set to the port in use.
/// Throws Error if it cannot listen.
std::unique_ptr<grpc::Server> start_server(const std::string& address, const Kit& kit, grpc::Service& service,
                                           int& port);

/// The caller's certificate, in PEM. TLS has verified that the authority signed it.
std::string peer_certificate(const grpc::ServerContext& context);

federated::FileInfo to_message(const FileDigest& digest);
/// Throws Error if the message is malformed.
FileDigest from_message(const federated::FileInfo& info);

}  // namespace conclave
