#include "tests/federated/transport/sum_trial.h"

#include <fcntl.h>

#include <ctime>

#include "federated/database.h"
#include "federated/secure_aggregation/coordinator.h"
#include "federated/secure_aggregation/site.h"
#include "federated/secure_round.h"
#include "federated/transport/site_connection.h"

namespace conclave {
namespace {

namespace fs = std::filesystem;
using namespace secure_aggregation;
using Message = federated::SecureMessage;

constexpr const char* kMembers[] = {"east", "north", "south"};  // the first one is on trial

SiteRound round_of_trial() {
  SiteRound round{.rounds = 1, .model = {}, .digest = {}, .sharing = {}};
  round.model_sha256 = "of a model";
  round.elements = SumTrial::kElements;
  round.local_steps = 1;
  round.secure = true;
  return round;
}

Agreement agreement_of_trial() {
  const SiteRound round = round_of_trial();
  Agreement agreement = Agreement::among(
      "trial", SumTrial::kAttempt, {std::begin(kMembers), std::end(kMembers)}, {4}, SumTrial::kElements);
  agreement.least = 3;  // fewer may not be summed
  agreement.colluding = 0;
  agreement.values = sum_values(
      {.rounds = round.rounds, .model_sha256 = round.model_sha256, .local_steps = round.local_steps}, 1, 0,
      {});
  return agreement;
}

// What another process would find if this one were killed now.
std::optional<std::int64_t> on_disk(const fs::path& directory, const std::string& table) {
  const fs::path copy = directory.parent_path() / "copy";
  fs::remove_all(copy);
  fs::create_directories(copy);
  fs::copy_file(directory / "unmasked.sqlite", copy / "unmasked.sqlite");
  const Database database((copy / "unmasked.sqlite").string());
  auto rows = database.prepare("SELECT attempt FROM " + table + " WHERE round = 0");
  return rows.next() ? std::optional(rows.integer(0)) : std::nullopt;
}

}  // namespace

struct SumTrial::Parts {
  Parts(const fs::path& directory, bool damaged) : folder(directory), damages(damaged) {
    const CertificateAuthority authority = CertificateAuthority::create("trial");
    for (const char* name : kMembers) {
      authority.issue(directory / name, name, 1);
      kits.push_back(Kit::read(directory / name, std::time(nullptr)));
    }
    for (std::uint32_t i = 1; i < std::size(kMembers); ++i)
      others.emplace_back(agreement, i,
                          Identity{[this, i](ByteView message) { return sign(kits[i], message); },
                                   [this](std::uint32_t site, ByteView message, ByteView signature) {
                                     return is_signed(kits[site].certificate, message, signature);
                                   }},
                          random);
    site.emplace(
        SiteOptions{.address = "nowhere", .directory = directory / "site", .patience_seconds = 0.2}, kits[0],
        std::make_unique<conclave::Site::Connection>([this] { return std::make_unique<SummingStub>(*this); }),
        [] { return false; }, [](const std::string&) {});
  }

  Done done() const {
    return {on_disk(folder / "site", "sent"), on_disk(folder / "site", "unmasked"), spends};
  }

  Bytes answer(Message::Kind kind, ByteView body) {
    if (kind == Message::ADVERTISE) {
      coordinator.receive(Advertisement::decode(body));
      for (auto& other : others) coordinator.receive(other.advertise());
      coordinator.end_phase();
      return coordinator.roster().encode();
    }
    if (kind == Message::SHARE) {
      coordinator.receive(SharesUpload::decode(body));
      for (auto& other : others) {
        SharesUpload upload = other.share(coordinator.roster());
        if (damages) upload.shares.front().sealed[0] ^= std::byte{1};  // for the first site
        coordinator.receive(upload);
      }
      coordinator.end_phase();
      return coordinator.delivery(0).encode();
    }
    if (kind == Message::MASK) {
      coordinator.end_phase();
      return coordinator.survivors(0).encode();
    }
    if (kind == Message::CONSENT) {
      coordinator.receive(Consent::decode(body));
      for (std::uint32_t i = 0; i < others.size(); ++i)
        coordinator.receive(others[i].consent(coordinator.survivors(i + 1)));
      coordinator.end_phase();
      return coordinator.consents(0).encode();
    }
    at_unmask = done();
    coordinator.receive(Unmasking::decode(body));
    for (std::uint32_t i = 0; i < others.size(); ++i)
      coordinator.receive(others[i].unmask(coordinator.consents(i + 1)));
    coordinator.end_phase();
    const RingVector vector = coordinator.sum();
    for (std::size_t i = 0; i < vector.size(); ++i) sum.push_back(vector[i]);
    return {};
  }

