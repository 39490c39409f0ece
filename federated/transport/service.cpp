#include "federated/transport/service.h"

#include <fmt/format.h>

#include <algorithm>
#include <ctime>

namespace conclave {
namespace {

constexpr double kLongestWait = 60;    // seconds for Next; proxies end calls that are silent for longer
constexpr double kLongestAnswer = 20;  // seconds for Exchange

// The certificate is not accepted; the message is for the site.
class NotAllowed : public Error {
 public:
  NotAllowed(const CertificateInfo& certificate, const std::string& reason)
      : Error(fmt::format(
            "the coordinator does not let in the certificate of \"{}\": {}; ask whoever provisions the "
            "federation for a new one: {}",
            certificate.name, reason, renewal_of(certificate.name))),
        reason(reason) {}

  const std::string reason;
};

FileDigest read_digest(const federated::FileInfo& info) {
  return SiteMistake::in([&] { return conclave::from_message(info); });
}

UpdateOffer from_message(const federated::UpdateHeader& header) {
  UpdateOffer offer{.round = header.round(),
                    .base = read_digest(header.base()),
                    .update = read_digest(header.update()),
                    .examples = header.examples(),
                    .metrics = {},
                    .tokens = {header.tokens().begin(), header.tokens().end()},
                    .certificate = {},
                    .turn = header.turn()};
  for (const auto& [name, value] : header.metrics()) offer.metrics[name] = value;
  return offer;
}

federated::SecureTerms to_message(const SecureTerms& terms) {
  federated::SecureTerms told;
  const secure_aggregation::Agreement& agreement = terms.agreement;
  told.set_federation(agreement.federation);
  told.set_attempt(static_cast<std::int64_t>(agreement.round));
  for (std::size_t i = 0; i < agreement.sites.size(); ++i) {
    auto* member = told.add_members();
    member->set_site(agreement.sites[i]);
    member->set_certificate(terms.certificates[i]);
  }
  told.set_least(agreement.least);
  told.set_colluding(agreement.colluding);
  told.set_width(static_cast<std::uint32_t>(agreement.ring.width));
  told.set_length(agreement.length);
  told.set_clip_norm(terms.clip_norm);
  return told;
}

}  // namespace

federated::Assignment SiteCalls::next(const Caller& caller, const federated::NextRequest& request) {
  SiteMistake::unless(request.protocol() == kProtocol, "the site speaks protocol {}, the coordinator {}",
                      request.protocol(), kProtocol);
  const double wait = request.wait_seconds() > 0 ? std::min(request.wait_seconds(), kLongestWait) : 0.0;
  const auto [work, plan, counted] = board_.next(caller.site, wait, caller.has_gone);
  using Kind = federated::Assignment;
  Kind reply;
  reply.set_kind(work == RoundBoard::Work::train      ? Kind::TRAIN
                 : work == RoundBoard::Work::finished ? Kind::FINISHED
                                                      : Kind::WAIT);
  if (work == RoundBoard::Work::wait) return reply;
  reply.set_round(plan.round);
  reply.set_rounds(plan.rounds);
  *reply.mutable_model() = to_message(plan.digest);
  reply.set_elements(static_cast<std::int64_t>(plan.elements));
  reply.set_local_steps(work_.steps);
  const auto& [proximal, control_variate] = work_.rules;  // all of them; see for_each_rule()
  reply.set_proximal(proximal);
  reply.set_control_variate(control_variate);
  reply.set_counted(counted);
  reply.set_asynchronous(plan.buffer > 0);
  reply.set_secure(secure_ != nullptr);
  reply.set_most_examples(work_.most_examples);
  if (work_.privacy.is_on()) {
    auto* privacy = reply.mutable_privacy();
    privacy->set_unit(std::string(to_string(work_.privacy.unit)));
    privacy->set_clip_norm(work_.privacy.clip_norm);
    privacy->set_rate(work_.privacy.rate);
    privacy->set_noise_multiplier(work_.privacy.noise_multiplier);
    privacy->set_delta(work_.privacy.delta);
  }
  for (const SharingRule& rule : work_.sharing) {
    auto* told = reply.add_sharing();
    told->set_pattern(rule.pattern);
    told->set_sharing(std::string(to_string(rule.sharing)));
  }
  return reply;
}

void SiteCalls::download(const Caller& caller, const federated::DownloadRequest& request,
                         const std::function<bool(const ChunkFrame&)>& write) {
  const RoundPlan plan = board_.model_of(request.round());
  SiteMistake::unless(request.offset() >= 0, "byte {} of a model", request.offset());
  const auto offset = static_cast<std::uint64_t>(request.offset());
  if (offset > plan.digest.bytes)
    throw RoundOver(
        fmt::format("byte {} of a model of {}: the site has begun another model", offset, plan.digest.bytes));
  const OutgoingFile file(plan.model);
  require(file.bytes() == plan.digest.bytes,
          "{}: it has {} bytes, and had {} when the round began, so another program changed it; start the "
          "coordinator again",
          plan.model.string(), file.bytes(), plan.digest.bytes);
  for (auto at = offset; at < file.bytes(); at += file.chunk_bytes(at))
    if (!write(read_chunk(file, at))) return;  // the site has gone, and will continue later
  board_.fetched(caller.site, request.round());
}

SecureRound& SiteCalls::secure() const {
  SiteMistake::unless(secure_ != nullptr, "this federation is not by secure aggregation");
  return *secure_;
}

template <class F>
void SiteCalls::with_upload(const std::string& site, const federated::UpdateHeader& header, F f) {
  if (header.attempt() > 0)
    f(secure().begin_upload(site, header.attempt(), read_digest(header.update())));
  else
    f(board_.begin_upload(site, from_message(header)));
}

federated::UploadState SiteCalls::progress(const Caller& caller, const federated::UpdateHeader& request) {
  federated::UploadState reply;
  with_upload(caller.site, request, [&](const auto& upload) {
    reply.set_complete(upload == nullptr);
    reply.set_received(static_cast<std::int64_t>(upload ? upload->received() : 0));
  });
  return reply;
}

federated::UploadState SiteCalls::upload(const Caller& caller,
                                         const std::function<bool(UploadFrame&)>& read) {
  federated::UploadState reply;
  UploadFrame first, next;
  const bool came = read(first);
  require(came || !caller.has_gone(), "the connection broke before an upload began");
  SiteMistake::unless(came && std::holds_alternative<federated::UpdateHeader>(first),
                      "an upload must begin with a header");
  with_upload(caller.site, std::get<federated::UpdateHeader>(first), [&](const auto& upload) {
    // Releases each frame before waiting for the next one.
    for (; upload && read(next); next = {}) {
      const auto* chunk = std::get_if<ChunkFrame>(&next);
      SiteMistake::unless(chunk != nullptr && chunk->offset >= 0, "an upload must continue with chunks");
      upload->append(static_cast<std::uint64_t>(chunk->offset), chunk->pieces(), chunk->checksum);
    }
    // The stream also ends if the connection broke; the site then sends the rest in another call.
    if (upload && !caller.has_gone()) upload->finish();
    reply.set_complete(true);
    if (upload) reply.set_received(static_cast<std::int64_t>(upload->received()));
  });
  return reply;
}

federated::SecureMessage SiteCalls::exchange(const Caller& caller, const federated::SecureMessage& request,
                                             double seconds) {
  using Message = federated::SecureMessage;
  Message reply;
  reply.set_round(request.round());
  reply.set_attempt(request.attempt());
  reply.set_kind(request.kind());
  if (request.kind() != Message::READY) {
    SiteMistake::unless(request.kind() > Message::READY && request.kind() <= Message::UNMASK,
                        "a message of kind {}", static_cast<int>(request.kind()));
    const auto phase = static_cast<SecureRound::Phase>(request.kind() - Message::ADVERTISE);
    const auto told =
        secure().exchange(caller.site, request.attempt(), phase, request.body(), seconds, caller.has_gone);
    using State = SecureRound::Answer::State;
    reply.set_state(told.state == State::here      ? Message::HERE
                    : told.state == State::not_yet ? Message::NOT_YET
                                                   : Message::TOO_LATE);
    reply.set_body(told.body.data(), told.body.size());
    return reply;
  }
  federated::UpdateHeader header;
  SiteMistake::unless(header.ParseFromString(request.body()), "a message that cannot be read");
  UpdateOffer offer = from_message(header);
  offer.certificate = caller.certificate;
  const auto terms = secure().ready(caller.site, offer, request.attempt(), seconds, caller.has_gone);
  reply.set_state(terms ? Message::HERE : Message::NOT_YET);
  if (terms) reply.set_body(to_message(*terms).SerializeAsString());
  return reply;
}

grpc::Status status_of(const std::exception& error) {
  auto code = grpc::StatusCode::INTERNAL;  // after which the site tries again
  if (dynamic_cast<const NotAllowed*>(&error)) code = grpc::StatusCode::PERMISSION_DENIED;
  if (dynamic_cast<const TooManyCalls*>(&error)) code = grpc::StatusCode::RESOURCE_EXHAUSTED;
  if (dynamic_cast<const RoundOver*>(&error)) code = grpc::StatusCode::ABORTED;
  if (dynamic_cast<const SiteMistake*>(&error)) code = grpc::StatusCode::INVALID_ARGUMENT;
  return {code, error.what()};
}

template <class Work>
grpc::Status FederationService::answer(grpc::ServerContext& context, Work work) {
  std::string site;
  try {
    const std::string certificate = peer_certificate(context);
    const CertificateInfo info = certificate_info(certificate);
    site = info.name;
    const auto check = [&](bool let_in) {
      if (!let_in) throw NotAllowed(info, refusal_reason(info, std::time(nullptr)));
    };
    CallWatch::Call call(watch_, context, info);
    check(watch_.lets_in(info));
    work(Caller{site, certificate, [&] { return call.has_ended(); }}, call);
    check(!call.is_turned_out());
    return grpc::Status::OK;
  } catch (const std::exception& error) {
    const grpc::Status status = status_of(error);
    if (const auto* refused = dynamic_cast<const NotAllowed*>(&error))
      log_.say(
          site, "refused",
          fmt::format("refused the certificate of \"{}\" at {}: {}", site, context.peer(), refused->reason));
    if (status.error_code() == grpc::StatusCode::INVALID_ARGUMENT)
      log_.say(site, "mistake", fmt::format("refused what {} sent: {}", site, error.what()));
    if (status.error_code() == grpc::StatusCode::INTERNAL)
      log_.say(site, "failed",
               fmt::format("a call of {} failed: {}", site.empty() ? context.peer() : site, error.what()));
    return status;
  }
}

// Like the code that protoc's gRPC plugin generates for a service, but with other types for streamed
// messages. `f` is called with this object.
template <class Handler, class F>
void FederationService::serve(const char* name, grpc::internal::RpcMethod::RpcType type, F f) {
  AddMethod(new grpc::internal::RpcServiceMethod(name, type, new Handler(f, this)));  // it owns both objects
}

// A call with one request and one reply, which `f` returns.
template <class Request, class Reply, class F>
void FederationService::serve_one(const char* name, F f) {
  serve<grpc::internal::RpcMethodHandler<FederationService, Request, Reply>>(
      name, grpc::internal::RpcMethod::NORMAL_RPC,
      [f](FederationService* self, grpc::ServerContext* context, const Request* request, Reply* reply) {
        return self->answer(*context, [&](const Caller& caller, auto&) { *reply = f(caller, *request); });
      });
}

FederationService::FederationService(RoundBoard& board, SecureRound* secure, AllowList allowed,
                                     LocalWork work, Say say, Clock::duration silence)
    : calls_(board, secure, std::move(work)),
      log_(std::move(say)),
      watch_(std::move(allowed), silence, [this] { log_.tell_left_out(); }) {
  using namespace federated;
  using namespace grpc::internal;
  using Self = FederationService;
  using Context = grpc::ServerContext;
  serve_one<NextRequest, Assignment>(calls::kNext, [this](const Caller& caller, const NextRequest& request) {
    return calls_.next(caller, request);
  });
  serve<ServerStreamingHandler<Self, DownloadRequest, ChunkFrame>>(
      calls::kDownload, RpcMethod::SERVER_STREAMING,
      [](Self* self, Context* context, const DownloadRequest* request,
         grpc::ServerWriter<ChunkFrame>* writer) {
        return self->answer(*context, [&](const Caller& caller, CallWatch::Call& call) {
          self->calls_.download(caller, *request, [&](const ChunkFrame& chunk) {
            return call.wait_for_site([&] { return writer->Write(chunk); });
          });
        });
      });
  serve_one<UpdateHeader, UploadState>(
      calls::kProgress,
      [this](const Caller& caller, const UpdateHeader& request) { return calls_.progress(caller, request); });
  serve<ClientStreamingHandler<Self, UploadFrame, UploadState>>(
      calls::kUpload, RpcMethod::CLIENT_STREAMING,
      [](Self* self, Context* context, grpc::ServerReader<UploadFrame>* reader, UploadState* reply) {
        return self->answer(*context, [&](const Caller& caller, CallWatch::Call& call) {
          *reply = self->calls_.upload(caller, [&](UploadFrame& part) {
            return call.wait_for_site([&] { return reader->Read(&part); });
          });
        });
      });
  serve_one<SecureMessage, SecureMessage>(calls::kExchange,
                                          [this](const Caller& caller, const SecureMessage& request) {
                                            return calls_.exchange(caller, request, kLongestAnswer);
                                          });
}

}  // namespace conclave
