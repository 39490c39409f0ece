#include "recipes/federated/site_job.h"

#include <algorithm>
#include <cmath>
#include <ctime>
#include <limits>
#include <nlohmann/json.hpp>
#include <thread>

#include "federated/control_sites.h"
#include "federated/sha256.h"
#include "recipes/corpus/corpus.h"
#include "recipes/models/loaded_model.h"

namespace conclave {
namespace {

namespace fs = std::filesystem;

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

// Sends rank 0's message to the other ranks. They sleep while they wait, because a blocking collective of MPI
// would keep their cores busy.
nlohmann::json broadcast(const nlohmann::json& mine, Communicator& world) {
  const Tensor there = Tensor::zeros({1});
  Request request = world.start_all_reduce(there);
  while (!request.test()) std::this_thread::sleep_for(std::chrono::milliseconds(2));
  return nlohmann::json::parse(world.broadcast(mine.dump(), 0));
}

}  // namespace

// What the coordinator asks of this site; the same on all ranks.
struct SiteJob::Work {
  bool finished = false;               // the last round is over
  std::int64_t number = 0;             // of the round
  std::string model;                   // a checkpoint
  std::int64_t elements = 0;           // of the update
  std::int64_t counted = 0, turn = 0;  // see SiteRound
  AgreedTerms terms;

  static Work of(const SiteRound& round) {
    return {.finished = round.finished,
            .number = round.round,
            .model = round.model,
            .elements = round.elements,
            .counted = round.counted,
            .turn = round.turn(),
            .terms = agreed_terms(round)};
  }

