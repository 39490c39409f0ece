// conclave federate: makes start-up kits and a first model, and runs the two sides of a federation.
#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <thread>

#include "core/text.h"
#include "federated/privacy/ledger.h"
#include "federated/random_source.h"
#include "federated/sha256.h"
#include "federated/transcript.h"
#include "federated/transport/coordinator.h"
#include "federated/transport/site.h"
#include "parallel/checkpoint/durable_file.h"
#include "recipes/commands/commands.h"
#include "recipes/federation.h"
#include "recipes/loaded_model.h"
#include "recipes/site_model.h"
#include "recipes/waiting_update.h"

namespace conclave::commands {
namespace {

namespace fs = std::filesystem;

void say(const std::string& text) {
  std::time_t now = std::time(nullptr);
  std::tm broken{};
  localtime_r(&now, &broken);
  char clock[16];
  std::strftime(clock, sizeof clock, "%H:%M:%S", &broken);
  fmt::print("{} {}\n", clock, text);
  std::fflush(stdout);
}

bool is_set(const std::atomic<bool>* flag) { return flag && *flag; }

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

// What a site agrees to when it begins: a coordinator that changed any of it under way would have what the
// site checked it for, and promised to those whose data it has, hold no longer.
nlohmann::json terms_of(const SiteRound& round) {
  nlohmann::json sharing = nlohmann::json::array();
  for (const SharingRule& rule : round.sharing) sharing.push_back({rule.pattern, to_string(rule.sharing)});
  return {{"secure", round.secure},
          {"most_examples", round.most_examples},
          {"asynchronous", round.asynchronous},
          {"privacy",
           {{"unit", to_string(round.privacy.unit)},
            {"clip_norm", round.privacy.clip_norm},
            {"rate", round.privacy.rate},
            {"noise_multiplier", round.privacy.noise_multiplier},
            {"delta", round.privacy.delta}}},
          {"sharing", sharing}};
}

RoundPrivacy round_privacy_of(const nlohmann::json& told) {
  return {.unit = parse_privacy_unit(told.at("unit").get<std::string>()),
          .clip_norm = told.at("clip_norm"),
          .rate = told.at("rate"),
          .noise_multiplier = told.at("noise_multiplier"),
          .delta = told.at("delta")};
}

// As the policy lists them, whose tokens a site reports.
std::vector<double> served(const SharingPolicy& policy, const Trainer& trainer) {
  std::vector<double> tokens;
  for (const auto& [layer, number] : policy.experts()) {
    const auto& all = trainer.served_tokens();
    const auto found =
        std::ranges::find_if(all, [&layer = layer](const auto& named) { return named.first == layer; });
    require(found != all.end() && number < static_cast<Index>(found->second.size()),
            "no layer {} has an expert {}", layer, number);
    tokens.push_back(found->second[static_cast<std::size_t>(number)]);
  }
  return tokens;
}

// What a new site's site.toml says, for its owner to go on from.
std::string site_toml(const FederationTable& federation, const std::string& site) {
  return fmt::format(
      "# Site {0} of the federation {1}: conclave federate site site.toml\n"
      "# This folder is the site's identity; key.pem must not leave it.\n"
      "[site]\naddress = \"{2}\"\ndirectory = \"runs/{0}\"\n\n"
      "[run]\ndirectory = \"runs/{0}/training\"\n\n"
      "# Where this site's examples are; what kind of data they are comes with the model.\n[data]\n",
      site, federation.name, federation.address);
}

// All of it, or nothing after a crash.
void write_whole(const fs::path& path, std::string_view text) {
  AtomicFile file(path.string());
  FileDescriptor(file.temporary(), O_WRONLY | O_CREAT | O_TRUNC).write(text.data(), text.size());
  file.commit();
}

// What rank 0 has been told to do, for the others. They sleep until then: a waiting collective of MPI's would
// keep their cores busy.
nlohmann::json shared(const nlohmann::json& mine, Communicator& world) {
  const Tensor there = Tensor::zeros({1});
  Request request = world.start_all_reduce(there);
  while (!request.test()) std::this_thread::sleep_for(std::chrono::milliseconds(2));
  return nlohmann::json::parse(world.broadcast(mine.dump(), 0));
}

// For what is released with noise that is yet to be drawn, which no digest tells from another.
std::string random_name() {
  std::array<std::byte, 32> bytes;
  SystemRandom().fill(bytes);
  return hexadecimal(bytes);
}

// The federation's classes, by which a site's labels are numbered.
void check_classes(const Trainer& trainer, const CheckpointReader& model, const std::string& name) {
  const auto classes =
      nlohmann::json::parse(model.state().metadata).at("class_names").get<std::vector<std::string>>();
  require(trainer.class_names() == classes,
          "{}: this site's data has {} classes ({}, ...), the federation's model {} ({}, ...); they must be "
          "the same, "
          "in the same order",
          name, trainer.class_names().size(),
          trainer.class_names().empty() ? "" : trainer.class_names().front(), classes.size(),
          classes.empty() ? "" : classes.front());
}

// Throws Error where it does not hold.
TranscriptCheck verified(const fs::path& transcript, const std::string& known_head = "") {
  TranscriptCheck check = verify_transcript(transcript.string(), known_head);
  require(check.holds(), "{}: line {} {}", transcript.string(), check.lines + 1, check.problem);
  return check;
}

}  // namespace

int federate_provision(const ProvisionArguments& arguments) {
  const FederationTable federation = read_federation(arguments.federation, arguments.overrides).federation;
  const fs::path kits = federation.kits;
  const AllowList allowed = allow_list(federation);
  const auto is_member = [&](const std::string& site) {
    return std::ranges::find(federation.sites, site) != federation.sites.end();
  };
  for (const std::string& name : arguments.renew)
    require(is_member(name) || name == kCoordinatorName, "{}: not one of federation.sites in {}", name,
            arguments.federation);
  for (const std::string& name : arguments.revoke)
    require(is_member(name) || allowed.has(name),
            "{}: not one of federation.sites in {}, and no certificate of that name is let in", name,
            arguments.federation);

  for (const std::string& site : arguments.revoke)
    fmt::print("{}: {} certificates are no longer let in\n", site, allowed.remove(site));
  if (!arguments.revoke.empty() && arguments.renew.empty()) return 0;

  const bool anew = !fs::exists(kits / "authority" / "authority.key");
  if (anew) CertificateAuthority::create(federation.name).save(kits / "authority");
  const CertificateAuthority authority = CertificateAuthority::load(kits / "authority");
  if (anew) fmt::print("{}: the authority; keep authority.key offline\n", (kits / "authority").string());

  std::vector<std::string> all{
      std::string(kCoordinatorName)};  // first: the list of those let in is in its kit
  all.insert(all.end(), federation.sites.begin(), federation.sites.end());
  for (const std::string& name : all) {
    const fs::path kit = kits / name;
    const bool renewed = std::ranges::find(arguments.renew, name) != arguments.renew.end();
    if (fs::exists(kit / "certificate.pem") && !renewed) continue;
    if (renewed && name != kCoordinatorName) allowed.remove(name);  // the old key may be why
    authority.issue(kit, name, static_cast<int>(federation.certificate_days), [&](const auto& info) {
      if (name == kCoordinatorName) return;
      if (const fs::path file = kit / "site.toml"; !fs::exists(file))
        write_whole(file, site_toml(federation, name));
      allowed.add(name, info.fingerprint);
    });
    fmt::print("{}: a certificate for {} days\n", kit.string(), federation.certificate_days);
  }
  return 0;
}

int federate_initialize(const InitializeArguments& arguments, const Surroundings& surroundings,
                        const MpiSession& session) {
  auto world = session.world();
  Recipe recipe = read_recipe(arguments.recipe, arguments.overrides, world.get());
  recipe.run.directory = arguments.out;
  const ProcessGrid grid = grid_for(recipe, arguments.recipe, surroundings, std::move(world));
  Trainer trainer(recipe, grid, trainer_environment(surroundings));
  const std::string path = trainer.save_now();
  if (grid.world().rank() == 0) fmt::print("{}: a model to start a federation with\n", path);
  return 0;
}

int federate_coordinator(const CoordinatorArguments& arguments, const Surroundings& surroundings,
                         const MpiSession& session) {
  const FederationSettings settings = read_federation(arguments.federation, arguments.overrides);
  const FederationTable& federation = settings.federation;
  const auto world = session.world();
  require(world->size() == 1, "a coordinator is one process; start it without mpirun");
  const Kit kit = Kit::read(fs::path(federation.kits) / kCoordinatorName, std::time(nullptr));
  const SecureOptions secure = secure_options(settings);
  Coordinator coordinator(
      {.directory = federation.directory,
       .address = federation.listen,
       .start = federation.start.empty() ? "" : find_checkpoint(federation.start),
       .rounds = federation.rounds,
       .quorum = federation.quorum,
       .gather_seconds = federation.gather_seconds,
       .deadline_seconds = federation.deadline_seconds,
       .local_steps = federation.local_steps,
       .keep = federation.keep,
       .strategy = strategy_options(settings.strategy, static_cast<std::int64_t>(federation.sites.size())),
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
  const bool done = coordinator.run([&] { return is_set(surroundings.interrupted); });
  say(done
          ? fmt::format("all {} rounds are over; the model is in {}", federation.rounds, federation.directory)
          : std::string("interrupted; started again, it goes on"));
  return done ? 0 : 130;
}

int federate_site(const SiteArguments& arguments, const Surroundings& surroundings,
                  const MpiSession& session) {
  DeviceWorld chosen = world_for(arguments.device, session);
  auto& world = chosen.world;
  const SiteSettings settings = read_site(arguments.site, arguments.overrides, world.get());
  const bool speaks = world->rank() == 0;
  const fs::path directory = settings.site.directory;
  std::optional<Site> site;
  std::optional<Kit> kit;
  if (speaks) {
    kit = Kit::read(settings.site.kit, std::time(nullptr));
    site.emplace(
        SiteOptions{.address = settings.site.address,
                    .directory = directory,
                    .patience_seconds = settings.site.patience_seconds,
                    .secure_only = settings.site.secure_only},
        *kit, [&] { return is_set(surroundings.interrupted); }, say);
  }
  std::optional<PrivacyLedger> ledger;
  PrivacyRecipe privacy;
  RoundPrivacy of_sums;
  nlohmann::json agreed;  // the terms, once there are some
  std::optional<ProcessGrid> grid;
  std::optional<Trainer> trainer;
  std::optional<SiteModel> kept;
  while (true) {
    SiteRound round;
    nlohmann::json work;
    if (speaks) try {
        round = site->next();
        work = {{"finished", round.finished},       {"round", round.round},
                {"rounds", round.rounds},           {"model", round.model},
                {"steps", round.local_steps},       {"elements", round.elements},
                {"proximal", round.rules.proximal}, {"control", round.rules.control_variate},
                {"counted", round.counted},         {"turn", round.turn()},
                {"terms", terms_of(round)}};
      } catch (const Interrupted&) {
        work = {{"interrupted", true}};
      }
    work = shared(work, grid ? grid->world() : *world);
    if (work.contains("interrupted")) return 130;
    const auto model = work.at("model").get<std::string>();
    const bool finished = work.at("finished");
    if (finished && speaks)
      say(fmt::format("all {} rounds are over; the model is {}", work.at("rounds").dump(), model));
    const nlohmann::json& terms = work.at("terms");
    const bool asynchronous = terms.at("asynchronous");
    if (finished && std::ranges::none_of(terms.at("sharing"), [](const auto& rule) {
          return parse_sharing(rule.at(1).template get<std::string>()) == Sharing::kept_private;
        }))
      return 0;
    if (agreed.is_null()) agreed = terms;
    require(
        terms == agreed,
        "the coordinator has other terms than this site began with: {}, and it was {}; if its owners agree "
        "to them, start it again",
        terms.dump(), agreed.dump());
    const CheckpointReader reader(model);
    const std::int64_t steps = work.at("steps"), number = work.at("round"), turn = work.at("turn");
    const auto deliver = [&](const WaitingUpdate& update) {
      SiteRound trained = round;
      trained.round = update.round;
      trained.digest = update.base;
      try {
        const bool delivered = site->deliver(trained, {update.file, update.digest}, update.examples,
                                             update.tokens, update.metrics);
        if (delivered) say(fmt::format("round {} of {}: delivered", trained.round + 1, round.rounds));
        // Otherwise the next round's takes its place, and a coordinator that was killed may yet ask for this
        // one, whose privacy is spent; but not for one in a noisy sum, which may have been told: the next
        // noise costs anew.
        if (of_sums.is_on() || (asynchronous && !delivered)) WaitingUpdate::forget(directory);
      } catch (const Interrupted&) {
      }  // which next() then tells the other ranks
    };
    if (!trainer) {
      of_sums = round_privacy_of(terms.at("privacy"));
      Recipe recipe = site_recipe(settings, parse_recipe(reader.state().recipe, model + ":/state/recipe"),
                                  model, of_sums, arguments.site);
      recipe.train.steps = steps * work.at("rounds").get<std::int64_t>();
      recipe.train.ema = 0;  // the coordinator's mean is one already
      grid.emplace(grid_for(recipe, arguments.site, surroundings, std::move(world)));
      trainer.emplace(recipe, *grid, trainer_environment(surroundings));
      privacy = recipe.privacy;
      if (speaks && (of_sums.is_on() || trainer->privacy_event(steps)))
        ledger.emplace(
            (directory / "privacy.sqlite").string(),
            PrivacyBudget{privacy.epsilon > 0 ? privacy.epsilon : std::numeric_limits<double>::infinity(),
                          privacy.is_on() || settings.origin.contains("privacy.delta") ? privacy.delta
                                                                                       : of_sums.delta});
      require(
          !privacy.is_on() || of_sums.unit != RoundPrivacy::Unit::site,
          "privacy.unit = \"{}\" at this site, where the federation's is \"site\": of the two together no "
          "account is kept; leave one out",
          privacy.unit);
      check_classes(*trainer, reader, arguments.site);
      std::vector<SharingRule> sharing;
      for (const auto& rule : terms.at("sharing"))
        sharing.push_back({rule.at(0), parse_sharing(rule.at(1).get<std::string>())});
      kept.emplace(reader, sharing, directory, *grid);
      std::vector<SharingRule> never;
      for (const std::string& pattern : settings.sharing.kept_private)
        never.push_back({pattern, Sharing::kept_private});
      kept->check_private(never);
      require(!privacy.is_on() || kept->policy().experts().empty(),
              "the coordinator's sharing.by_tokens asks how many tokens each expert served, which tells of "
              "single records; a site with privacy.unit = \"{}\" does not say",
              privacy.unit);
      require(!privacy.is_on() || !asynchronous,
              "the coordinator's rounds are asynchronous: how many there are for this site depends on how "
              "fast it "
              "is, and with privacy.unit = \"{}\" it has to know beforehand what noise they need together",
              privacy.unit);
    }
    if (finished) {
      trainer->begin_round(model, number * steps, 0);
      kept->restore_private(trainer->model_entries(), std::numeric_limits<std::int64_t>::max());
      const std::string own = trainer->save_now();
      if (speaks) say(fmt::format("with what this site kept to itself, the model is {}", own));
      return 0;
    }
    const SiteRules rules{.proximal = work.at("proximal"), .control_variate = work.at("control")};
    const std::size_t elements = kept->policy().exchanged_elements() * (rules.control_variate ? 2 : 1);
    require(work.at("elements") == elements,
            "the coordinator wants updates of {} numbers; by its own rules there are {}",
            work.at("elements").dump(), elements);
    const auto account_and_deliver = [&](const WaitingUpdate& update) {
      if (ledger) {  // before anybody is told: what is then not told counts, too
        ledger->record({.run = certificate_info(kit->authority).fingerprint,
                        .round = update.round,
                        .digest = update.spend,
                        .event = of_sums.is_on() ? of_sums.event() : *trainer->privacy_event(steps)});
        say(fmt::format("privacy: epsilon {:.4f} at delta {} with this round", ledger->epsilon(),
                        ledger->budget().delta));
      }
      deliver(update);
    };
    // One that was made before this site was started again; and where rounds are asynchronous, one that came
    // in none yet may still do so in this.
    const std::string made_by =
        nlohmann::json{
            {"federation", terms},
            {"steps", steps},
            {"own", {privacy.unit, privacy.clip_norm, privacy.rate, privacy.batch, privacy.noise_multiplier}}}
            .dump();
    std::optional<WaitingUpdate> waiting;
    if (speaks)
      waiting = WaitingUpdate::find(directory, turn, made_by,
                                    asynchronous ? std::optional<FileDigest>() : std::optional(round.digest));
    if (shared({{"trained", waiting.has_value()}}, grid->world()).at("trained")) {
      if (speaks) account_and_deliver(*waiting);
      continue;
    }
    trainer->begin_round(model, number * steps, turn * steps);
    std::map<std::string, double> metrics;
    const auto validate = [&](const std::string& which) {
      for (const auto& [task, result] : trainer->validate()) {
        metrics[fmt::format("{}/{}_loss", task, which)] = result.loss;
        if (result.accuracy) metrics[fmt::format("{}/{}_accuracy", task, which)] = *result.accuracy;
      }
    };
    // What is measured on single records has no noise.
    const bool tells_metrics =
        !privacy.is_on() && !of_sums.is_on() &&
        (number % settings.site.validate_every == 0 || number + 1 == work.at("rounds"));
    if (tells_metrics) validate("validation");
    if (kept->has_private_part() && turn > 0) {
      kept->restore_private(trainer->model_entries(), turn);
      if (tells_metrics) validate("private_validation");
    }
    SiteModel::Control control{.gradient = {}, .counted = work.at("counted")};
    Trainer::ControlEntries controlled;
    if (rules.control_variate) {
      controlled = trainer->control_entries();
      control.gradient = controlled.gradient;
      if (!kept->set_correction(controlled.correction, reader, control.counted) && speaks)
        say(
            fmt::format("warning: {}: this site's control variate of after round {} is gone; it "
                        "begins anew, while the mean of all sites' still has the old one in it",
                        directory.string(), control.counted));
    }
    if (!(of_sums.is_within_sites() ? trainer->subtract_clipped_sum() : trainer->take_steps(steps, rules)))
      return 130;  // the round is done again, alike
    const fs::path file = directory / "update.f32";
    std::vector<TensorEntry> changes;
    if (of_sums.is_within_sites()) changes = trainer->clipped_changes();
    const FileDigest digest =
        kept->save(trainer->model_entries(), reader, turn, file.string(), control, changes);
    if (!speaks) continue;
    const WaitingUpdate update{
        number,
        round.digest,
        file,
        digest,
        static_cast<double>(of_sums.unit == RoundPrivacy::Unit::client ? trainer->private_units()
                                                                       : trainer->training_examples()),
        served(kept->policy(), *trainer),
        metrics,
        turn,
        made_by,
        !ledger           ? ""
        : of_sums.is_on() ? random_name()
                          : sha256_of(file)};
    update.save();
    account_and_deliver(update);
  }
}

int federate_status(const StatusArguments& arguments) {
  const std::string& directory = arguments.directory;
  const fs::path folder = directory, file = folder / "transcript.jsonl";
  require(fs::exists(file), "{}: no coordinator has been at work in this folder", directory);
  const TranscriptCheck check = verified(file);
  std::ifstream lines(file);
  std::string line;
  std::int64_t over = 0;  // not the number of lines: a round that was done again has two
  for (std::size_t n = 0; n < check.lines && std::getline(lines, line); ++n) {
    const auto entry = nlohmann::json::parse(line).at("entry");
    over = entry.at("round");
    std::string sites;
    double examples = 0;
    for (const auto& [site, said] : entry.at("sites").items()) {
      sites += (sites.empty() ? "" : ", ") + site;
      examples += said.at("examples").get<double>();
    }
    fmt::print("round {}: {:.0f} examples of {}; model {}\n", entry.at("round").dump(), examples,
               sites.empty() ? "nobody" : sites, entry.at("model_sha256").get<std::string>().substr(0, 16));
  }
  std::string waiting;
  if (fs::exists(folder / "updates"))
    for (const auto& update : fs::directory_iterator(folder / "updates"))
      if (update.path().extension() == ".f32")
        waiting += (waiting.empty() ? "" : ", ") + update.path().stem().stem().string();
  fmt::print("{} rounds are over; updates of the next are there from: {}\n", over,
             waiting.empty() ? "nobody" : waiting);
  return 0;
}

int federate_audit(const AuditArguments& arguments) {
  const auto& [transcript, head] = arguments;
  const fs::path file =
      fs::is_directory(transcript) ? fs::path(transcript) / "transcript.jsonl" : fs::path(transcript);
  const TranscriptCheck check = verified(file, head);
  fmt::print("{}: {} entries hold{}; head {}\n", file.string(), check.lines,
             check.torn ? ", and what follows was cut short" : "", check.head);
  if (head.empty()) return 0;
  require(check.known_head_at.has_value(),
          "{}: none of its {} lines has the head {}: since that was noted, lines were changed or left out",
          file.string(), check.lines, head);
  fmt::print("the head that was noted is that of line {}\n", *check.known_head_at);
  return 0;
}

}  // namespace conclave::commands
