// conclave federate, except for the sites: start-up kits, a first model, the coordinator and its transcript.
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>

#include "core/durable_file.h"
#include "core/file.h"
#include "core/print_line.h"
#include "core/text.h"
#include "federated/sha256.h"
#include "federated/transcript.h"
#include "federated/transport/coordinator.h"
#include "recipes/commands/commands.h"
#include "recipes/models/loaded_model.h"
#include "recipes/settings/federation.h"
#include "recipes/settings/plugins.h"

namespace conclave::commands {
namespace {

namespace fs = std::filesystem;

constexpr double kPatienceSeconds = 10;  // how long to wait for another `provision` of the same kits

AllowList allow_list(const FederationTable& federation) {
  return AllowList(fs::path(federation.kits) / kCoordinatorName / "sites.txt");
}

std::vector<SharingRule> sharing_rules(const SharingTable& sharing) {
  std::vector<SharingRule> rules;
  for (const std::string& pattern : sharing.by_tokens) rules.push_back({pattern, Sharing::by_tokens});
  for (const std::string& pattern : sharing.kept_private) rules.push_back({pattern, Sharing::kept_private});
  return rules;
}

SecureOptions secure_options(const FederationSettings& settings) {
  const SecureAggregationTable& secure = settings.secure_aggregation;
  return {.enabled = secure.enabled,
          .federation = settings.federation.name,
          .clip_norm = secure.clip_norm,
          .width = static_cast<std::size_t>(secure.bits / 8),
          .most_examples = secure.most_examples,
          .phase_seconds = secure.phase_seconds,
          .privacy = round_privacy(settings),
          .most_epsilon = settings.privacy.epsilon,
          .least = settings.federation.quorum};
}

// The first site.toml of a site, which its owner completes.
std::string site_toml(const FederationSettings& settings, const std::string& site) {
  const FederationTable& federation = settings.federation;
  const std::string least =
      settings.secure_aggregation.enabled ? fmt::format("least_sites = {}\n", federation.quorum) : "";
  return fmt::format(
      "# Site {0} of the federation {1}: conclave federate site site.toml\n"
      "# This folder is the site's identity; key.pem must not leave it. Directories and the ledger are\n"
      "# relative to it, data to the working directory. The privacy ledger is in site.directory: keep\n"
      "# that when you replace the kit.\n"
      "[site]\naddress = \"{2}\"\ndirectory = \"runs/{0}\"\n{3}\n"
      "[run]\ndirectory = \"runs/{0}/training\"\n\n"
      "# Where this site's examples are; what kind of data they are comes with the model.\n[data]\n",
      site, federation.name, federation.address, least);
}

bool has_name(const std::vector<std::string>& names, const std::string& name) {
  return std::ranges::find(names, name) != names.end();
}

// The requests in the files `arguments.requests`, by site.
std::map<std::string, CertificateRequest> requests_of(const ProvisionArguments& arguments,
                                                      const FederationTable& federation) {
  std::map<std::string, CertificateRequest> requests;
  for (const std::string& file : arguments.requests) {
    CertificateRequest request = CertificateRequest::read(file);
    const std::string site = request.name;
    require(has_name(federation.sites, site),
            "{}: asks for a certificate of \"{}\", which is not one of federation.sites in {}", file, site,
            arguments.federation);
    require(
        !fs::exists(fs::path(federation.kits) / site / "certificate.pem") || has_name(arguments.renew, site),
        "{}: {} already has a certificate; to replace it, add --renew {}", file, site, site);
    require(has_name(arguments.key_sha256, request.key_sha256),
            "{0}: it is for the key with SHA-256 {1}{2}. Ask {3} by telephone whether `conclave federate "
            "request` printed the same there; if so, add --key-sha256 {1}, and else do not sign it",
            file, request.key_sha256,
            arguments.key_sha256.empty() ? "" : ", which --key-sha256 does not name", site);
    require(requests.emplace(site, std::move(request)).second, "{}: the second request of {}; give one", file,
            site);
  }
  return requests;
}

// Kits are written once, so an address that changes later must be changed in each kit.
void warn_of_other_address(const fs::path& site, const std::string& address) {
  if (!fs::exists(site)) return;
  try {
    const SiteSettings settings = read_site(site.string(), {}, nullptr);
    if (settings.site.address != address)
      warn(site.string(), ": site.address is ", settings.site.address, ", and federation.address ", address,
           "; change it there");
  } catch (const Error& error) {
    warn(error.what());
  }
}

// Throws Error if a line of the transcript is not valid.
TranscriptCheck verified(const fs::path& transcript, const std::string& known_head = "") {
  TranscriptCheck check = verify_transcript(transcript.string(), known_head);
  require(check.holds(), "{}: line {} {}", transcript.string(), check.lines + 1, check.problem);
  return check;
}

}  // namespace

void say(const std::string& text) noexcept {
  std::time_t now = std::time(nullptr);
  std::tm broken{};
  localtime_r(&now, &broken);
  char clock[16];
  std::strftime(clock, sizeof clock, "%H:%M:%S ", &broken);
  print_line(stdout, clock, text);
}

int federate_provision(const ProvisionArguments& arguments) {
  const FederationSettings settings = read_federation(arguments.federation, arguments.overrides);
  const FederationTable& federation = settings.federation;
  const fs::path kits = federation.kits;
  // The list of accepted certificates must not change between its reading and writing. The lock is not in
  // `kits` itself: a site may have the name "lock", and a coordinator may use that folder.
  const DirectoryLock lock(kits / "authority", kPatienceSeconds);
  const AllowList allowed = allow_list(federation);
  for (const std::string& name : arguments.renew)
    require(has_name(federation.sites, name) || name == kCoordinatorName,
            "{}: not one of federation.sites in {}", name, arguments.federation);
  for (const std::string& name : arguments.revoke)
    require(has_name(federation.sites, name) || allowed.has(name),
            "{}: not one of federation.sites in {}, and no certificate of that name is let in", name,
            arguments.federation);
  const auto requests = requests_of(arguments, federation);

  for (const std::string& site : arguments.revoke)
    fmt::print("{}: {} certificates are no longer let in\n", site, allowed.remove(site));
  if (!arguments.revoke.empty() && arguments.renew.empty() && requests.empty()) return 0;

  const bool anew = !fs::exists(kits / "authority" / "authority.key");
  if (anew) CertificateAuthority::create(federation.name).save(kits / "authority");
  const CertificateAuthority authority = CertificateAuthority::load(kits / "authority");
  if (anew) fmt::print("{}: the authority; keep authority.key offline\n", (kits / "authority").string());

  std::vector<std::string> all{
      std::string(kCoordinatorName)};  // first, because its kit has the list of accepted certificates
  std::ranges::copy_if(federation.sites, std::back_inserter(all), [&](const std::string& site) {
    return requests.empty() || requests.contains(site) || has_name(arguments.renew, site);
  });
  for (const std::string& name : all) {
    const fs::path kit = kits / name;
    const bool renewed = has_name(arguments.renew, name);
    warn_of_other_address(kit / "site.toml", federation.address);
    if (fs::exists(kit / "certificate.pem") && !renewed) continue;
    const auto request = requests.find(name);
    require(request != requests.end() || !fs::exists(kit / "request.pem"),
            "{0}: this site made its own key; give --request {0}/request.pem for the same key again, or the "
            "request that the site makes for another",
            kit.string());
    if (renewed && name != kCoordinatorName) allowed.remove(name);  // the old key may be compromised
    const auto finish = [&](const CertificateInfo& info) {
      if (name == kCoordinatorName) return;
      if (const fs::path file = kit / "site.toml"; !fs::exists(file))
        replace_file(file.string(), site_toml(settings, name));
      allowed.add(name, info.fingerprint);
    };
    const int days = static_cast<int>(federation.certificate_days);
    if (request == requests.end()) {
      authority.issue(kit, name, days, finish);
      fmt::print("{}: a certificate for {} days, and its key\n", kit.string(), days);
    } else {
      authority.issue(kit, request->second, days, finish);
      fmt::print(
          "{0}: a certificate for {1} days, for the key with SHA-256 {2}; send {3} authority.pem, "
          "certificate.pem and site.toml, which belong beside its key.pem\n",
          kit.string(), days, request->second.key_sha256, name);
    }
  }
  return 0;
}

int federate_request(const RequestArguments& arguments) {
  const fs::path folder = arguments.out.empty() ? arguments.site : arguments.out;
  const CertificateRequest request = request_certificate(folder, arguments.site);
  fmt::print("{}: the key of {}; it must not leave this folder\n", (folder / "key.pem").string(),
             request.name);
  fmt::print(
      "{}: send this to whoever provisions the federation, and tell them the key's SHA-256 by another "
      "channel: {}\n",
      (folder / "request.pem").string(), request.key_sha256);
  return 0;
}

int federate_initialize(const InitializeArguments& arguments, const ProcessEnvironment& surroundings,
                        const MpiSession& session) {
  auto world = session.world();
  Recipe recipe = read_recipe(arguments.recipe, arguments.overrides, world.get());
  expect_counted_in_rounds(recipe);
  recipe.run.directory = arguments.out;
  const ProcessGrid grid = grid_for(recipe, arguments.recipe, surroundings, std::move(world));
  Trainer trainer(recipe, grid, trainer_environment(surroundings));
  const std::string path = trainer.save_now();
  if (grid.world().rank() == 0) fmt::print("{}: a model to start a federation with\n", path);
  return 0;
}

int federate_coordinator(const CoordinatorArguments& arguments, const ProcessEnvironment& surroundings,
                         const MpiSession& session) {
  umask(0077);  // hides counts and metrics of all sites from other users
  FederationSettings settings = read_federation(arguments.federation, arguments.overrides);
  load_plugins(settings, arguments.federation);
  const FederationTable& federation = settings.federation;
  const auto world = session.world();
  require(world->size() == 1, "a coordinator is one process; start it without mpirun");
  const Kit kit = Kit::read(fs::path(federation.kits) / kCoordinatorName, std::time(nullptr));
  const SecureOptions secure = secure_options(settings);
  Coordinator coordinator(
      {.directory = federation.directory,
       .address = federation.listen,
       .start = federation.start.empty() ? "" : find_checkpoint(federation.start, Verify::model),
       .rounds = federation.rounds,
       .quorum = federation.quorum,
       .gather_seconds = federation.gather_seconds,
       .deadline_seconds = federation.deadline_seconds,
       .local_steps = federation.local_steps,
       .keep = federation.keep,
       .sites = {federation.sites.begin(), federation.sites.end()},
       .strategy = settings.strategy.options,
       .schedule = schedule_from(settings.strategy.schedule),
       .max_staleness = settings.strategy.max_staleness,
       .sharing = sharing_rules(settings.sharing),
       .secure = secure},
      kit, allow_list(federation), *world, say);
  say(fmt::format("coordinator of {} listens at port {}", federation.name, coordinator.port()));
  if (const RoundPrivacy& privacy = secure.privacy; privacy.is_on())
    say(fmt::format(
        "privacy of each {}: in {} rounds, each with probability {}, noise of {:.4f} x {}: epsilon "
        "{:.4f} at delta {}",
        to_string(privacy.unit), federation.rounds, privacy.rate, privacy.noise_multiplier, privacy.clip_norm,
        coordinator.epsilon(), privacy.delta));
  const bool done = coordinator.run([&] { return surroundings.is_interrupted(); });
  say(done
          ? fmt::format("all {} rounds are over; the model is in {}", federation.rounds, federation.directory)
          : std::string("interrupted; started again, it goes on"));
  return done ? 0 : 130;
}

int federate_status(const StatusArguments& arguments) {
  const std::string& directory = arguments.directory;
  const fs::path folder = directory, file = folder / "transcript.jsonl";
  require(fs::exists(file), "{}: no coordinator has been at work in this folder", directory);
  const TranscriptCheck check = verified(file);
  std::ifstream lines(file);
  std::string line;
  std::int64_t over = 0;  // not the number of lines: a round that was done again has two
  bool asynchronous = false;
  for (std::size_t n = 0; n < check.lines && std::getline(lines, line); ++n) {
    const auto entry = nlohmann::json::parse(line).at("entry");
    over = entry.at("round");
    std::string sites;
    std::optional<double> examples;  // not told if noise hides sites
    for (const auto& [site, said] : entry.at("sites").items()) {
      asynchronous = said.contains("models");
      sites += (sites.empty() ? "" : ", ") + site;
      if (said.contains("examples")) examples = examples.value_or(0) + said.at("examples").get<double>();
    }
    std::string spent;
    if (entry.contains("privacy")) {
      const auto& privacy = entry.at("privacy");
      const auto& epsilon = privacy.at("epsilon");
      spent = fmt::format("; epsilon {} at delta {}",
                          epsilon.is_null() ? "infinite" : fmt::format("{:.4f}", epsilon.get<double>()),
                          privacy.at("delta").dump());
    }
    fmt::print("round {}: {} of {}; model {}{}\n", entry.at("round").dump(),
               examples ? fmt::format("{:.0f} examples", *examples) : std::string("updates"),
               sites.empty() ? "nobody" : sites, entry.at("model_sha256").get<std::string>().substr(0, 16),
               spent);
  }
  std::string waiting;
  if (fs::exists(folder / "updates"))
    for (const auto& update : fs::directory_iterator(folder / "updates")) {
      const fs::path name = update.path().stem();  // SITE.TURN; files of other rounds are leftovers
      if (update.path().extension() != ".f32") continue;
      // Before the end of the first round there are no leftovers, and an asynchronous one may have any turns.
      if (asynchronous || over == 0 || name.extension() == fmt::format(".{}", over))
        waiting += (waiting.empty() ? "" : ", ") + name.stem().string();
    }
  fmt::print("{} rounds are over; updates of the next are there from: {}\n", over,
             waiting.empty() ? "nobody" : waiting);
  return 0;
}

// Throws Error if a checkpoint in the folder is not the one that the transcript has for its round.
void compare_checkpoints(const fs::path& folder, const RoundHistory& history) {
  std::size_t same = 0;
  for (const auto& [round, path] : list_checkpoints(folder.string())) {
    const auto recorded = history.models.find(round);
    if (recorded == history.models.end()) {
      if (round > 0)
        fmt::print("{}: no entry has it; a coordinator adds it when it goes on from this checkpoint\n", path);
      continue;
    }
    std::string found;
    try {
      found = sha256_of(path);
    } catch (const Error&) {
      if (!fs::exists(path)) continue;  // a coordinator is at work
      throw;
    }
    require(found == recorded->second,
            "{}: its SHA-256 is {}, and that of the model after round {} was {}, as the transcript says: "
            "another file has taken its place",
            path, found, round, recorded->second);
    ++same;
  }
  fmt::print("{} checkpoints are those of the transcript\n", same);
}

int federate_audit(const AuditArguments& arguments) {
  const auto& [transcript, head] = arguments;
  const fs::path file =
      fs::is_directory(transcript) ? fs::path(transcript) / "transcript.jsonl" : fs::path(transcript);
  require(fs::exists(file), "{}: no coordinator has been at work in this folder", transcript);
  const TranscriptCheck check = verified(file, head);
  fmt::print("{}: {} entries hold{}; head {}\n", file.string(), check.lines,
             check.torn ? ", and what follows was cut short" : "", check.head);
  if (fs::is_directory(transcript))
    compare_checkpoints(transcript, round_history(file.string(), check.lines));
  if (head.empty()) return 0;
  require(check.known_head_at.has_value(),
          "{}: none of its {} lines has the head {}: since that was noted, lines were changed or removed",
          file.string(), check.lines, head);
  fmt::print("the head that was noted is that of line {}\n", *check.known_head_at);
  return 0;
}

}  // namespace conclave::commands
