#include "federated/transport/site.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <ctime>
#include <thread>
#include <utility>

#include "core/clock.h"
#include "federated/sha256.h"
#include "federated/transport/site_connection.h"

namespace conclave {
namespace {

constexpr double kWaitSeconds = 20;        // delay of Next, at most; proxies commonly allow more
constexpr double kTransferSeconds = 3600;  // of one attempt at a transfer; the next one continues it
constexpr int kMostRules = 1000;
constexpr std::size_t kMostPattern = 1000;               // characters
constexpr double kFirstPause = 0.25, kLongestPause = 5;  // seconds
// A model's file has a constant count of numbers, and a little that HDF5 adds.
constexpr std::uint64_t kMostGrowth = std::uint64_t{64} << 20;
constexpr double kMadeBytes = 4, kMaskedBytes = 8;  // per number of an update, at most

bool may_pass(grpc::StatusCode code) {
  return code == grpc::StatusCode::UNAVAILABLE || code == grpc::StatusCode::DEADLINE_EXCEEDED ||
         code == grpc::StatusCode::CANCELLED || code == grpc::StatusCode::INTERNAL ||
         code == grpc::StatusCode::UNKNOWN || code == grpc::StatusCode::RESOURCE_EXHAUSTED;
}

std::uint64_t size_or_0(const std::filesystem::path& file) {
  std::error_code missing;
  const std::uintmax_t size = std::filesystem::file_size(file, missing);
  return missing ? 0 : size;
}

}  // namespace

Site::~Site() = default;

Site::Site(SiteOptions options, const Kit& kit, std::function<bool()> interrupted, Say say)
    : Site(options, kit, std::make_unique<Connection>([address = options.address, kit] {
             return make_stub(open_channel(address, kit));
           }),
           std::move(interrupted), std::move(say)) {}

Site::Site(SiteOptions options, const Kit& kit, std::unique_ptr<Connection> connection,
           std::function<bool()> interrupted, Say say)
    : options_(std::move(options)),
      kit_(kit),
      interrupted_(std::move(interrupted)),
      say_(std::move(say)),
      connection_(std::move(connection)) {
  create_durable_directories(options_.directory);
}

void Site::pause(std::chrono::duration<double> time) const {
  const auto until = Clock::now() + time;
  while (Clock::now() < until) {
    if (interrupted_()) throw Interrupted();
    std::this_thread::sleep_for(
        std::min<std::chrono::duration<double>>(until - Clock::now(), std::chrono::milliseconds(100)));
  }
}

// Repeats the call until there is an answer. Returns false if the answer is ABORTED: the round is over.
bool Site::call(std::string_view what, double seconds,
                const std::function<grpc::Status(grpc::ClientContext&)>& once) {
  auto began = Clock::now();
  double longest = kFirstPause;
  for (bool told = false;; longest = std::min(2 * longest, kLongestPause)) {
    if (interrupted_()) throw Interrupted();
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() +
                         std::chrono::milliseconds(static_cast<std::int64_t>(1e3 * seconds)));
    const auto attempted = Clock::now();
    const grpc::Status status = once(context);
    if (status.ok()) return true;
    std::string reason = as_told(status.error_message());
    if (status.error_code() == grpc::StatusCode::UNAVAILABLE && kit_.info.not_after <= std::time(nullptr))
      reason += fmt::format(" (this site's certificate has expired, and no coordinator lets it in: {})",
                            renewal_of(kit_.info.name));
    if (status.error_code() == grpc::StatusCode::ABORTED) {
      say_(reason);
      pause(kIdlePause);
      return false;
    }
    const auto now = Clock::now();
    if (now - attempted > std::chrono::duration<double>(2 * kAnswerSeconds))
      began = now;  // the coordinator was reached in the meantime
    const double gone = std::chrono::duration<double>(now - began).count();
    if (!may_pass(status.error_code()))
      fail("{}: the coordinator at {} refuses: {}", what, options_.address, reason);
    if (options_.patience_seconds > 0 && gone > options_.patience_seconds) {
      require(status.error_code() != grpc::StatusCode::INTERNAL, "{}: given up after {:.0f} s: {}", what,
              gone, reason);
      fail("{}: the coordinator at {} could not be reached for {:.0f} s: {}", what, options_.address, gone,
           reason);
    }
    if (!told) say_(fmt::format("{}: {}; trying again", what, reason));
    told = true;
    if (status.error_code() == grpc::StatusCode::UNAVAILABLE) connection_->renew();
    // Full jitter: sites that lost the coordinator together must not return together.
    pause(std::chrono::duration<double>(longest * static_cast<double>(random_.below(1000)) / 1000));
  }
}

