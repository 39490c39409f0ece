#include "tests/federated/transport/offer_trial.h"

#include <deque>

#include "federated/transport/site_connection.h"

namespace conclave {
namespace {

struct OfferedRound {
  std::int64_t round;
  std::string model;
  std::uint64_t more_bytes;
};

struct Offers {
  std::deque<OfferedRound> rounds;
  std::string model = {};  // of the round that was offered last
  int downloads = 0, early = 0;
  grpc::Status download_status = grpc::Status::OK;
  std::function<void()> at_download = [] {};
};

class OfferingStub final : public Stub {
 public:
  explicit OfferingStub(Offers& offers) : offers_(offers) {}

  grpc::Status next(grpc::ClientContext&, const federated::NextRequest&,
                    federated::Assignment& reply) override {
    if (offers_.rounds.empty()) return {grpc::StatusCode::PERMISSION_DENIED, "there is no other round"};
    const OfferedRound offered = offers_.rounds.front();
    offers_.rounds.pop_front();
    offers_.model = offered.model;
    FileDigest digest = digest_of(std::as_bytes(std::span(offered.model)));
    digest.bytes += offered.more_bytes;
    reply.set_kind(federated::Assignment::TRAIN);
    reply.set_round(offered.round);
    reply.set_rounds(offered.round + 1);
    *reply.mutable_model() = to_message(digest);
    reply.set_elements(1);
    reply.set_local_steps(1);
    return grpc::Status::OK;
  }
  grpc::Status progress(grpc::ClientContext&, const federated::UpdateHeader&,
                        federated::UploadState&) override {
    return {grpc::StatusCode::ABORTED, "the round is over"};
  }
  grpc::Status exchange(grpc::ClientContext&, const federated::SecureMessage&,
                        federated::SecureMessage& reply) override {
    if (offers_.early-- <= 0) return {grpc::StatusCode::PERMISSION_DENIED, "there is no sum"};
    reply.set_state(federated::SecureMessage::NOT_YET);
    return grpc::Status::OK;
  }
  Download download(grpc::ClientContext&, const federated::DownloadRequest&) override {
    ++offers_.downloads;
    offers_.at_download();
    return std::make_unique<OneChunk>(offers_.model,
                                      std::exchange(offers_.download_status, grpc::Status::OK));
  }
  Upload upload(grpc::ClientContext&, federated::UploadState&) override { fail("no update is taken"); }

 private:
  struct OneChunk final : grpc::ClientReaderInterface<ChunkFrame> {
    OneChunk(std::string what, grpc::Status last)
        : text(std::move(what)), status(std::move(last)), sent(!status.ok()) {}
    bool Read(ChunkFrame* chunk) override {
      if (std::exchange(sent, true)) return false;
      *chunk = {.checksum = chunk_checksum(text), .data = {grpc::Slice(text)}};
      return true;
    }
    bool NextMessageSize(std::uint32_t*) override { return false; }
    void WaitForInitialMetadata() override {}
    grpc::Status Finish() override { return status; }
    std::string text;
    grpc::Status status;
    bool sent;
  };

  Offers& offers_;
};

Kit kit_in(const std::filesystem::path& directory) {
  CertificateAuthority::create("trial").issue(directory, "north", 1);
  return Kit::read(directory, 0);
}

}  // namespace

struct OfferTrial::Parts {
  explicit Parts(const std::filesystem::path& directory)
      : site(
            {.address = "nowhere", .directory = directory / "site", .patience_seconds = 0.2},
            kit_in(directory / "kit"),
            std::make_unique<Site::Connection>([this] { return std::make_unique<OfferingStub>(offers); }),
            [] { return false; }, [this](const std::string& text) { said.push_back(text); }) {}

  Offers offers;
  std::vector<std::string> said;
  Site site;
};

OfferTrial::OfferTrial(const std::filesystem::path& directory) : parts_(std::make_unique<Parts>(directory)) {}
OfferTrial::~OfferTrial() = default;

void OfferTrial::offer(std::int64_t round, const std::string& model, std::uint64_t more_bytes) {
  parts_->offers.rounds.push_back({round, model, more_bytes});
}
void OfferTrial::end_download(const std::string& reason) {
  parts_->offers.download_status = {grpc::StatusCode::ABORTED, reason};
}
void OfferTrial::answer_early(int times) { parts_->offers.early = times; }
Site& OfferTrial::site() { return parts_->site; }
int OfferTrial::downloads() const { return parts_->offers.downloads; }
void OfferTrial::at_download(std::function<void()> action) { parts_->offers.at_download = std::move(action); }
const std::vector<std::string>& OfferTrial::said() const { return parts_->said; }

}  // namespace conclave
