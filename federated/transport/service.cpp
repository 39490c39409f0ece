#include "federated/transport/service.h"

#include <fmt/format.h>

#include <algorithm>
#include <ctime>

namespace conclave {
namespace {

constexpr double kLongestWait = 60;  // seconds a call of Next may take; proxies end what is silent for longer
constexpr double kLongestAnswer = 20;  // and one of Exchange

class NotAllowed : public Error {
 public:
  using Error::Error;
};

UpdateOffer from_message(const federated::UpdateHeader& header) {
  UpdateOffer offer{.round = header.round(),
                    .base = conclave::from_message(header.base()),
                    .update = conclave::from_message(header.update()),
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

// What a call does, for the site that calls; how its errors are told.
template <class Work>
grpc::Status FederationService::answer(const grpc::ServerContext& context, Work work) {
  std::string site;
  try {
    const CertificateInfo info = certificate_info(peer_certificate(context));
    const auto allowed = allowed_.read();
    const auto found = allowed.find(info.fingerprint);
    // TLS looks at a certificate's end when a connection begins; this one may be older.
    if (found == allowed.end() || found->second != info.name || info.not_after <= std::time(nullptr)) {
      say_(fmt::format(
          "refused \"{}\" at {}: its certificate is not in the list of those let in, or has expired",
          info.name, context.peer()));
      throw NotAllowed(fmt::format("the coordinator does not let in the certificate of \"{}\"", info.name));
    }
    site = found->second;
    work(site);
    return grpc::Status::OK;
  } catch (const NotAllowed& error) {
    return {grpc::StatusCode::PERMISSION_DENIED, error.what()};
  } catch (const RoundOver& error) {
    return {grpc::StatusCode::ABORTED, error.what()};
  } catch (const SiteMistake& error) {
    say_(fmt::format("refused what {} sent: {}", site, error.what()));
    return {grpc::StatusCode::INVALID_ARGUMENT, error.what()};
  } catch (const std::exception& error) {  // which the site tries again
    say_(fmt::format("a call of {} failed: {}", site.empty() ? context.peer() : site, error.what()));
    return {grpc::StatusCode::INTERNAL, error.what()};
  }
}

grpc::Status FederationService::Next(grpc::ServerContext* context, const federated::NextRequest* request,
                                     federated::Assignment* reply) {
  return answer(*context, [&](const std::string& site) {
    SiteMistake::unless(request->protocol() == kProtocol, "the site speaks protocol {}, the coordinator {}",
                        request->protocol(), kProtocol);
    const double wait = request->wait_seconds() > 0 ? std::min(request->wait_seconds(), kLongestWait) : 0.0;
    const auto [work, plan, counted] = board_.next(site, wait, [&] { return context->IsCancelled(); });
    using Kind = federated::Assignment;
    reply->set_kind(work == RoundBoard::Work::train      ? Kind::TRAIN
                    : work == RoundBoard::Work::finished ? Kind::FINISHED
                                                         : Kind::WAIT);
    if (work == RoundBoard::Work::wait) return;
    reply->set_round(plan.round);
    reply->set_rounds(plan.rounds);
    *reply->mutable_model() = to_message(plan.digest);
    reply->set_elements(static_cast<std::int64_t>(plan.elements));
    reply->set_local_steps(work_.steps);
    reply->set_proximal(work_.rules.proximal);
    reply->set_control_variate(work_.rules.control_variate);
    reply->set_counted(counted);
    reply->set_asynchronous(plan.buffer > 0);
    reply->set_secure(secure_ != nullptr);
    if (work_.privacy.is_on()) {
      auto* privacy = reply->mutable_privacy();
      privacy->set_unit(std::string(to_string(work_.privacy.unit)));
      privacy->set_clip_norm(work_.privacy.clip_norm);
      privacy->set_rate(work_.privacy.rate);
      privacy->set_noise_multiplier(work_.privacy.noise_multiplier);
      privacy->set_delta(work_.privacy.delta);
    }
    for (const SharingRule& rule : work_.sharing) {
      auto* told = reply->add_sharing();
      told->set_pattern(rule.pattern);
      told->set_sharing(std::string(to_string(rule.sharing)));
    }
  });
}

grpc::Status FederationService::Download(grpc::ServerContext* context,
                                         const federated::DownloadRequest* request,
                                         grpc::ServerWriter<federated::Chunk>* writer) {
  return answer(*context, [&](const std::string& site) {
    const RoundPlan plan = board_.model_of(request->round());
    const OutgoingFile file(plan.model);
    require(request->offset() >= 0 && static_cast<std::uint64_t>(request->offset()) <= file.bytes(),
            "byte {} of a model of {}", request->offset(), file.bytes());
    federated::Chunk chunk;
    for (auto at = static_cast<std::uint64_t>(request->offset()); at < file.bytes();
         at += chunk.data().size()) {
      fill_chunk(file, at, chunk);
      if (!writer->Write(chunk)) return;  // the site has gone, and goes on later
    }
    board_.fetched(site, request->round());
  });
}

SecureRound& FederationService::secure() const {
  SiteMistake::unless(secure_ != nullptr, "this federation is not by secure aggregation");
  return *secure_;
}

template <class F>
void FederationService::with_upload(const std::string& site, const federated::UpdateHeader& header, F f) {
  if (header.attempt() > 0)
    f(secure().begin_upload(site, header.attempt(), conclave::from_message(header.update())));
  else
    f(board_.begin_upload(site, from_message(header)));
}

grpc::Status FederationService::Progress(grpc::ServerContext* context, const federated::UpdateHeader* request,
                                         federated::UploadState* reply) {
  return answer(*context, [&](const std::string& site) {
    with_upload(site, *request, [&](const auto& upload) {
      reply->set_complete(upload == nullptr);
      reply->set_received(static_cast<std::int64_t>(upload ? upload->received() : 0));
    });
  });
}

grpc::Status FederationService::Upload(grpc::ServerContext* context,
                                       grpc::ServerReader<federated::UploadPart>* reader,
                                       federated::UploadState* reply) {
  return answer(*context, [&](const std::string& site) {
    federated::UploadPart part;
    require(reader->Read(&part) && part.has_header(), "an upload begins with what it is of");
    with_upload(site, federated::UpdateHeader(part.header()), [&](const auto& upload) {
      while (upload && reader->Read(&part)) {
        require(part.has_chunk() && part.chunk().offset() >= 0, "an upload goes on with chunks");
        upload->append(static_cast<std::uint64_t>(part.chunk().offset()), part.chunk().data(),
                       part.chunk().checksum());
      }
      // The stream also ends where the connection broke; then there is more to come, by another call.
      if (upload && !context->IsCancelled()) upload->finish();
      reply->set_complete(true);
      if (upload) reply->set_received(static_cast<std::int64_t>(upload->received()));
    });
  });
}

grpc::Status FederationService::Exchange(grpc::ServerContext* context,
                                         const federated::SecureMessage* request,
                                         federated::SecureMessage* reply) {
  return answer(*context, [&](const std::string& site) {
    using Message = federated::SecureMessage;
    const auto cancelled = [&] { return context->IsCancelled(); };
    reply->set_round(request->round());
    reply->set_attempt(request->attempt());
    reply->set_kind(request->kind());
    if (request->kind() != Message::READY) {
      SiteMistake::unless(request->kind() > Message::READY && request->kind() <= Message::UNMASK,
                          "a message of kind {}", static_cast<int>(request->kind()));
      const auto phase = static_cast<SecureRound::Phase>(request->kind() - Message::ADVERTISE);
      const auto told =
          secure().exchange(site, request->attempt(), phase, request->body(), kLongestAnswer, cancelled);
      using State = SecureRound::Answer::State;
      reply->set_state(told.state == State::here      ? Message::HERE
                       : told.state == State::not_yet ? Message::NOT_YET
                                                      : Message::TOO_LATE);
      reply->set_body(told.body.data(), told.body.size());
      return;
    }
    federated::UpdateHeader header;
    SiteMistake::unless(header.ParseFromString(request->body()), "a message that cannot be read");
    UpdateOffer offer = from_message(header);
    offer.certificate = peer_certificate(*context);
    const auto terms = secure().ready(site, offer, request->attempt(), kLongestAnswer, cancelled);
    reply->set_state(terms ? Message::HERE : Message::NOT_YET);
    if (terms) reply->set_body(to_message(*terms).SerializeAsString());
  });
}

}  // namespace conclave