SiteRound Site::next() {
  while (true) {
    federated::NextRequest request;
    request.set_protocol(kProtocol);
    request.set_wait_seconds(kWaitSeconds);
    federated::Assignment reply;
    call("asking for work", kWaitSeconds + kAnswerSeconds,
         [&](grpc::ClientContext& context) { return connection_->stub->next(context, request, reply); });
    if (interrupted_()) throw Interrupted();
    if (reply.kind() == federated::Assignment::WAIT) {
      pause(std::chrono::milliseconds(100));
      continue;
    }
    SiteRound round{.finished = reply.kind() == federated::Assignment::FINISHED,
                    .round = reply.round(),
                    .rounds = reply.rounds(),
                    .model = options_.directory / fmt::format("model-{:08}.h5", reply.round()),
                    .digest = from_message(reply.model()),
                    .model_sha256 = "",
                    .elements = reply.elements(),
                    .local_steps = reply.local_steps(),
                    .sharing = {},
                    .counted = reply.counted(),
                    .asynchronous = reply.asynchronous(),
                    .secure = reply.secure(),
                    .most_examples = reply.most_examples()};
    auto& [proximal, control_variate] = round.rules;  // all of them; see for_each_rule()
    proximal = reply.proximal();
    control_variate = reply.control_variate();
    if (reply.has_privacy()) {
      const auto& told = reply.privacy();
      round.privacy = {.unit = parse_privacy_unit(as_told(told.unit())),
                       .clip_norm = told.clip_norm(),
                       .rate = told.rate(),
                       .noise_multiplier = told.noise_multiplier(),
                       .delta = told.delta()};
      require(
          !round.privacy.is_on() ||
              (round.secure && told.clip_norm() > 0 && std::isfinite(told.clip_norm()) && told.rate() > 0 &&
               (told.rate() == 1 || (told.rate() < 1 && round.privacy.is_within_sites())) &&
               told.noise_multiplier() > 0 && std::isfinite(told.noise_multiplier())),
          "the coordinator's privacy makes no sense: of unit {}, norm {}, rate {}, noise {}, {} secure "
          "aggregation",
          told.unit(), told.clip_norm(), told.rate(), told.noise_multiplier(),
          round.secure ? "by" : "without");
    }
    require(reply.sharing_size() <= kMostRules, "the coordinator has {} rules of sharing; there may be {}",
            reply.sharing_size(), kMostRules);
    for (const auto& rule : reply.sharing()) {
      require(rule.pattern().size() <= kMostPattern, "a rule of sharing of {} characters; there may be {}",
              rule.pattern().size(), kMostPattern);
      round.sharing.push_back({rule.pattern(), parse_sharing(as_told(rule.sharing()))});
      require(!round.secure || round.sharing.back().sharing != Sharing::by_tokens,
              "the coordinator wants {} averaged by tokens: it would then know how many tokens each expert "
              "served at this site, which secure aggregation must prevent",
              rule.pattern());
    }
    // A site replays the steps before this round, without training, to find its position in its data.
    const std::int64_t updates = std::max(round.rounds, round.counted);
    require(round.round >= 0 && round.round <= round.rounds && round.elements > 0 && round.local_steps >= 1 &&
                round.counted >= 0 && (round.asynchronous || round.counted <= round.round) &&
                updates <= kMostFederatedSteps / round.local_steps,
            "the coordinator's assignment makes no sense: round {} of {}, {} numbers, {} steps, an update of "
            "round {}; of all rounds together there may be {} steps",
            round.round, round.rounds, round.elements, round.local_steps, round.counted, kMostFederatedSteps);
    require(round.most_examples == 0 || (round.most_examples >= 1 && std::isfinite(round.most_examples) &&
                                         round.secure && !round.privacy.is_on()),
            "the coordinator wants sites to count by up to {} examples; this is possible only with secure "
            "aggregation and without noise, which is for updates that count equally",
            round.most_examples);
    require(
        round.finished || round.secure || !options_.secure_only,
        "the coordinator at {} asks for updates that it can read; by site.secure_only this site sends none",
        options_.address);
    require(!round.secure || (!round.asynchronous && !round.rules.control_variate),
            "the coordinator's rounds are by secure aggregation, and {}: this site accepts secure "
            "aggregation only in synchronous rounds without control variates",
            round.asynchronous ? "asynchronous" : "with control variates");
    check_size(round.digest);
    if (!fetch(round)) continue;
    if (!first_bytes_) first_bytes_ = round.digest.bytes;
    if (round.secure && !round.finished) round.model_sha256 = sha256_of(round.model);
    return round;
  }
}

