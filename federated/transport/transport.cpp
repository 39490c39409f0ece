#include "federated/transport/transport.h"

#include <sys/resource.h>

#include <algorithm>
#include <climits>
#include <cstdlib>

#include "core/error.h"

namespace conclave {
namespace {

constexpr int kMostMessage = static_cast<int>(kChunkBytes) + 64 * 1024;  // a chunk and the bytes around it
constexpr int kPingMilliseconds =
    30'000;  // less than a minute, the shortest time after which NATs commonly forget
constexpr int kPingTimeoutMilliseconds = 20'000;

// Limits of what a server spends on all sites together, and on anybody else who can reach the port. A call
// has a thread while it lasts. A certificate can have kMostCalls of them, and calls beyond that are refused
// at their beginning.
constexpr int kMostThreads = 2048;
// For data that has arrived and is not yet read, of all sites together. gRPC cuts streams when it is full. At
// a gigabyte per second, 64 MiB are too little for a single stream, and 128 MiB for a few.
constexpr std::size_t kMostBufferBytes = std::size_t{192} << 20;
constexpr int kMostStreams = 32;  // per connection
constexpr int kMostMetadataBytes = 16 * 1024;
constexpr int kHandshakeMilliseconds = 20'000;
constexpr int kMostIdleMilliseconds = 30 * 60'000;  // after that, a site connects anew

// Each connection takes a file descriptor, and shells commonly allow a thousand.
void allow_many_connections() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = std::min<rlim_t>(limit.rlim_max, std::max<rlim_t>(limit.rlim_cur, 65536));
  setrlimit(RLIMIT_NOFILE, &limit);
}

// gRPC 1.51 has no public option for the lowest version of TLS, and sets it to 1.2. But it reads the list of
// TLS 1.2's cipher suites, which does not affect 1.3, from this variable when it first needs it. A suite that
// requires a pre-shared key, which nobody has, leaves only TLS 1.3. (Test: tests/e2e/federate_test.py,
// test_admission)
void refuse_tls_1_2() { setenv("GRPC_SSL_CIPHER_SUITES", "PSK-AES256-GCM-SHA384", 1); }

}  // namespace

std::shared_ptr<grpc::Channel> open_channel(const std::string& address, const Kit& kit) {
  refuse_tls_1_2();
  grpc::ChannelArguments arguments;
  arguments.SetSslTargetNameOverride(std::string(kCoordinatorName));
  arguments.SetMaxReceiveMessageSize(kMostMessage);
  arguments.SetMaxSendMessageSize(kMostMessage);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kPingMilliseconds);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kPingTimeoutMilliseconds);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  // A channel that failed waits too long before it tries again (20 s and more, whatever its back-off
  // arguments are). So Site::call() waits itself and then takes a new channel, which must share nothing with
  // the old one.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(address, grpc::SslCredentials({kit.authority, kit.key, kit.certificate}),
                                   arguments);
}

std::unique_ptr<grpc::Server> start_server(const std::string& address, const Kit& kit, grpc::Service& service,
                                           int& port) {
  refuse_tls_1_2();
  require(kit.info.name == kCoordinatorName, "the kit is of \"{}\"; a coordinator needs that of \"{}\"",
          kit.info.name, kCoordinatorName);
  grpc::SslServerCredentialsOptions options(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  options.pem_root_certs = kit.authority;
  options.pem_key_cert_pairs.push_back({kit.key, kit.certificate});
  allow_many_connections();
  grpc::ResourceQuota quota("sites");
  quota.SetMaxThreads(kMostThreads).Resize(kMostBufferBytes);
  grpc::ServerBuilder builder;
  builder.SetResourceQuota(quota);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kMostStreams);
  builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, kMostMetadataBytes);
  builder.AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, kHandshakeMilliseconds);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_IDLE_MS, kMostIdleMilliseconds);
  builder.AddListeningPort(address, grpc::SslServerCredentials(options), &port);
  builder.SetMaxReceiveMessageSize(kMostMessage);
  builder.SetMaxSendMessageSize(kMostMessage);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT,
                             0);  // otherwise a second coordinator would get half of the calls
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kPingMilliseconds);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kPingTimeoutMilliseconds);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, kPingMilliseconds / 3);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.RegisterService(&service);
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  require(server && port > 0, "cannot listen at {}: is the address this machine's, and the port free?",
          address);
  return server;
}

std::string peer_certificate(const grpc::ServerContext& context) {
  const auto values = context.auth_context()->FindPropertyValues("x509_pem_cert");
  return values.empty() ? std::string() : std::string(values.front().data(), values.front().size());
}

federated::FileInfo to_message(const FileDigest& digest) {
  federated::FileInfo info;
  info.set_bytes(static_cast<std::int64_t>(digest.bytes));
  info.set_xxh3(digest.xxh3.data(), digest.xxh3.size());
  return info;
}

FileDigest from_message(const federated::FileInfo& info) {
  FileDigest digest;
  require(info.bytes() >= 0 && info.xxh3().size() == digest.xxh3.size(),
          "a file of {} bytes with a digest of {} bytes; it must have {}", info.bytes(), info.xxh3().size(),
          digest.xxh3.size());
  digest.bytes = static_cast<std::uint64_t>(info.bytes());
  std::ranges::copy(info.xxh3(), reinterpret_cast<char*>(digest.xxh3.data()));
  return digest;
}

}  // namespace conclave
