#include "tests/federated/transport/message_trial.h"

#include <fcntl.h>
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <google/protobuf/stubs/logging.h>

#include <algorithm>
#include <cmath>
#include <ctime>
#include <deque>
#include <limits>
#include <stdexcept>
#include <thread>

#include "federated/secure_aggregation/site.h"
#include "federated/transport/service.h"
#include "federated/transport/site_connection.h"

namespace conclave {
namespace {

namespace fs = std::filesystem;
using Messages = std::deque<std::string>;

enum Kind : std::uint8_t { next, download, progress, upload, secure, answers, kKinds };

constexpr std::uint64_t kElements = 8;
constexpr std::int64_t kRound = 1, kRounds = 3;
constexpr const char* kSites[] = {"north", "south", "west"};  // the first one is on trial
constexpr double kPatience = 10;                              // seconds, for calls that need no time

Messages messages_of(std::string_view input) {
  Messages messages;
  while (input.size() >= 2) {
    const auto size = static_cast<std::uint8_t>(input[0]) | static_cast<std::uint8_t>(input[1]) << 8;
    messages.emplace_back(input.substr(2, static_cast<std::size_t>(size)));
    input.remove_prefix(std::min(input.size(), 2 + static_cast<std::size_t>(size)));
  }
  return messages;
}

std::string input_of(Kind kind, std::initializer_list<std::string> messages) {
  std::string input(1, static_cast<char>(kind));
  for (const std::string& message : messages) {
    input += static_cast<char>(message.size() & 0xFF);
    input += static_cast<char>(message.size() >> 8);
    input += message;
  }
  return input;
}

std::string download_from(std::int64_t offset) {
  federated::DownloadRequest request;
  request.set_round(kRound);
  request.set_offset(offset);
  return input_of(download, {request.SerializeAsString()});
}

template <class Message>
bool take(Messages& messages, Message& message) {
  if (messages.empty()) return false;
  const bool read = message.ParseFromString(messages.front());
  messages.pop_front();
  return read;
}

std::string text_of(const ChunkFrame& frame) {
  std::string text;
  for (const std::string_view piece : frame.pieces()) text += piece;
  return text;
}

// With maps in the order of their keys, which SerializeAsString() does not guarantee.
std::string text_of(const federated::UpdateHeader& header) {
  std::string text;
  google::protobuf::io::StringOutputStream out(&text);
  google::protobuf::io::CodedOutputStream coded(&out);
  coded.SetSerializationDeterministic(true);
  header.SerializeToCodedStream(&coded);
  coded.Trim();
  return text;
}

bool same(const ChunkFrame& frame, const federated::Chunk& chunk) {
  return frame.offset == chunk.offset() && frame.checksum == chunk.checksum() &&
         text_of(frame) == chunk.data();
}
bool same(const UploadFrame& frame, const federated::UploadPart& part) {
  if (const auto* header = std::get_if<federated::UpdateHeader>(&frame))
    return part.has_header() && text_of(*header) == text_of(part.header());
  if (const auto* chunk = std::get_if<ChunkFrame>(&frame))
    return part.has_chunk() && same(*chunk, part.chunk());
  return part.part_case() == federated::UploadPart::PART_NOT_SET;
}

// Parses the first message into a frame. gRPC's part is played by slices of a few bytes each. Frames and
// protobuf's own classes must agree on what the message says, and on what the frame becomes when it is sent.
template <class Message, class Frame>
bool take_frame(Messages& messages, Frame& frame) {
  if (messages.empty()) return false;
  const std::string text = std::move(messages.front());
  messages.pop_front();
  constexpr std::size_t kSlice = 7;
  std::vector<grpc::Slice> slices;
  for (std::size_t at = 0; at < text.size(); at += kSlice) slices.emplace_back(text.substr(at, kSlice));
  grpc::ByteBuffer buffer(slices.data(), slices.size()), sent;
  const bool read = grpc::SerializationTraits<Frame>::Deserialize(&buffer, &frame).ok();
  if (buffer.Valid()) throw std::logic_error("a message is kept after it was read");
  Message message;
  // Frames also accept numbers with more bytes than necessary, which protobuf does not.
  const bool readable = message.ParseFromString(text);
  if (readable && (!read || !same(frame, message))) throw std::logic_error("a message is read as another");
  if (!read) return false;
  bool own = false;
  grpc::Slice whole;
  if (!grpc::SerializationTraits<Frame>::Serialize(frame, &sent, &own).ok() ||
      !sent.DumpToSingleSlice(&whole).ok() ||
      !message.ParseFromArray(whole.begin(), static_cast<int>(whole.size())) || !same(frame, message))
    throw std::logic_error("a message is sent as another");
  return true;
}

std::string_view text_of(std::span<const float> values) {
  return {reinterpret_cast<const char*>(values.data()), values.size_bytes()};
}

const std::vector<float>& update_values() {
  static const std::vector<float> values{1, 2, 3, 4, 5, 6, 7, 8};
  return values;
}

void write(const fs::path& file, std::string_view data) {
  FileDescriptor(file.string(), O_WRONLY | O_CREAT | O_TRUNC).write(data.data(), data.size());
}

template <class F>
void with_errors_allowed(F f) {
  try {
    f();
  } catch (const Error&) {
  }
}

// A coordinator that answers with the given messages. When they are used up, it sets `ended`.
class GivenAnswers final : public Stub {
 public:
  GivenAnswers(Messages& messages, bool& ended, std::function<void(federated::SecureMessage&)> mend)
      : messages_(messages), ended_(ended), mend_(std::move(mend)) {}