void Site::check_size(const FileDigest& model) const {
  require(!first_bytes_ || model.bytes <= *first_bytes_ + kMostGrowth,
          "the coordinator's model has {} bytes, and this site's first one had {}: a model's size does not "
          "change from round to round; if the site's owners agree to another model, start the site again",
          model.bytes, first_bytes_.value_or(0));
}

std::vector<std::filesystem::path> Site::models() const {
  std::vector<std::filesystem::path> models;
  for (const auto& entry : std::filesystem::directory_iterator(options_.directory))
    if (entry.path().filename().string().starts_with("model-")) models.push_back(entry.path());
  return models;
}

void Site::remove_models(const std::function<bool(const std::filesystem::path&)>& which) const {
  for (const auto& model : models())
    if (which(model)) std::filesystem::remove(model);
}

// While a model is downloaded, the one before it stays. Afterwards that one is removed, an update is made,
// and from it a masked update. Some space must remain for other users of the disk.
std::string Site::lacking_room(const SiteRound& round) const {
  const std::uint64_t bytes = round.digest.bytes;
  const std::filesystem::path part = IncomingFile::part_of(round.model, round.digest);
  double before = 0;
  for (const auto& model : models())
    if (model != part) before += static_cast<double>(size_or_0(model));
  // An update has at most two numbers for each of the model's, of 4 bytes each, whatever the coordinator
  // says.
  const double numbers =
      std::min(static_cast<double>(round.elements), static_cast<double>(bytes) / sizeof(float) * 2);
  const double made = round.finished ? 0 : numbers * (kMadeBytes + (round.secure ? kMaskedBytes : 0));
  const auto spare = static_cast<double>(std::min(kSpareRoom, bytes));
  const double needed = static_cast<double>(bytes - IncomingFile::received_of(round.model, round.digest)) +
                        std::max(0.0, made - before);
  return conclave::lacking_room(options_.directory, needed, spare,
                                "the coordinator's model and what is made of it");
}

void Site::wait_for_room(const std::string& lacking) {
  const auto now = Clock::now();
  if (!without_room_since_) {
    without_room_since_ = now;
    say_(fmt::format("fetching the model: {}; trying again", lacking));
  }
  const double gone = std::chrono::duration<double>(now - *without_room_since_).count();
  require(options_.patience_seconds <= 0 || gone <= options_.patience_seconds,
          "fetching the model: given up after {:.0f} s: {}", gone, lacking);
  pause(kIdlePause);
}

