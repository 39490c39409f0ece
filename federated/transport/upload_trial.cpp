#include "federated/transport/upload_trial.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <ctime>
#include <list>
#include <thread>
#include <vector>

#include "federated/transport/service.h"
#include "federated/transport/site.h"
#include "protocol.grpc.pb.h"

namespace conclave {
namespace {

// Reads an upload and discards it.
class BareService final : public federated::Federation::Service {
  grpc::Status Upload(grpc::ServerContext*, grpc::ServerReader<federated::UploadPart>* reader,
                      federated::UploadState*) override {
    federated::UploadPart part;
    while (reader->Read(&part)) {
    }
    return grpc::Status::OK;
  }
};

Kit kit_of(const CertificateAuthority& authority, const std::filesystem::path& folder,
           const std::string& name) {
  authority.issue(folder / name, name, 1);
  return Kit::read(folder / name, std::time(nullptr));
}

// Throws Error if the condition does not hold after 20 seconds.
void await(const char* what, const std::function<bool()>& condition) {
  for (const auto until = Clock::now() + std::chrono::seconds(20); !condition(); std::this_thread::yield())
    require(Clock::now() < until, "the trial waited 20 seconds until {}", what);
}

struct Upload {
  grpc::ClientContext context;
  federated::UploadState reply;
  std::unique_ptr<grpc::ClientWriter<federated::UploadPart>> writer;
};

}  // namespace

struct UploadTrial::Parts {
  Parts(const std::filesystem::path& folder, std::uint64_t count, std::chrono::milliseconds silence)
      : directory(folder),
        elements(count),
        authority(CertificateAuthority::create("trial")),
        leader(kit_of(authority, folder, std::string(kCoordinatorName))),
        member(kit_of(authority, folder, "member")),
        hinderer(kit_of(authority, folder, "hinderer")),
        database((folder / "rounds.sqlite").string()),
        board(folder, database),
        service(
            board, nullptr, allowed(), {}, [this](const auto&) { ++said; }, silence),
        server(start_server("127.0.0.1:0", leader, service, port)),
        bare_server(start_server("127.0.0.1:0", leader, bare, bare_port)),
        site(
            {.address = "127.0.0.1:" + std::to_string(port), .directory = folder / "site"}, member,
            [] { return false; }, [](const std::string& text) { throw Error(text); }),
        stub(federated::Federation::NewStub(open_channel("127.0.0.1:" + std::to_string(bare_port), member))) {
    for (const Kit* kit : {&member, &hinderer}) allowed().add(kit->info.name, kit->info.fingerprint);
    std::vector<float> values(elements);
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 1000) * 1e-3f;
    FileDescriptor(update.string(), O_WRONLY | O_CREAT).write(values.data(), values.size() * sizeof(float));
    digest = digest_of(update);
    open_round(0);
  }

  AllowList allowed() const { return AllowList(directory / "sites.txt"); }

  std::unique_ptr<federated::Federation::Stub> stub_of(const Kit& kit) const {
    return federated::Federation::NewStub(open_channel("127.0.0.1:" + std::to_string(port), kit));
  }
  void open_round(std::int64_t number) {
    round = {.round = number,
             .rounds = number + 1,
             .model = "",
             .digest = {},
             .elements = static_cast<std::int64_t>(elements),
             .sharing = {}};
    board.open({.round = number, .rounds = number + 1, .model = update, .digest = {}, .elements = elements});
  }

  std::filesystem::path directory, update = directory / "update.f32";
  std::atomic<std::size_t> said{0};
  std::uint64_t elements;
  FileDigest digest;
  CertificateAuthority authority;
  Kit leader, member, hinderer;
  Database database;
  RoundBoard board;
  FederationService service;
  BareService bare;
  int port = 0, bare_port = 0;
  std::unique_ptr<grpc::Server> server, bare_server;
  Site site;
  std::unique_ptr<federated::Federation::Stub> stub;
  SiteRound round;  // that is open
  std::vector<std::shared_ptr<grpc::Channel>> channels;
  std::list<Upload> uploads;  // begun, and not continued
};

UploadTrial::UploadTrial(const std::filesystem::path& directory, std::uint64_t elements,
                         std::chrono::milliseconds silence)
    : parts_(std::make_unique<Parts>(directory, elements, silence)) {}

UploadTrial::~UploadTrial() = default;

void UploadTrial::open_round() {
  parts_->board.clear();
  parts_->open_round(parts_->round.round + 1);
}