  grpc::Status next(grpc::ClientContext&, const federated::NextRequest&,
                    federated::Assignment& reply) override {
    const grpc::Status status = answer(reply);
    if (reply.kind() == federated::Assignment::WAIT) ended_ = true;  // the site would wait
    return status;
  }
  grpc::Status progress(grpc::ClientContext&, const federated::UpdateHeader&,
                        federated::UploadState& reply) override {
    return answer(reply);
  }
  grpc::Status exchange(grpc::ClientContext&, const federated::SecureMessage&,
                        federated::SecureMessage& reply) override {
    const grpc::Status status = answer(reply);
    mend_(reply);
    return status;
  }
  Download download(grpc::ClientContext&, const federated::DownloadRequest&) override {
    ended_ |= messages_.empty();
    return std::make_unique<Chunks>(*this);
  }
  Upload upload(grpc::ClientContext&, federated::UploadState& reply) override {
    return std::make_unique<Taker>(answer(reply));
  }

 private:
  template <class Message>
  grpc::Status answer(Message& reply) {
    if (take(messages_, reply)) return grpc::Status::OK;
    ended_ = true;
    return {grpc::StatusCode::UNAVAILABLE, "no more"};
  }

  struct Chunks final : grpc::ClientReaderInterface<ChunkFrame> {
    explicit Chunks(GivenAnswers& of) : answers(of) {}
    ~Chunks() override { answers.ended_ |= !finished; }  // the site refused what came
    bool Read(ChunkFrame* chunk) override { return take_frame<federated::Chunk>(answers.messages_, *chunk); }
    bool NextMessageSize(std::uint32_t*) override { return false; }
    void WaitForInitialMetadata() override {}
    grpc::Status Finish() override {
      finished = true;
      return grpc::Status::OK;
    }
    GivenAnswers& answers;
    bool finished = false;
  };
  struct Taker final : grpc::ClientWriterInterface<UploadFrame> {
    explicit Taker(grpc::Status status) : answer(std::move(status)) {}
    bool Write(const UploadFrame&, grpc::WriteOptions) override { return true; }
    bool WritesDone() override { return true; }
    grpc::Status Finish() override { return answer; }
    grpc::Status answer;
  };

