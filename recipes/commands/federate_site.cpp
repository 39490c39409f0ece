// conclave federate site: trains the federation's model on this site's data, round by round. Rank 0 talks to
// the coordinator, all ranks train.
#include <fcntl.h>
#include <sys/stat.h>

#include <array>
#include <cmath>
#include <csignal>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <thread>

#include "core/durable_file.h"
#include "core/text.h"
#include "federated/privacy/ledger.h"
#include "federated/random_source.h"
#include "federated/sha256.h"
#include "federated/transport/site.h"
#include "recipes/commands/commands.h"
#include "recipes/corpus/corpus.h"
#include "recipes/federated/site_model.h"
#include "recipes/federated/waiting_update.h"
#include "recipes/models/loaded_model.h"
#include "recipes/settings/federation.h"

namespace conclave::commands {
namespace {

namespace fs = std::filesystem;

// The terms that a site agrees to when it begins. If the coordinator changed any of them later, the site's
// checks, and its promises to the owners of the data, would no longer hold.
nlohmann::json terms_of(const SiteRound& round) {
  nlohmann::json sharing = nlohmann::json::array();
  for (const SharingRule& rule : round.sharing) sharing.push_back({rule.pattern, to_string(rule.sharing)});
  return {{"secure", round.secure},
          {"most_examples", round.most_examples},
          {"asynchronous", round.asynchronous},
          {"rounds", round.rounds},
          {"steps", round.local_steps},
          {"proximal", round.rules.proximal},
          {"control", round.rules.control_variate},
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

// The tokens that each of the policy's experts served, in the policy's order.
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

// Sends what rank 0 was asked to do to the other ranks. They sleep while they wait, because a blocking
// collective of MPI would keep their cores busy.
nlohmann::json shared(const nlohmann::json& mine, Communicator& world) {
  const Tensor there = Tensor::zeros({1});
  Request request = world.start_all_reduce(there);
  while (!request.test()) std::this_thread::sleep_for(std::chrono::milliseconds(2));
  return nlohmann::json::parse(world.broadcast(mine.dump(), 0));
}

// A unique name for a release. Its noise is not drawn yet, so there is no digest of its bytes.
std::string random_name() {
  std::array<std::byte, 32> bytes;
  SystemRandom().fill(bytes);
  return hexadecimal(bytes);
}

// Says, in a site's folder, that privacy was spent there, and in which ledger that is. The ledger may be
// elsewhere, and an attempt that failed after the update was sent leaves nothing else in the folder.
constexpr const char* kSpentNote = "spent.txt";

void note_spending(const fs::path& directory, const std::string& ledger) {
  const fs::path note = directory / kSpentNote;
  const std::string text = fs::absolute(ledger).string() + "\n";
  if (std::ifstream file(note); file) {
    if (const std::string old{std::istreambuf_iterator<char>(file), {}}; old == text) return;
  }
  AtomicFile written(note.string());
  FileDescriptor(written.temporary(), O_WRONLY | O_CREAT | O_TRUNC).write(text.data(), text.size());
  written.commit();
}

// What the coordinator asks of this site; the same on all ranks.
struct Work {
  bool finished;               // the last round is over
  std::int64_t number;         // of the round
  std::string model;           // a checkpoint
  std::int64_t elements;       // of the update
  std::int64_t counted, turn;  // see SiteRound
  nlohmann::json terms;

  std::int64_t steps() const { return terms.at("steps"); }
  SiteRules rules() const {
    return {.proximal = terms.at("proximal"), .control_variate = terms.at("control")};
  }
  bool asynchronous() const { return terms.at("asynchronous"); }
  std::int64_t rounds() const { return terms.at("rounds"); }
  std::vector<SharingRule> sharing() const {
    std::vector<SharingRule> rules;
    for (const auto& rule : terms.at("sharing"))
      rules.push_back({rule.at(0), parse_sharing(rule.at(1).get<std::string>())});
    return rules;
  }
};

nlohmann::json told(const SiteRound& round) {
  return {{"finished", round.finished}, {"round", round.round},     {"model", round.model},
          {"elements", round.elements}, {"counted", round.counted}, {"turn", round.turn()},
          {"terms", terms_of(round)}};
}

Work heard(const nlohmann::json& told) {
  return {.finished = told.at("finished"),
          .number = told.at("round"),
          .model = told.at("model"),
          .elements = told.at("elements"),
          .counted = told.at("counted"),
          .turn = told.at("turn"),
          .terms = told.at("terms")};
}

// All members are collective, except those with the comment "for rank 0".
class SiteJob {
 public:
  SiteJob(const SiteArguments& arguments, const Surroundings& surroundings, const MpiSession& session)
      : name_(arguments.site),
        surroundings_(surroundings),
        device_(world_for(arguments.device, session)),
        settings_(read_site(arguments.site, arguments.overrides, device_.world.get())),
        speaks_(device_.world->rank() == 0),
        directory_(settings_.site.directory) {
    if (!speaks_) return;
    kit_ = Kit::read(settings_.site.kit, std::time(nullptr));
    expiry_.emplace(kit_->info);
    lock_.emplace(directory_, 3);
    site_.emplace(
        SiteOptions{.address = settings_.site.address,
                    .directory = directory_,
                    .patience_seconds = settings_.site.patience_seconds,
                    .secure_only = settings_.site.secure_only,
                    .least_sites = settings_.site.least_sites},
        *kit_, [this] { return surroundings_.is_interrupted(); }, say);
  }

  // Returns true when the last round is over, false if interrupted.
  bool run() {
    while (const std::optional<Work> work = next()) {
      if (work->finished && speaks_)
        say(fmt::format("all {} rounds are over; the model is {}", work->rounds(), work->model));
      if (work->finished && std::ranges::none_of(work->sharing(), [](const SharingRule& rule) {
            return rule.sharing == Sharing::kept_private;
          }))
        return true;
      check_terms(*work);
      const CheckpointReader model(work->model);
      check_recipe_of(model);
      if (!trainer_) begin(*work, model);
      if (work->finished) {
        save_with_own_part(*work);
        return true;
      }
      check_elements(*work);
      if (deliver_waiting(*work)) continue;
      if (!train(*work, model)) return false;
    }
    return false;
  }

 private:
  // The next work; nothing if interrupted.
  std::optional<Work> next() {
    nlohmann::json work;
    if (speaks_) try {
        if (const auto notice = expiry_->due(std::time(nullptr))) say(*notice);
        round_ = site_->next();
        work = told(round_);
      } catch (const Interrupted&) {
        work = {{"interrupted", true}};
      }
    work = shared(work, grid_ ? grid_->world() : *device_.world);
    return work.contains("interrupted") ? std::nullopt : std::optional(heard(work));
  }

  void check_terms(const Work& work) {
    if (agreed_.is_null()) agreed_ = work.terms;
    std::string changed;
    for (const auto& [key, value] : work.terms.items())
      if (value != agreed_.at(key))
        changed += fmt::format("{}{} is {} and was {}", changed.empty() ? "" : ", ", key, value.dump(),
                               agreed_.at(key).dump());
    require(
        changed.empty(),
        "the coordinator has other terms than this site began with: {}; if its owners agree to them, start "
        "it again",
        changed);
  }

  // Checks that the recipe, tokenizer and classes stay as they were; only the model's numbers may change. The
  // sites read them at different times. If others were given, say, a learning rate of 0, the sum would be
  // this site's update.
  void check_recipe_of(const CheckpointReader& model) {
    const CheckpointState& state = model.state();
    auto notes = nlohmann::json::parse(state.metadata);
    notes.erase("round_privacy");  // what was spent, of which the site has its own record
    const std::array recipe{state.recipe, notes.dump(), state.tokenizer};
    if (!begun_with_) begun_with_ = recipe;
    require(recipe == begun_with_,
            "{}: the coordinator's model has another recipe, tokenizer or classes than this site began with; "
            "if its owners agree to them, start it again",
            model.path());
  }

  void begin(const Work& work, const CheckpointReader& model) {
    of_sums_ = round_privacy_of(work.terms.at("privacy"));
    Recipe recipe = site_recipe(settings_, parse_recipe(model.state().recipe, work.model + ":/state/recipe"),
                                work.model, of_sums_, name_);
    require(!recipe.has_texts() || tokenizer_of(model),
            "{}: the coordinator's model has no tokenizer, and {} has texts: a tokenizer learned from them "
            "would differ from other sites', and reveal the texts without noise; let the federation start "
            "from a model of texts",
            work.model, name_);
    recipe.train.steps = work.steps() * work.rounds();
    recipe.train.ema = 0;  // the coordinator already averages
    grid_.emplace(grid_for(recipe, name_, surroundings_, std::move(device_.world)));
    trainer_.emplace(recipe, *grid_, trainer_environment(surroundings_));
    privacy_ = recipe.privacy;
    if (speaks_ && (of_sums_.is_on() || trainer_->privacy_event(work.steps())))
      ledger_.emplace(
          ledger_path_ = ledger_file().string(),
          of_sums_.is_on() ? std::string(to_string(of_sums_.unit)) : privacy_.unit,
          PrivacyBudget{privacy_.epsilon > 0 ? privacy_.epsilon : std::numeric_limits<double>::infinity(),
                        privacy_.is_on() || settings_.origin.contains("privacy.delta") ? privacy_.delta
                                                                                       : of_sums_.delta});
    require(!privacy_.is_on() || of_sums_.unit != RoundPrivacy::Unit::site,
            "privacy.unit = \"{}\" at this site, where the federation's is \"site\": the two together cannot "
            "be accounted for; leave one out",
            privacy_.unit);
    expect_same_classes(work.model, nlohmann::json::parse(model.state().metadata).at("class_names"),
                        trainer_->class_names());
    kept_.emplace(model, work.sharing(), directory_, *grid_);
    kept_->check_experts(trainer_->model_entries());
    std::vector<SharingRule> never;
    for (const std::string& pattern : settings_.sharing.kept_private)
      never.push_back({pattern, Sharing::kept_private});
    kept_->check_private(never);
    kept_->check_noise(of_sums_);
    require(!privacy_.is_on() || kept_->policy().experts().empty(),
            "the coordinator's sharing.by_tokens asks how many tokens each expert served, which reveals "
            "something about single records; a site with privacy.unit = \"{}\" does not report it",
            privacy_.unit);
    require(!privacy_.is_on() || !work.asynchronous(),
            "the coordinator's rounds are asynchronous: their number at this site depends on its speed, and "
            "with privacy.unit = \"{}\" the number must be known beforehand, to choose the noise",
            privacy_.unit);
  }

  // A new folder has spent nothing. In a folder with earlier rounds, a new ledger would forget what they
  // spent.
  fs::path ledger_file() const {
    const std::string& shared = settings_.privacy.ledger;
    const fs::path file = shared.empty() ? directory_ / "privacy.sqlite" : fs::path(shared);
    if (fs::exists(file)) return file;
    for (const auto& entry : fs::directory_iterator(directory_)) {
      const std::string name = entry.path().filename().string();
      require(
          name != kSpentNote && name != "update.json" && name != "unmasked.sqlite" &&
              !name.starts_with("private-"),
          "{}: there were rounds here ({}), and the ledger of what they spent, {}, is missing; put it back, "
          "or set privacy.ledger to where it is; if what was sent in them is not to count, begin in another "
          "site.directory",
          directory_.string(), name, file.string());
    }
    if (file.has_parent_path()) create_durable_directories(file.parent_path());
    return file;
  }

  // Saves the final model with this site's private part.
  void save_with_own_part(const Work& work) {
    trainer_->begin_round(work.model, work.number * work.steps(), 0);
    kept_->restore_private(trainer_->model_entries(), std::numeric_limits<std::int64_t>::max());
    const std::string own = trainer_->save_now();
    if (speaks_) say(fmt::format("with what this site kept to itself, the model is {}", own));
  }

  void check_elements(const Work& work) const {
    const std::size_t elements =
        kept_->policy().exchanged_elements() * (work.rules().control_variate ? 2 : 1);
    require(work.elements == static_cast<std::int64_t>(elements),
            "the coordinator wants updates of {} numbers; by its own rules there are {}", work.elements,
            elements);
  }

  // The terms that an update is made under; it must not be delivered under others. For rank 0.
  std::string made_by(const Work& work) const {
    nlohmann::json noise;  // with a budget, it depends on the number of rounds
    if (const auto event = trainer_->privacy_event(work.steps()))
      noise = {event->noise_multiplier, event->sampling_rate, event->steps};
    nlohmann::json terms = work.terms;
    // Without secure aggregation, only the learning rate depends on the number of rounds.
    if (!terms.at("secure")) terms.erase("rounds");
    return nlohmann::json{
        {"federation", terms},
        {"model", round_.model_sha256},
        {"own",
         {privacy_.unit, privacy_.clip_norm, privacy_.rate, privacy_.batch, privacy_.noise_multiplier}},
        {"noise", noise}}
        .dump();
  }

  // Delivers an update that was made before this site was restarted. If rounds are asynchronous, an update
  // that no round has taken yet may still count in this one. Returns false if there is none.
  bool deliver_waiting(const Work& work) {
    std::optional<WaitingUpdate> waiting;
    if (speaks_)
      waiting = WaitingUpdate::find(
          directory_, work.turn, made_by(work),
          work.asynchronous() ? std::optional<FileDigest>() : std::optional(round_.digest));
    if (!shared({{"trained", waiting.has_value()}}, grid_->world()).at("trained")) return false;
    if (speaks_) account_and_deliver(*waiting, work);
    return true;
  }

  PrivacySpend spend_of(const WaitingUpdate& update, const Work& work) const {
    return {.run = certificate_info(kit_->authority).fingerprint,
            .round = update.round,
            .digest = update.spend,
            .event = of_sums_.is_on() ? of_sums_.event() : *trainer_->privacy_event(work.steps())};
  }

  // For rank 0. An update that has its noise already reveals no more if it is sent twice. An update that gets
  // its noise when it is sent spends privacy each time, because the sum may be unmasked without this site.
  void account_and_deliver(const WaitingUpdate& update, const Work& work) {
    // Recorded before anything is sent, so that a failed delivery counts, too.
    const auto spend = [&] {
      if (!ledger_) return;
      PrivacySpend spent = spend_of(update, work);
      if (of_sums_.is_on()) spent.digest = random_name();
      note_spending(directory_, ledger_path_);
      // Two noisy sums of the same drawn units reveal more than two of units drawn anew, which the ledger
      // assumes. So a sampled update is used once.
      if (of_sums_.rate < 1) WaitingUpdate::forget(directory_);
      const bool anew = ledger_->record(spent);
      const double epsilon = ledger_->epsilon();
      if (const std::int64_t times = ledger_->count(spent.run, spent.round); anew && times > 1)
        say(fmt::format(
            "warning: round {}: privacy has now been spent for it {} times, as attempts at a sum fail or the "
            "coordinator begins the round again, which brought epsilon to {:.4f}",
            update.round + 1, times, epsilon));
      say(fmt::format("privacy: epsilon {:.4f} at delta {} with this round", epsilon,
                      ledger_->budget().delta));
    };
    if (ledger_ && of_sums_.is_on())
      ledger_->check(spend_of(update, work));  // fails before other sites wait for this one
    else
      spend();
    SiteRound trained = round_;
    trained.round = update.round;
    trained.digest = update.base;
    try {
      const bool delivered =
          site_->deliver(trained, {update.file, update.digest}, update.examples, update.tokens,
                         update.metrics, of_sums_.is_on() ? spend : std::function<void()>([] {}));
      if (delivered) say(fmt::format("round {} of {}: delivered", trained.round + 1, round_.rounds));
      // An update stays until the next round's replaces it: a coordinator that was killed may ask for it
      // again, and its privacy is spent. Two kinds are removed: an update of a noisy sum, which may be known
      // already, so that the next noise spends anew, and one that no asynchronous round took.
      if (of_sums_.is_on() || (work.asynchronous() && !delivered)) WaitingUpdate::forget(directory_);
    } catch (const Interrupted&) {
    }  // next() tells the other ranks
  }

  void validate(const std::string& which, std::map<std::string, double>& metrics) {
    // Four digits describe the model well enough; more would reveal more about single examples.
    const auto rounded = [](double value) { return std::round(1e4 * value) / 1e4; };
    for (const auto& [task, result] : trainer_->validate()) {
      metrics[fmt::format("{}/{}_loss", task, which)] = rounded(result.loss);
      if (result.accuracy) metrics[fmt::format("{}/{}_accuracy", task, which)] = rounded(*result.accuracy);
    }
  }

  // Makes the round's update of `model`, and delivers it. Returns false if interrupted; the round is then
  // repeated, with the same result unless privacy draws random numbers anew.
  bool train(const Work& work, const CheckpointReader& model) {
    trainer_->begin_round(work.model, work.number * work.steps(), work.turn * work.steps());
    std::map<std::string, double> metrics;
    // Metrics of single records have no noise, so a site with privacy sends none.
    const std::int64_t every = settings_.site.validate_every;
    const bool tells_metrics = every > 0 && !privacy_.is_on() && !of_sums_.is_on() &&
                               (work.number % every == 0 || work.number + 1 == work.rounds());
    if (tells_metrics) validate("validation", metrics);
    if (kept_->has_private_part()) {
      const auto kept = kept_->restore_private(trainer_->model_entries(), work.turn);
      if (kept && *kept > work.turn && speaks_)
        say(fmt::format(
            "warning: {}: the coordinator went back to round {}, and this site no longer has its private "
            "part "
            "of that round; it goes on with the one it kept after round {}. If the federation begins anew, "
            "stop this site and remove private-*.f32",
            directory_.string(), work.turn + 1, *kept));
      if (tells_metrics && (work.turn > 0 || kept)) validate("private_validation", metrics);
    }
    SiteModel::Control control{.gradient = {}, .counted = work.counted};
    SiteTerms::ControlEntries controlled;  // owns what `control` refers to
    if (work.rules().control_variate) {
      controlled = trainer_->control_entries();
      control.gradient = controlled.gradient;
      if (!kept_->set_correction(controlled.correction, model, control.counted) && speaks_)
        say(
            fmt::format("warning: {}: this site's control variate of round {} is missing; it begins with "
                        "zeros, while the mean of all sites' still contains the old one",
                        directory_.string(), control.counted));
    }
    const bool of_records = of_sums_.is_within_sites();
    if (!(of_records ? trainer_->subtract_clipped_sum() : trainer_->take_steps(work.steps(), work.rules())))
      return false;
    const fs::path file = directory_ / "update.f32";
    std::vector<TensorEntry> changes;
    if (of_records) changes = trainer_->clipped_changes();
    const FileDigest digest =
        kept_->save(trainer_->model_entries(), model, work.turn, file.string(), control, changes);
    if (!speaks_) return true;
    // A count of rows would reveal how many rows a client has, so the update counts clients.
    const bool hides_clients = privacy_.of_clients();
    const WaitingUpdate update{.round = work.number,
                               .base = round_.digest,
                               .file = file,
                               .digest = digest,
                               .examples = static_cast<double>(hides_clients ? trainer_->private_units()
                                                                             : trainer_->training_examples()),
                               .tokens = served(kept_->policy(), *trainer_),
                               .metrics = metrics,
                               .turn = work.turn,
                               .terms = made_by(work),
                               .spend = ledger_ && !of_sums_.is_on() ? sha256_of(file) : ""};
    update.save();
    account_and_deliver(update, work);
    return true;
  }

  const std::string name_;
  const Surroundings& surroundings_;
  DeviceWorld device_;
  const SiteSettings settings_;
  const bool speaks_;
  const fs::path directory_;
  std::optional<Kit> kit_;  // rank 0's, as are all up to ledger_
  std::optional<ExpiryNotice> expiry_;
  std::optional<DirectoryLock> lock_;
  std::optional<Site> site_;
  SiteRound round_;
  std::optional<PrivacyLedger> ledger_;
  std::string ledger_path_;
  nlohmann::json agreed_;                                 // the terms, once there are some
  std::optional<std::array<std::string, 3>> begun_with_;  // recipe, metadata and tokenizer of the model
  RoundPrivacy of_sums_;
  PrivacyRecipe privacy_;
  std::optional<ProcessGrid> grid_;
  std::optional<Trainer> trainer_;
  std::optional<SiteModel> kept_;
};

}  // namespace

int federate_site(const SiteArguments& arguments, const Surroundings& surroundings,
                  const MpiSession& session) {
  // Hides updates, losses without noise, and what was spent from other users of this machine.
  umask(0077);
  std::signal(SIGPIPE, SIG_IGN);  // the reader of the output may end first
  return SiteJob(arguments, surroundings, session).run() ? 0 : 130;
}

}  // namespace conclave::commands