void UploadTrial::deliver() {
  Parts& parts = *parts_;
  require(parts.site.deliver(parts.round, {parts.update, parts.digest}, 1, {}, {}),
          "the trial's round was over");
}

std::string UploadTrial::deliver(const std::function<void()>& meanwhile) {
  Parts& parts = *parts_;
  const auto stub = parts.stub_of(parts.member);
  Upload upload;
  upload.writer = stub->Upload(&upload.context, &upload.reply);
  federated::UploadPart part;
  auto* header = part.mutable_header();
  header->set_round(parts.round.round);
  *header->mutable_base() = to_message(parts.round.digest);
  *header->mutable_update() = to_message(parts.digest);
  header->set_examples(1);
  upload.writer->Write(part);
  const auto came = parts.directory / "updates" / fmt::format("member.{}.f32", parts.round.round);
  const OutgoingFile file(parts.update);
  std::string data;
  for (std::uint64_t at = 0; at < file.bytes(); at += data.size()) {
    file.read(at, data);
    if (at + data.size() == file.bytes()) {
      try {
        await("most of the update came", [&] { return IncomingFile::received_of(came, parts.digest) == at; });
      } catch (const Error&) {
        upload.context.TryCancel();
        upload.writer->Finish();
        throw;
      }
      meanwhile();
    }
    auto* chunk = part.mutable_chunk();
    chunk->set_offset(static_cast<std::int64_t>(at));
    chunk->set_data(data);
    chunk->set_checksum(chunk_checksum(data));
    upload.writer->Write(part);
  }
  upload.writer->WritesDone();
  return upload.writer->Finish().error_message();
}

void UploadTrial::stream() {
  grpc::ClientContext context;
  federated::UploadState reply;
  const auto writer = parts_->stub->Upload(&context, &reply);
  federated::UploadPart part;
  part.mutable_chunk()->mutable_data()->assign(kChunkBytes, 'x');
  bool open = true;
  for (std::uint64_t sent = 0; open && sent < parts_->digest.bytes; sent += kChunkBytes)
    open = writer->Write(part);
  writer->WritesDone();
  const grpc::Status status = writer->Finish();
  require(status.ok(), "the trial's stream: {}", status.error_message());
}

void UploadTrial::hinder(std::size_t connections, std::size_t uploads) {
  Parts& parts = *parts_;
  const std::size_t before = parts.service.watch().begun();
  for (std::size_t i = 0; i < connections; ++i) {
    const auto channel = open_channel("127.0.0.1:" + std::to_string(parts.port), parts.hinderer);
    require(channel->WaitForConnected(std::chrono::system_clock::now() + std::chrono::seconds(20)),
            "connection {} of {} is not made", i + 1, connections);
    const auto hindering = federated::Federation::NewStub(channel);
    for (std::size_t n = 0; n < uploads; ++n) {
      Upload& upload = parts.uploads.emplace_back();
      upload.writer = hindering->Upload(&upload.context, &upload.reply);
    }
    parts.channels.push_back(channel);
  }
  await("the hindering calls had begun", [&] {
    return parts.service.watch().begun() >= before + std::min(kMostCalls, connections * uploads);
  });
}

void UploadTrial::revoke() { parts_->allowed().remove("hinderer"); }

UploadTrial::Refusal UploadTrial::call_once() {
  grpc::ClientContext context;
  federated::Assignment reply;
  const grpc::Status status = parts_->stub_of(parts_->hinderer)->Next(&context, {}, &reply);
  if (status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED) return Refusal::too_many;
  require(status.error_code() == grpc::StatusCode::PERMISSION_DENIED, "a call failed in another way: {}",
          status.error_message());
  return Refusal::not_let_in;
}

std::size_t UploadTrial::said() const { return parts_->said; }

void UploadTrial::wait_for_look() {
  const CallWatch& watch = parts_->service.watch();
  // The first of these looks may have begun before.
  await("the list was looked at", [&, two = watch.looks() + 2] { return watch.looks() >= two; });
}

UploadTrial::Ended UploadTrial::wait_for_end() {
  Ended ended;
  for (Upload& upload : parts_->uploads) {
    const grpc::StatusCode code = upload.writer->Finish().error_code();
    ++(code == grpc::StatusCode::RESOURCE_EXHAUSTED ? ended.refused : ended.cut);
  }
  parts_->uploads.clear();
  return ended;
}

}  // namespace conclave