  Messages& messages_;
  bool& ended_;
  std::function<void(federated::SecureMessage&)> mend_;
};

}  // namespace

struct MessageTrial::Parts {
  explicit Parts(fs::path where)
      : directory(std::move(where)), authority(CertificateAuthority::create("trial")) {
    for (const char* site : kSites) {
      authority.issue(directory / site, site, 1);
      kits.push_back(Kit::read(directory / site, std::time(nullptr)));
    }
    write(directory / "model", "the model");
    model = digest_of(directory / "model");
    write(directory / "update", text_of(update_values()));
  }

  RoundPlan plan(bool by_sum) const {
    return {.round = kRound,
            .rounds = kRounds,
            .model = directory / "model",
            .digest = model,
            .elements = kElements,
            .experts = 1,
            .secure = by_sum};
  }

  // Inserts what a fuzzer cannot guess: digests and checksums.
  void mend(federated::UpdateHeader& header, const Messages& rest) const {
    *header.mutable_base() = to_message(plan(false).digest);
    std::string data;
    for (const std::string& text : rest)
      if (federated::UploadPart part; part.ParseFromString(text)) data += part.chunk().data();
    if (std::cmp_equal(data.size(), header.update().bytes()))
      *header.mutable_update() = to_message(digest_of(std::as_bytes(std::span(data))));
  }

  // Calls f() and records its status.
  template <class F>
  void call(F f) {
    try {
      f();
      codes.push_back(grpc::StatusCode::OK);
    } catch (const Error& error) {
      codes.push_back(status_of(error).error_code());
    }
  }

  void call_coordinator(Kind kind, Messages messages, bool mended) {
    fs::remove_all(directory / "updates");
    Database database(":memory:");
    RoundBoard board(directory, database);
    board.open(plan(false));
    SiteCalls calls(board, nullptr, {.steps = 1});
    const Caller caller{kSites[0], kits[0].certificate, [] { return false; }};
    call([&] {
      switch (kind) {
        case next:
          if (federated::NextRequest request; take(messages, request)) {
            request.set_wait_seconds(0);
            calls.next(caller, request);
          }
          break;
        case download:
          if (federated::DownloadRequest request; take(messages, request))
            calls.download(caller, request, [](const auto&) { return true; });
          break;
        case progress:
          if (federated::UpdateHeader header; take(messages, header)) {
            if (mended) mend(header, {});
            calls.progress(caller, header);
          }
          break;
        default:
          calls.upload(caller, [&](UploadFrame& part) {
            if (!take_frame<federated::UploadPart>(messages, part)) return false;
            if (!mended) return true;
            if (auto* header = std::get_if<federated::UpdateHeader>(&part)) mend(*header, messages);
            if (auto* chunk = std::get_if<ChunkFrame>(&part))
              chunk->checksum = chunk_checksum(chunk->pieces());
            return true;
          });
      }
    });
    for (const ReceivedUpdate& update : board.updates_of(kRound)) {
      std::vector<float> values(kElements);
      const OutgoingFile file(update.file);
      if (file.bytes() != kElements * sizeof(float)) throw std::logic_error("an update of another length");
      file.read_at(values.data(), file.bytes(), 0);
      if (!std::ranges::all_of(values, [](float value) { return std::isfinite(value); }) ||
          !std::isfinite(update.examples) || update.examples <= 0 || update.tokens.size() != 1)
        throw std::logic_error("an update that is not finite");
    }
  }