// The directory holds one model at a time and, while another one is downloaded, the part of it.
bool Site::fetch(const SiteRound& round) {
  const auto is_other = [&](const std::filesystem::path& model) { return model != round.model; };
  if (std::filesystem::exists(round.model) && digest_of(round.model) == round.digest) {
    remove_models(is_other);
    return true;
  }
  const std::filesystem::path part = IncomingFile::part_of(round.model, round.digest);
  remove_models(
      [&](const std::filesystem::path& model) { return model.extension() == ".part" && model != part; });
  if (const std::string lacking = lacking_room(round); !lacking.empty()) {
    wait_for_room(lacking);
    return false;
  }
  without_room_since_.reset();
  const bool fetched = call("fetching the model", kTransferSeconds, [&](grpc::ClientContext& context) {
    Stub::Download reader;
    // Disk space may have been taken meanwhile. By the time there is space again, the round may be another.
    if (const std::string lacking = lacking_room(round); !lacking.empty())
      return grpc::Status(grpc::StatusCode::ABORTED, lacking);
    try {
      IncomingFile file(round.model, round.digest);
      federated::DownloadRequest request;
      request.set_round(round.round);
      request.set_offset(static_cast<std::int64_t>(file.received()));
      reader = connection_->stub->download(context, request);
      ChunkFrame chunk;
      while (reader->Read(&chunk))
        file.append(static_cast<std::uint64_t>(chunk.offset), chunk.pieces(), chunk.checksum);
      const grpc::Status status = reader->Finish();
      if (status.ok()) file.finish();
      return status;
    } catch (const Error& error) {  // what came is wrong or cannot be stored; the next attempt may succeed
      context.TryCancel();
      return grpc::Status(grpc::StatusCode::INTERNAL, error.what());
    }
  });
  if (!fetched) return false;
  remove_models(is_other);
  return true;
}

bool Site::deliver(const SiteRound& round, const SiteUpdateFile& update, double examples,
                   const std::vector<double>& tokens, const std::map<std::string, double>& metrics,
                   const std::function<void()>& spend) {
  // Checked before memory is allocated for as many numbers as the coordinator says.
  require(std::cmp_equal(round.elements, update.digest.bytes / sizeof(float)),
          "the coordinator wants updates of {} numbers, and this site's has {}; both must have the model and "
          "the rules of sharing that the federation began with",
          round.elements, update.digest.bytes / sizeof(float));
  if (std::exchange(delivered_, round.turn()) == round.turn()) pause(kIdlePause);
  federated::UpdateHeader header;
  header.set_round(round.round);
  header.set_turn(round.turn());
  *header.mutable_base() = to_message(round.digest);
  header.set_examples(examples);
  for (const double served : tokens) header.add_tokens(served);
  for (const auto& [name, value] : metrics) (*header.mutable_metrics())[name] = value;
  if (round.secure) {
    if (round.most_examples > 0) header.set_examples(1);  // the actual number is masked
    return deliver_masked(round, update.path, examples, header, spend);
  }
  *header.mutable_update() = to_message(update.digest);
  return send(header, update.path);
}

bool Site::send(const federated::UpdateHeader& header, const std::filesystem::path& update) {
  const OutgoingFile file(update);
  return call("delivering the update", kTransferSeconds, [&](grpc::ClientContext& context) {
    federated::UploadState state;
    {
      grpc::ClientContext asking;
      asking.set_deadline(std::chrono::system_clock::now() +
                          std::chrono::seconds(static_cast<int>(kAnswerSeconds)));
      const grpc::Status status = connection_->stub->progress(asking, header, state);
      if (!status.ok() || state.complete()) return status;
    }
    federated::UploadState reply;
    const Stub::Upload writer = connection_->stub->upload(context, reply);
    if (writer->Write(header))
      write_chunks(file, static_cast<std::uint64_t>(state.received()),
                   [&](const ChunkFrame& chunk) { return writer->Write(chunk); });
    writer->WritesDone();
    return writer->Finish();
  });
}

}  // namespace conclave