  void take_masked(ByteView body) {
    coordinator.receive(MaskedInput::decode(body));
    for (std::uint32_t i = 0; i < others.size(); ++i)
      coordinator.receive(
          others[i].mask(coordinator.delivery(i + 1), std::vector<std::int64_t>(kElements, 5)));
  }

  std::string terms() const {
    federated::SecureTerms told;
    told.set_federation(agreement.federation);
    told.set_attempt(kAttempt);
    for (std::size_t i = 0; i < kits.size(); ++i) {
      auto* member = told.add_members();
      member->set_site(kMembers[i]);
      member->set_certificate(kits[i].certificate);
    }
    told.set_least(agreement.least);
    told.set_colluding(agreement.colluding);
    told.set_width(static_cast<std::uint32_t>(agreement.ring.width));
    told.set_length(agreement.length);
    told.set_clip_norm(1);
    return told.SerializeAsString();
  }

  class SummingStub final : public Stub {
   public:
    explicit SummingStub(Parts& parts) : parts_(parts) {}

    grpc::Status next(grpc::ClientContext&, const federated::NextRequest&, federated::Assignment&) override {
      return {grpc::StatusCode::PERMISSION_DENIED, "there is no round"};
    }
    Download download(grpc::ClientContext&, const federated::DownloadRequest&) override {
      fail("there is no model");
    }
    grpc::Status exchange(grpc::ClientContext&, const Message& request, Message& reply) override {
      if (request.kind() == Message::READY) {
        if (request.attempt() == kAttempt) return {grpc::StatusCode::ABORTED, "there is no other attempt"};
        reply.set_body(parts_.terms());
        return grpc::Status::OK;
      }
      const Bytes body = parts_.answer(request.kind(), std::as_bytes(std::span(request.body())));
      reply.set_body(body.data(), body.size());
      return grpc::Status::OK;
    }
    grpc::Status progress(grpc::ClientContext&, const federated::UpdateHeader&,
                          federated::UploadState&) override {
      parts_.at_upload = parts_.done();
      return grpc::Status::OK;
    }
    Upload upload(grpc::ClientContext&, federated::UploadState&) override {
      return std::make_unique<Taker>(parts_);
    }

   private:
    struct Taker final : grpc::ClientWriterInterface<UploadFrame> {
      explicit Taker(Parts& to) : parts(to) {}
      bool Write(const UploadFrame& frame, grpc::WriteOptions) override {
        if (const auto* chunk = std::get_if<ChunkFrame>(&frame))
          for (const std::string_view piece : chunk->pieces()) body += piece;
        return true;
      }
      bool WritesDone() override { return true; }
      grpc::Status Finish() override {
        parts.take_masked(std::as_bytes(std::span(body)));
        return grpc::Status::OK;
      }
      Parts& parts;
      std::string body;
    };

    Parts& parts_;
  };

  fs::path folder;
  bool damages;
  std::vector<Kit> kits;
  Agreement agreement = agreement_of_trial();
  SystemRandom random;
  Coordinator coordinator{agreement};
  std::vector<secure_aggregation::Site> others;
  int spends = 0;
  std::optional<Done> at_upload, at_unmask;
  std::vector<std::int64_t> sum;
  std::optional<conclave::Site> site;
};

SumTrial::SumTrial(const fs::path& directory, bool damaged)
    : parts_(std::make_unique<Parts>(directory, damaged)) {}
SumTrial::~SumTrial() = default;

bool SumTrial::deliver() {
  const fs::path update = parts_->folder / "update.f32";
  {
    const std::string zeros(kElements * sizeof(float), '\0');
    FileDescriptor(update.string(), O_WRONLY | O_CREAT | O_TRUNC).write(zeros.data(), zeros.size());
  }
  return parts_->site->deliver(round_of_trial(), {update, digest_of(update)}, 1, {}, {},
                               [&] { ++parts_->spends; });
}

const std::optional<SumTrial::Done>& SumTrial::at_upload() const { return parts_->at_upload; }
const std::optional<SumTrial::Done>& SumTrial::at_unmask() const { return parts_->at_unmask; }
const std::vector<std::int64_t>& SumTrial::sum() const { return parts_->sum; }

}  // namespace conclave