  // A round of secure aggregation in which the other sites are honest, up to the phase that the first
  // message's byte selects.
  void call_secure_round(Messages messages) {
    if (messages.empty() || messages.front().empty()) return;
    const auto phase = static_cast<SecureRound::Phase>(static_cast<std::uint8_t>(messages.front()[0]) % 5);
    messages.pop_front();
    using namespace secure_aggregation;
    Database database(":memory:");
    RoundBoard board(directory, database);
    board.open(plan(true));
    SecureRound round(directory, database, board,
                      {.enabled = true, .federation = "trial", .phase_seconds = kPatience},
                      [](const auto&) {});
    SiteCalls calls(board, &round, {.steps = 1});
    std::vector<ReceivedUpdate> ready;
    for (std::size_t i = 0; i < std::size(kSites); ++i)
      ready.push_back({.site = kSites[i],
                       .file = {},
                       .examples = 1,
                       .metrics = {},
                       .tokens = {1},
                       .digest = "",
                       .certificate = kits[i].certificate});
    std::jthread loop([&] { round.attempt({.round = kRound}, kElements, ready); });
    struct Stop {
      ~Stop() { round.stop(); }
      SecureRound& round;
    } stop{round};
    const UpdateOffer offer{.round = kRound,
                            .base = plan(true).digest,
                            .update = {},
                            .examples = 1,
                            .metrics = {},
                            .tokens = {1},
                            .certificate = kits[0].certificate};
    const auto terms = round.ready(kSites[0], offer, 0, kPatience, [] { return false; });
    if (!terms) throw std::logic_error("the trial's round does not begin");

    SeededRandom random{Secret()};
    std::vector<secure_aggregation::Site> sites;
    for (std::uint32_t i = 0; i < std::size(kSites); ++i)
      sites.emplace_back(terms->agreement, i,
                         Identity{[this, i](ByteView message) { return sign(kits[i], message); },
                                  [](auto, auto, auto) { return true; }},
                         random);
    const auto number = static_cast<std::int64_t>(terms->agreement.round);
    std::vector<Key> contexts{terms->agreement.digest()};
    std::vector<Bytes> told;
    // All sites send what make() returns for them, and get the answers.
    const auto exchange = [&](SecureRound::Phase of, auto make) {
      std::vector<Bytes> bodies;
      for (std::size_t i = 0; i < sites.size(); ++i) bodies.push_back(make(i));
      told.clear();
      for (const double patience : {0.0, kPatience}) {
        told.clear();
        for (std::size_t i = 0; i < sites.size(); ++i) {
          const std::string_view body(reinterpret_cast<const char*>(bodies[i].data()), bodies[i].size());
          if (of == SecureRound::Phase::mask && patience == 0.0) {
            const auto file = round.begin_upload(kSites[i], number, digest_of(bodies[i]));
            file->append(0, body, chunk_checksum(body));
            file->finish();
          } else {
            told.push_back(round.exchange(kSites[i], number, of, body, patience, [] { return false; }).body);
          }
        }
      }
    };
    using Phase = SecureRound::Phase;
    if (phase > Phase::advertise) {
      exchange(Phase::advertise, [&](std::size_t i) { return sites[i].advertise().encode(); });
      contexts.push_back(Roster::decode(told[0]).digest());
    }
    if (phase > Phase::share)
      exchange(Phase::share, [&, rosters = told](std::size_t i) {
        return sites[i].share(Roster::decode(rosters[i])).encode();
      });
    if (phase > Phase::mask)
      exchange(Phase::mask, [&, deliveries = told](std::size_t i) {
        return sites[i]
            .mask(SharesDelivery::decode(deliveries[i]), std::vector<std::int64_t>(kElements, 5))
            .encode();
      });
    if (phase > Phase::consent)
      exchange(Phase::consent, [&, survivors = told](std::size_t i) {
        return sites[i].consent(Survivors::decode(survivors[i])).encode();
      });

    const Caller caller{kSites[0], kits[0].certificate, [] { return false; }};
    for (const std::string& text : messages) {
      federated::SecureMessage message;
      if (!message.ParseFromString(text)) continue;
      message.set_attempt(message.attempt() == 0 ? 0 : number);
      call([&] { calls.exchange(caller, message, 0); });
      std::string& body = *message.mutable_body();
      for (const Key& context : contexts)
        if (body.size() >= 2 + context.size()) {
          std::ranges::copy(std::string_view(reinterpret_cast<const char*>(context.data()), context.size()),
                            body.begin() + 2);
          call([&] { calls.exchange(caller, message, 0); });
          if (message.kind() != federated::SecureMessage::MASK) continue;
          call([&] {  // the masked input comes as a file
            const auto file =
                round.begin_upload(kSites[0], number, digest_of(std::as_bytes(std::span(body))));
            if (!file) return;
            file->append(0, body, chunk_checksum(body));
            file->finish();
          });
        }
    }
  }