  friend void to_json(nlohmann::json& json, const Work& work) {
    json = {{"finished", work.finished}, {"round", work.number},    {"model", work.model},
            {"elements", work.elements}, {"counted", work.counted}, {"turn", work.turn},
            {"terms", work.terms}};
  }
  friend void from_json(const nlohmann::json& json, Work& work) {
    work = {.finished = json.at("finished"),
            .number = json.at("round"),
            .model = json.at("model"),
            .elements = json.at("elements"),
            .counted = json.at("counted"),
            .turn = json.at("turn"),
            .terms = json.at("terms")};
  }
};

SiteJob::SiteJob(SiteSettings settings, std::unique_ptr<Communicator> world, SiteJobEnvironment environment)
    : environment_(std::move(environment)),
      world_(std::move(world)),
      settings_(std::move(settings)),
      is_root_(world_->rank() == 0),
      directory_(settings_.site.directory) {
  if (is_root_) expiry_.emplace(environment_.kit->info);
}

bool SiteJob::run() {
  while (const std::optional<Work> work = next()) {
    if (work->finished && is_root_)
      environment_.say(
          fmt::format("all {} rounds are over; the model is {}", work->terms.rounds, work->model));
    if (work->finished && std::ranges::none_of(work->terms.sharing, [](const SharingRule& rule) {
          return rule.sharing == Sharing::kept_private;
        }))
      return true;
    check_terms(*work);
    const CheckpointReader model(work->model);
    check_recipe_of(model);
    if (!trainer_) begin(*work, model);
    if (work->finished) {
      save_with_own_part(*work, model);
      return true;
    }
    check_elements(*work);
    if (deliver_waiting(*work)) continue;
    if (!train(*work, model)) return false;
  }
  return false;
}

// The next work; nothing if interrupted.
std::optional<SiteJob::Work> SiteJob::next() {
  nlohmann::json message;
  if (is_root_) try {
      if (const auto notice = expiry_->due(std::time(nullptr))) environment_.say(*notice);
      round_ = environment_.site->next();
      message = Work::of(round_);
    } catch (const Interrupted&) {
      message = {{"interrupted", true}};
    }
  message = broadcast(message, grid_ ? grid_->world() : *world_);
  if (message.contains("interrupted")) return std::nullopt;
  return message.get<Work>();
}

void SiteJob::check_terms(const Work& work) {
  if (!agreed_) agreed_ = work.terms;
  if (work.terms == *agreed_) return;
  const nlohmann::json now = work.terms, agreed = *agreed_;
  std::string changed;
  for (const auto& [key, value] : now.items())
    if (value != agreed.at(key))
      changed += fmt::format("{}{} is {} and was {}", changed.empty() ? "" : ", ", key, value.dump(),
                             agreed.at(key).dump());
  fail(
      "the coordinator has other terms than this site began with: {}; if its owners agree to them, start "
      "it again",
      changed);
}

// Checks that the recipe, tokenizer and classes stay as they were; only the model's numbers may change. The
// sites read them at different times. If others were given, say, a learning rate of 0, the sum would be
// this site's update.
void SiteJob::check_recipe_of(const CheckpointReader& model) {
  const CheckpointState& state = model.state();
  auto notes = nlohmann::json::parse(state.metadata);
  notes.erase("round_privacy");  // what was spent, of which the site has its own record
  notes.erase(kControlSites);    // which sites there were
  const std::array recipe{state.recipe, notes.dump(), state.tokenizer};
  if (!begun_with_) begun_with_ = recipe;
  require(recipe == begun_with_,
          "{}: the coordinator's model has another recipe, tokenizer or classes than this site began with; "
          "if its owners agree to them, start it again",
          model.path());
}

void SiteJob::begin(const Work& work, const CheckpointReader& model) {
  round_privacy_ = work.terms.privacy;
  Recipe recipe = site_recipe(settings_, parse_recipe(model.state().recipe, work.model + ":/state/recipe"),
                              work.model, round_privacy_, environment_.name);
  require(!recipe.has_texts() || tokenizer_of(model),
          "{}: the coordinator's model has no tokenizer, and {} has texts: a tokenizer learned from them "
          "would differ from other sites', and reveal the texts without noise; let the federation start "
          "from a model of texts",
          work.model, environment_.name);
  recipe.train.steps = work.terms.steps * work.terms.rounds;
  recipe.train.ema = 0;  // the coordinator already averages
  grid_.emplace(environment_.divide(recipe, std::move(world_)));
  TrainerEnvironment trainer = environment_.trainer;
  trainer.classes = ModelClasses{nlohmann::json::parse(model.state().metadata).at("class_names"), work.model};
  trainer_.emplace(recipe, *grid_, std::move(trainer));
  privacy_ = recipe.privacy;
  if (is_root_) {
    delivery_.emplace(*environment_.site, directory_, round_privacy_,
                      certificate_info(environment_.kit->authority).fingerprint, environment_.say);
    if (round_privacy_.is_on() || trainer_->privacy_event(work.terms.steps))
      delivery_->open_ledger(
          site_ledger_file(directory_, settings_.privacy.ledger),
          round_privacy_.is_on() ? std::string(to_string(round_privacy_.unit)) : privacy_.unit,
          {privacy_.epsilon > 0 ? privacy_.epsilon : std::numeric_limits<double>::infinity(),
           privacy_.is_on() || settings_.origin.contains("privacy.delta") ? privacy_.delta
                                                                          : round_privacy_.delta});
  }
  require(!privacy_.is_on() || round_privacy_.unit != RoundPrivacy::Unit::site,
          "privacy.unit = \"{}\" at this site, where the federation's is \"site\": the two together cannot "
          "be accounted for; leave one out",
          privacy_.unit);
  site_model_.emplace(model, work.terms.sharing, directory_, *grid_);
  site_model_->check_experts(trainer_->model_entries());
  std::vector<SharingRule> never;
  for (const std::string& pattern : settings_.sharing.kept_private)
    never.push_back({pattern, Sharing::kept_private});
  site_model_->check_private(never);
  site_model_->check_noise(round_privacy_);
  require(!privacy_.is_on() || site_model_->policy().experts().empty(),
          "the coordinator's sharing.by_tokens asks how many tokens each expert served, which reveals "
          "something about single records; a site with privacy.unit = \"{}\" does not report it",
          privacy_.unit);
  require(!privacy_.is_on() || !work.terms.asynchronous,
          "the coordinator's rounds are asynchronous: their number at this site depends on its speed, and "
          "with privacy.unit = \"{}\" the number must be known beforehand, to choose the noise",
          privacy_.unit);
}

// Saves the final model with this site's private part, and with what `model`, the federation's, has spent.
void SiteJob::save_with_own_part(const Work& work, const CheckpointReader& model) {
  trainer_->begin_round(work.model, work.number * work.terms.steps, 0);
  site_model_->restore_private(trainer_->model_entries(), std::numeric_limits<std::int64_t>::max());
  auto marks = nlohmann::json::object();
  if (is_root_)
    if (const auto mark = delivery_->mark(site_model_->has_private_part()))
      set_mark(marks, MarkKind::training, *mark);
  marks = broadcast(marks, grid_->world());
  const std::string own = trainer_->save_now(find_mark(marks, MarkKind::training), model.state().metadata);
  if (is_root_) environment_.say(fmt::format("with what this site kept to itself, the model is {}", own));
}

void SiteJob::check_elements(const Work& work) const {
  const std::size_t elements =
      site_model_->policy().exchanged_elements() * (work.terms.rules.control_variate ? 2 : 1);
  require(work.elements == static_cast<std::int64_t>(elements),
          "the coordinator wants updates of {} numbers; by its own rules there are {}", work.elements,
          elements);
}

// The terms that an update is made under; it must not be delivered under others. For rank 0.
std::string SiteJob::made_by(const Work& work) const {
  nlohmann::json noise;  // with a budget, it depends on the number of rounds
  if (const auto event = trainer_->privacy_event(work.terms.steps))
    noise = {event->noise_multiplier, event->sampling_rate, event->steps};
  nlohmann::json terms = work.terms;
  // Without secure aggregation, only the learning rate depends on the number of rounds.
  if (!work.terms.secure) terms.erase("rounds");
  return nlohmann::json{
      {"federation", terms},
      {"model", round_.model_sha256},
      {"own", {privacy_.unit, privacy_.clip_norm, privacy_.rate, privacy_.batch, privacy_.noise_multiplier}},
      {"noise", noise}}
      .dump();
}

// Delivers an update that was made before this site was restarted. If rounds are asynchronous, an update
// that no round has taken yet may still count in this one. Returns false if there is none.
bool SiteJob::deliver_waiting(const Work& work) {
  std::optional<WaitingUpdate> waiting;
  if (is_root_)
    waiting = WaitingUpdate::find(
        directory_, work.turn, made_by(work),
        work.terms.asynchronous ? std::optional<FileDigest>() : std::optional(round_.digest));
  if (!broadcast({{"trained", waiting.has_value()}}, grid_->world()).at("trained")) return false;
  if (is_root_) deliver(*waiting, work);
  return true;
}

// For rank 0.
void SiteJob::deliver(const WaitingUpdate& update, const Work& work) {
  delivery_->send(
      update, round_,
      round_privacy_.is_on() ? round_privacy_.event() : trainer_->privacy_event(work.terms.steps));
}

void SiteJob::validate(const std::string& which, std::map<std::string, double>& metrics) {
  // Four digits describe the model well enough; more would reveal more about single examples.
  const auto rounded = [](double value) { return std::round(1e4 * value) / 1e4; };
  for (const auto& [task, result] : trainer_->validate()) {
    metrics[fmt::format("{}/{}_loss", task, which)] = rounded(result.loss);
    if (result.accuracy) metrics[fmt::format("{}/{}_accuracy", task, which)] = rounded(*result.accuracy);
  }
}

// Makes the round's update of `model`, and delivers it. Returns false if interrupted; the round is then
// repeated, with the same result unless privacy draws random numbers anew.
bool SiteJob::train(const Work& work, const CheckpointReader& model) {
  trainer_->begin_round(work.model, work.number * work.terms.steps, work.turn * work.terms.steps);
  std::map<std::string, double> metrics;
  // Metrics of single records have no noise, so a site with privacy sends none.
  const std::int64_t every = settings_.site.validate_every;
  const bool tells_metrics = every > 0 && !privacy_.is_on() && !round_privacy_.is_on() &&
                             (work.number % every == 0 || work.number + 1 == work.terms.rounds);
  if (tells_metrics) validate("validation", metrics);
  if (site_model_->has_private_part()) {
    const auto kept = site_model_->restore_private(trainer_->model_entries(), work.turn);
    if (kept && *kept > work.turn && is_root_)
      environment_.say(fmt::format(
          "warning: {}: the coordinator went back to round {}, and this site no longer has its private "
          "part of that round; it goes on with the one it kept after round {}. If the federation begins "
          "anew, "
          "stop this site and remove private-*.f32",
          directory_.string(), work.turn + 1, *kept));
    if (tells_metrics && (work.turn > 0 || kept)) validate("private_validation", metrics);
  }
  // The mean of no sites' control variates is zero, as after rounds of another strategy. This site's then
  // begins anew, too, because it is not in the mean.
  const bool anew = control_sites(nlohmann::json::parse(model.state().metadata)).empty();
  SiteModel::Control control{.gradient = {}, .counted = anew ? 0 : work.counted};
  SiteTerms::ControlEntries controlled;  // owns what `control` refers to
  if (work.terms.rules.control_variate) {
    controlled = trainer_->control_entries();
    control.gradient = controlled.gradient;
    const std::string warning = site_model_->set_correction(controlled.correction, model, control.counted);
    if (!warning.empty() && is_root_) environment_.say("warning: " + warning);
  }
  const bool of_records = round_privacy_.is_within_sites();
  if (!(of_records ? trainer_->subtract_clipped_sum()
                   : trainer_->take_steps(work.terms.steps, work.terms.rules)))
    return false;
  const fs::path file = directory_ / "update.f32";
  std::vector<TensorEntry> changes;
  if (of_records) changes = trainer_->clipped_changes();
  const FileDigest digest =
      site_model_->save(trainer_->model_entries(), model, work.turn, file.string(), control, changes);
  if (!is_root_) return true;
  // A count of rows would reveal how many rows a client has, so the update counts clients. Where sites are
  // hidden, all count alike, so the number is not needed.
  const bool hides_clients = privacy_.of_clients();
  const double examples =
      round_privacy_.unit == RoundPrivacy::Unit::site
          ? 1
          : static_cast<double>(hides_clients ? trainer_->private_units() : trainer_->training_examples());
  const WaitingUpdate update{
      .round = work.number,
      .base = round_.digest,
      .file = file,
      .digest = digest,
      .examples = examples,
      .tokens = served(site_model_->policy(), *trainer_),
      .metrics = metrics,
      .turn = work.turn,
      .terms = made_by(work),
      .spend = delivery_->has_ledger() && !round_privacy_.is_on() ? sha256_of(file) : ""};
  update.save();
  deliver(update, work);
  return true;
}

}  // namespace conclave