  void answer_site(Messages messages, bool mended) const {
    bool ended = false;
    const auto mend = [&](federated::SecureMessage& message) {
      federated::SecureTerms terms;
      if (!mended || !terms.ParseFromString(message.body())) return;
      for (auto& member : *terms.mutable_members())
        for (std::size_t i = 0; i < std::size(kSites); ++i)
          if (member.site() == kSites[i]) member.set_certificate(kits[i].certificate);
      message.set_body(terms.SerializeAsString());
    };
    const fs::path folder = directory / "site";
    fs::remove_all(folder);
    conclave::Site site(
        {.address = "nowhere", .directory = folder, .patience_seconds = 0}, kits[0],
        std::make_unique<conclave::Site::Connection>(
            [&] { return std::make_unique<GivenAnswers>(messages, ended, mend); }),
        [&] { return ended; },
        // The site has no disk space for so large a model, and would wait for it.
        [&](const std::string& said) { ended |= said.ends_with("trying again"); });
    with_errors_allowed([&] {
      const SiteRound round = site.next();
      // What a site does next.
      if (std::max(round.turn(), round.counted) * round.local_steps > kMostFederatedSteps)
        throw std::logic_error("a round that a site does not come to the beginning of");
      if (round.privacy.is_on()) round.privacy.epsilon(1);
      const FlatParameter parameters[] = {{"layer.weight", {2, 2}},
                                          {"layer.moe.experts.weight", {2, 2}, "layer.moe"}};
      const SharingPolicy policy(parameters, round.sharing);
      if (round.finished || std::cmp_not_equal(round.elements, policy.exchanged_elements())) return;
      site.deliver(round, {directory / "update", digest_of(directory / "update")}, 1, {1}, {{"loss", 1}});
    });
  }

  google::protobuf::LogSilencer silence;  // of text that is not UTF-8
  fs::path directory;
  CertificateAuthority authority;
  FileDigest model;
  std::vector<Kit> kits;
  std::vector<int> codes;  // of the coordinator's answers
};

MessageTrial::MessageTrial(std::filesystem::path directory)
    : parts_(std::make_unique<Parts>(std::move(directory))) {}

MessageTrial::~MessageTrial() = default;

std::vector<int> MessageTrial::run(std::string_view input) {
  parts_->codes.clear();
  if (input.empty()) return {};
  const auto kind = static_cast<Kind>(static_cast<std::uint8_t>(input[0]) % kKinds);
  const Messages messages = messages_of(input.substr(1));
  if (messages.size() > 16) return {};
  if (kind == secure) {
    parts_->call_secure_round(messages);
    return parts_->codes;
  }
  for (const bool mended : {false, true})
    kind == answers ? parts_->answer_site(messages, mended)
                    : parts_->call_coordinator(kind, messages, mended);
  return parts_->codes;
}

void MessageTrial::truncate_model() { write(parts_->directory / "model", "the"); }

const int MessageTrial::kInvalidArgument = grpc::StatusCode::INVALID_ARGUMENT;
const int MessageTrial::kAborted = grpc::StatusCode::ABORTED;
const int MessageTrial::kInternal = grpc::StatusCode::INTERNAL;

std::string MessageTrial::download_beyond_end() { return download_from(1000); }

std::map<std::string, std::string> MessageTrial::mistakes() {
  const auto model = to_message(digest_of(std::as_bytes(std::span(std::string_view("the model")))));
  const auto update = to_message(digest_of(std::as_bytes(std::span(update_values()))));
  std::map<std::string, std::string> inputs;
  federated::NextRequest other_protocol;
  other_protocol.set_protocol(kProtocol + 1);
  inputs["another protocol"] = input_of(next, {other_protocol.SerializeAsString()});
  inputs["the model from byte -1"] = download_from(-1);

  federated::UpdateHeader right;
  right.set_round(kRound);
  *right.mutable_base() = model;
  *right.mutable_update() = update;
  right.set_examples(5);
  right.add_tokens(3);
  const auto offered = [&](const std::string& wrong, const auto& change) {
    federated::UpdateHeader header = right;
    change(header);
    inputs[wrong] = input_of(progress, {header.SerializeAsString()});
  };
  offered("a digest of the model that is none",
          [](auto& header) { header.mutable_base()->set_xxh3("short"); });
  offered("a digest of the update that is none", [](auto& header) { header.mutable_update()->clear_xxh3(); });
  offered("an update of fewer than no bytes", [](auto& header) { header.mutable_update()->set_bytes(-1); });
  offered("a shorter update", [](auto& header) { header.mutable_update()->set_bytes(4); });
  offered("a round before the first", [](auto& header) { header.set_round(-1); });
  offered("a last round", [](auto& header) { header.set_round(std::numeric_limits<std::int64_t>::max()); });
  offered("no examples", [](auto& header) { header.set_examples(0); });
  offered("tokens of other experts", [](auto& header) { header.add_tokens(3); });
  offered("fewer tokens than none", [](auto& header) { header.set_tokens(0, -1); });
  offered("a metric without a name", [](auto& header) { (*header.mutable_metrics())[""] = 1; });
  offered("a sum where there is none", [](auto& header) { header.set_attempt(1); });

  federated::UploadPart begin, chunk;
  *begin.mutable_header() = right;
  const auto sent = [&](const std::string& wrong, std::initializer_list<federated::UploadPart> parts) {
    std::string& input = inputs[wrong] = input_of(upload, {});
    for (const federated::UploadPart& part : parts)
      input += input_of(upload, {part.SerializeAsString()}).substr(1);
  };
  const auto with = [&](std::string_view data, std::int64_t offset) {
    chunk.mutable_chunk()->set_offset(offset);
    chunk.mutable_chunk()->set_data(std::string(data));
    chunk.mutable_chunk()->set_checksum(chunk_checksum(data));
    return chunk;
  };
  const float infinite = std::numeric_limits<float>::infinity();
  sent("an upload of nothing", {});
  sent("an upload without a beginning", {with(text_of(update_values()), 0)});
  sent("an upload that begins twice", {begin, begin});
  sent("a chunk before the first byte", {begin, with(text_of(update_values()), -4)});
  sent("a number cut in two", {begin, with("123", 0)});
  sent("a number that is not finite", {begin, with(text_of(std::span(&infinite, 1)), 0)});

  federated::SecureMessage message;
  const auto exchanged = [&](const std::string& wrong, int kind, const std::string& body) {
    message.set_round(kRound);
    message.set_attempt(1);
    message.set_kind(static_cast<federated::SecureMessage::Kind>(kind));
    message.set_body(body);
    inputs[wrong] = input_of(secure, {std::string(1, '\0'), message.SerializeAsString()});
  };
  right.mutable_update()->set_bytes(0);
  right.mutable_base()->set_xxh3("short");
  exchanged("ready with what cannot be read", federated::SecureMessage::READY, "\xff");
  exchanged("ready with a digest that is none", federated::SecureMessage::READY, right.SerializeAsString());
  exchanged("a message of no kind", 9, "");
  exchanged("keys that cannot be read", federated::SecureMessage::ADVERTISE, "keys");
  exchanged("shares before keys", federated::SecureMessage::SHARE, "");
  return inputs;
}

std::map<std::string, std::string> MessageTrial::examples() {
  std::map<std::string, std::string> inputs;
  const auto model = digest_of(std::as_bytes(std::span(std::string_view("the model"))));
  const auto update = digest_of(std::as_bytes(std::span(update_values())));

  federated::NextRequest request;
  request.set_protocol(kProtocol);
  inputs["next"] = input_of(next, {request.SerializeAsString()});
  inputs["download"] = download_from(4);

  federated::UpdateHeader header;
  header.set_round(kRound);
  *header.mutable_base() = to_message(model);
  *header.mutable_update() = to_message(update);
  header.set_examples(5);
  header.add_tokens(3);
  (*header.mutable_metrics())["loss"] = 1;
  inputs["progress"] = input_of(progress, {header.SerializeAsString()});
  federated::UploadPart begin, first, second;
  *begin.mutable_header() = header;
  const auto chunk = [](std::string_view data, std::int64_t offset, federated::Chunk& chunk) {
    chunk.set_offset(offset);
    chunk.set_data(std::string(data));
    chunk.set_checksum(chunk_checksum(data));
  };
  const std::string_view data = text_of(update_values());
  chunk(data.substr(0, 12), 0, *first.mutable_chunk());
  chunk(data.substr(12), 12, *second.mutable_chunk());
  inputs["upload"] =
      input_of(upload, {begin.SerializeAsString(), first.SerializeAsString(), second.SerializeAsString()});

  federated::SecureMessage message;
  message.set_round(kRound);
  header.mutable_update()->set_bytes(0);
  message.set_kind(federated::SecureMessage::READY);
  message.set_body(header.SerializeAsString());
  inputs["secure_ready"] = input_of(secure, {std::string(1, '\0'), message.SerializeAsString()});
  message.set_attempt(1);
  for (int phase = 0; phase < 5; ++phase) {
    message.set_kind(static_cast<federated::SecureMessage::Kind>(phase + 1));
    message.set_body(std::string(2 + 32 + 4 + 4, '\1'));
    inputs["secure_phase_" + std::to_string(phase)] =
        input_of(secure, {std::string(1, static_cast<char>(phase)), message.SerializeAsString()});
  }

  federated::Assignment assignment;
  assignment.set_kind(federated::Assignment::TRAIN);
  assignment.set_round(kRound);
  assignment.set_rounds(kRounds);
  *assignment.mutable_model() = to_message(model);
  assignment.set_elements(kElements);
  assignment.set_local_steps(4);
  assignment.set_counted(1);
  auto* rule = assignment.add_sharing();
  rule->set_pattern("*.experts.*[0-1]");
  rule->set_sharing("by_tokens");
  federated::Chunk whole;
  chunk("the model", 0, whole);
  federated::UploadState some, all;
  some.set_received(4);
  all.set_received(static_cast<std::int64_t>(data.size()));
  all.set_complete(true);
  inputs["answers"] = input_of(answers, {assignment.SerializeAsString(), whole.SerializeAsString(),
                                         some.SerializeAsString(), all.SerializeAsString()});

  assignment.set_asynchronous(true);
  assignment.set_counted(1'000'000'000'000);
  inputs["answers_of_many_steps"] = input_of(answers, {assignment.SerializeAsString()});
  assignment.set_asynchronous(false);
  assignment.set_counted(1);

  assignment.set_secure(true);
  auto* privacy = assignment.mutable_privacy();
  privacy->set_unit("site");
  privacy->set_clip_norm(10);
  privacy->set_rate(1);
  privacy->set_noise_multiplier(1);
  privacy->set_delta(1e-5);
  federated::SecureTerms terms;
  terms.set_federation("trial");
  terms.set_attempt(1);
  for (const char* site : kSites) terms.add_members()->set_site(site);
  terms.set_least(3);
  terms.set_colluding(1);
  terms.set_width(4);
  terms.set_length(kElements);
  terms.set_clip_norm(10);
  federated::SecureMessage ready;
  ready.set_body(terms.SerializeAsString());
  federated::SecureMessage roster;
  roster.set_body(std::string(2 + 32 + 4, '\1'));
  inputs["secure_answers"] = input_of(answers, {assignment.SerializeAsString(), whole.SerializeAsString(),
                                                ready.SerializeAsString(), roster.SerializeAsString()});
  return inputs;
}

}  // namespace conclave
