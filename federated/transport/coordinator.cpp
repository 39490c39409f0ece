#include "federated/transport/coordinator.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <malloc.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <ctime>
#include <deque>
#include <iterator>
#include <limits>
#include <mutex>
#include <nlohmann/json.hpp>
#include <set>
#include <span>

#include "core/clock.h"
#include "core/durable_file.h"
#include "core/polling.h"
#include "federated/control_sites.h"
#include "federated/global_model.h"
#include "federated/privacy/privacy_marks.h"
#include "federated/prometheus_file.h"
#include "federated/round_metrics.h"
#include "federated/sha256.h"
#include "federated/strategies/round.h"
#include "federated/transcript.h"
#include "federated/transport/service.h"

namespace conclave {
namespace {

constexpr double kFarewellSeconds = 60;
constexpr std::size_t kMostNamed = 20;    // at most so many sites are named in a line
constexpr double kBetweenLongLines = 10;  // seconds

std::string named(std::span<const std::string> sites) {
  const auto first = sites.first(std::min(sites.size(), kMostNamed));
  const std::size_t more = sites.size() - first.size();
  return fmt::format("{}{}", fmt::join(first, ", "), more == 0 ? "" : fmt::format(" and {} more", more));
}

// Without the database, what earlier sums spent would be forgotten. Call this before the database is made.
void expect_database(const std::filesystem::path& directory) {
  if (std::filesystem::exists(directory / "rounds.sqlite")) return;
  std::string there;
  for (const CheckpointFile& file : list_checkpoints(directory.string()))
    if (file.step > 0) there = std::filesystem::path(file.path).filename().string();
  const std::string transcript = (directory / "transcript.jsonl").string();
  if (there.empty() && std::filesystem::exists(transcript)) {
    const RoundHistory history = round_history(transcript, verify_transcript(transcript).lines);
    if (!history.models.empty() && history.models.rbegin()->first > 0) there = "transcript.jsonl";
  }
  require(
      there.empty(),
      "{}: there were rounds here ({}), and rounds.sqlite, the record of the updates that count and of the "
      "privacy that their sums spent, is missing; restore it, or begin another federation, in another "
      "folder",
      directory.string(), there);
}

}  // namespace

struct Coordinator::Parts {
  Parts(CoordinatorOptions given, const Kit& kit, AllowList allow_list, Communicator& world, Say report)
      : certificate(kit.info),
        expiry(kit.info),
        options(std::move(given)),
        allowed(std::move(allow_list)),
        say(std::move(report)),
        lock(options.directory),
        database((expect_database(options.directory), options.directory + "/rounds.sqlite"),
                 Journal::write_ahead),
        board(options.directory, database),
        secure(options.directory, database, board, options.secure, say),
        service(board, options.secure.enabled ? &secure : nullptr, allowed,
                {.steps = options.local_steps,
                 .rules = strategy_traits(options.strategy.name).rules(options.strategy),
                 .sharing = options.sharing,
                 .most_examples = options.secure.most_examples,
                 .privacy = options.secure.privacy},
                say),
        writer(options.directory, world, static_cast<int>(options.keep), false, {}, [this] { give_back(); }),
        // One more, because a state is written before its model: until that model exists, the state for the
        // model before it must stay.
        strategy_writer(options.directory + "/strategy", world,
                        options.keep == 0 ? 0 : static_cast<int>(options.keep) + 1, false, {},
                        [this] { give_back(); }),
        transcript(options.directory + "/transcript.jsonl"),
        history(round_history(options.directory + "/transcript.jsonl", transcript.lines())) {
    database.run("CREATE TABLE IF NOT EXISTS repeated(round INTEGER PRIMARY KEY, lines INTEGER)");
    std::vector<std::string> warnings;
    std::string newest = newest_checkpoint(options.directory, Verify::everything, &warnings).value_or("");
    for (const std::string& warning : warnings) say("warning: skipped " + warning);
    const bool anew = newest.empty();
    if (anew) {
      const nlohmann::json last = transcript.last();
      require(last.is_null() || last.at("round") == 0,
              "{}: its transcript has rounds, and none of its checkpoints is whole; restore one, or begin in "
              "another folder",
              options.directory);
      require(!options.start.empty(), "{}: no checkpoint to go on from; give one to start with",
              options.directory);
      newest = options.start;
    }
    // A new federation begins without a control variate, whatever its first checkpoint has, because its sites
    // have none.
    const bool by_control = strategy_traits(options.strategy.name).control_variate;
    model.emplace(newest,
                  !by_control ? ControlVariate::none
                  : anew      ? ControlVariate::zero
                              : ControlVariate::stored,
                  options.directory);
    if (anew) model->state().step = 0;
    count_control_sites(by_control, anew);
    round = model->state().step;
    expect_spends();
    expect_rounds();
    require(round <= options.rounds,
            "{}: {} rounds are over, and federation.rounds = {}; give {}, with which it ends here, or more",
            options.directory, round, options.rounds, round);
    policy.emplace(flat_parameters(model->layout()), options.sharing);
    if (options.secure.enabled)  // rather than after the sites have trained
      for (const std::size_t sites : {static_cast<std::size_t>(options.quorum), everyone()})
        if (sites >= static_cast<std::size_t>(options.quorum))
          check_sums(options.secure, policy->exchanged_elements(), sites);
    options.strategy.folder = options.directory;
    strategy = make_strategy(options.strategy, policy->exchanged_elements());
    require(
        !options.secure.enabled || (strategy->traits().works_on_sums() && policy->experts().empty()),
        "strategy {}: secure aggregation provides only the mean of the updates, in which all parameters of a "
        "site have the same weight",
        strategy->name());
    require(!by_control || policy->experts().empty(),
            "strategy {}: all sites' control variates must count equally, and with sharing.by_tokens they "
            "would not; leave that out",
            strategy->name());
    if (const double most = options.secure.most_epsilon; options.secure.privacy.is_on() && most > 0) {
      const RoundPrivacy& privacy = options.secure.privacy;
      const double all = epsilon_in_the_end();
      require(!std::isinf(all),
              "{}: it had rounds without secure aggregation or without noise, which no epsilon bounds, and "
              "privacy.epsilon = {}; begin in another folder, or set privacy.epsilon = 0 and "
              "privacy.noise_multiplier = {}",
              options.directory, most, privacy.noise_multiplier);
      if (all > most)
        fail(
            "privacy: what was summed up so far has spent epsilon {:.4f} at delta {}, and with {} more "
            "rounds it would be {:.4f}: above privacy.epsilon = {}. Earlier rounds had other noise; ask for "
            "fewer rounds, or for more noise by privacy.noise_multiplier",
            epsilon(privacy), privacy.delta, rounds_to_spend(), all, most);
    }
    load_strategy();
    if (anew) {
      begin_private();
      save();
    } else {
      if (options.secure.privacy.is_on()) spent = epsilon(options.secure.privacy);
      hash_model();
    }
    const std::vector<ReceivedUpdate> last = board.updates_of(round - 1);
    note_reports(last);
    if (!is_recorded()) record(last);
    database.checkpoint();
    server = start_server(options.address, kit, service, port);
  }

  void stop() {
    board.stop();
    secure.stop();
  }

  // Throws Error if the transcript has a larger epsilon than the database's sums give, as after an older copy
  // of the database was restored.
  void expect_spends() const {
    const nlohmann::json& told = history.privacy;
    if (told.is_null() || told.at("epsilon").is_null()) return;  // not private anyway
    constexpr double kRounding = 1e-3;  // versions of the accountant may differ by this much
    const RoundPrivacy privacy{
        .rate = told.at("rate"), .noise_multiplier = told.at("noise_multiplier"), .delta = told.at("delta")};
    const double before = told.at("epsilon");
    const double spent = epsilon(privacy);
    require(
        before <= spent * (1 + kRounding),
        "{}: its transcript says that sums have spent epsilon {:.4f} at delta {}, and by rounds.sqlite it "
        "is {:.4f}, so sums are missing there; restore the newest rounds.sqlite",
        options.directory, before, privacy.delta, spent);
  }

  // Throws Error if the checkpoint or the transcript has a round that the database lacks, as after an older
  // copy of the database was restored: it would no longer know which updates counted, and sites would begin
  // their control variates anew.
  void expect_rounds() const {
    const std::int64_t told = history.models.empty() ? 0 : history.models.rbegin()->first;
    const std::int64_t rounds = std::max(round, told), recorded = board.rounds_of_record();
    require(
        recorded >= rounds || secure.unmasked(rounds - 1),  // a round that is skipped need not be opened
        "{}: {} rounds are over, and rounds.sqlite has the first {}: it is an older copy; restore the newest "
        "one, or begin another federation, in another folder",
        options.directory, rounds, recorded);
  }

  std::int64_t rounds_to_spend() const {
    return options.rounds - round - secure.unmasked_in(round, options.rounds);
  }
  double epsilon_in_the_end() const { return epsilon(options.secure.privacy, rounds_to_spend()); }

  // What the rounds that are over have spent, and `more` with this noise, at its delta. Infinite if updates
  // of one of them came without noise.
  double epsilon(const RoundPrivacy& privacy, std::int64_t more = 0) const {
    return board.had_plain_round_before(round) ? std::numeric_limits<double>::infinity()
                                               : secure.epsilon(privacy, more);
  }

  // The control variate of a site that was removed stays in c, the mean of all, because the coordinator does
  // not know it. So c remains the mean of those of all sites that there were. A new federation's c is zero,
  // and so is that after rounds of a strategy without c, whose checkpoints do not have it.
  void count_control_sites(bool by_control, bool anew) {
    auto notes = nlohmann::json::parse(model->state().metadata);
    if (!by_control || anew) {
      notes.erase(kControlSites);
      model->state().metadata = notes.dump();
    }
    if (!by_control) return;
    const std::set<std::string> before = control_sites(notes);
    std::vector<std::string> removed;
    std::ranges::set_difference(before, options.sites, std::back_inserter(removed));
    if (!removed.empty())
      say(
          fmt::format("warning: strategy {} keeps correcting for the data of sites that were removed: {}. To "
                      "begin without them, begin another federation, in another folder",
                      options.strategy.name, named(removed)));
    options.sites.insert(before.begin(), before.end());
    options.strategy.sites = static_cast<std::int64_t>(options.sites.size());
  }

  // The control variate of a site that was added is zero at first, so that the mean of all becomes smaller.
  // The checkpoint with which the round began still has the mean before, and is repeated from that if this
  // process is killed.
  void count_added_sites() {
    auto notes = nlohmann::json::parse(model->state().metadata);
    const auto factor = static_cast<float>(add_control_sites(notes, options.sites));
    const auto control = model->vectors().subspan(model->layout().elements);
    if (factor != 1)
      for (float& value : control) value *= factor;
    model->state().metadata = notes.dump();
  }

  // A strategy's memory of earlier rounds is a separate checkpoint, which sites need not download. It is
  // written before the model of the same round, because that model completes the round.
  std::vector<TensorEntry> strategy_entries() {
    std::vector<TensorEntry> entries;
    for (const auto& [name, values] : strategy->state()) {
      const Tensor state = Tensor::borrow(values.data(), {static_cast<Index>(values.size())}, DType::f32);
      entries.push_back({strategy->name() + "/" + name, state, state.shape(), 0, false});
    }
    return entries;
  }

  void load_strategy() {
    const auto entries = strategy_entries();
    if (entries.empty() || round == 0) return;
    try {
      const CheckpointReader reader(checkpoint_path(options.directory + "/strategy", round));
      for (const TensorEntry& entry : entries) {
        reader.read(entry);
        give_back();
      }
    } catch (const Error& error) {
      fail(
          "{}; strategy {} cannot go on after round {} without this state. Restore it, or remove {}: the "
          "coordinator then goes on from the checkpoint before it, if the strategy is that of the rounds "
          "before",
          error.what(), strategy->name(), round, checkpoint_path(options.directory, round));
    }
  }

  // Vectors as long as the model are in files, and in memory only where the coordinator is at work on them.
  void give_back() const {
    model->give_back();
    if (strategy) strategy->give_back();
  }

  // Marks the model as private for whoever receives it, if all its rounds are to have noise. What its start
  // had spent elsewhere is no mark of these rounds.
  void begin_private() {
    auto notes = begun_from(nlohmann::json::parse(model->state().metadata));
    if (options.secure.privacy.is_on())
      set_mark(notes, MarkKind::rounds, {.unit = std::string(to_string(options.secure.privacy.unit))});
    model->state().metadata = notes.dump();
    note_privacy();
  }

  // Puts what was spent into the next checkpoint. It is in the database by then: a sum is recorded before it
  // is unmasked. From the first round without noise on, epsilon is null: infinite.
  void note_privacy() {
    const RoundPrivacy& privacy = options.secure.privacy;
    if (privacy.is_on()) spent = epsilon(privacy);
    auto notes = nlohmann::json::parse(model->state().metadata);
    auto mark = find_mark(notes, MarkKind::rounds);
    if (!mark || mark->unit.empty()) return;
    const bool without = mark->epsilon && std::isinf(*mark->epsilon);
    mark->epsilon = privacy.is_on() && !without ? spent : std::numeric_limits<double>::infinity();
    mark->count = secure.unmasked_in(0, std::numeric_limits<std::int64_t>::max());
    if (privacy.is_on()) {
      mark->delta = privacy.delta;
      mark->noise_multiplier = privacy.noise_multiplier;
    }
    set_mark(notes, MarkKind::rounds, *mark);
    model->state().metadata = notes.dump();
  }

  void save() {
    if (const auto entries = strategy_entries(); !entries.empty()) {
      strategy_writer.save(entries, {.step = round, .recipe = "", .metadata = "{}", .tokenizer = ""});
      const auto& outcome = strategy_writer.wait();
      require(outcome && outcome->saved, "the state of strategy {} after round {} could not be saved: {}; {}",
              strategy->name(), round, outcome ? outcome->message : "", after_failed_save());
    }
    model->state().step = round;
    writer.save(model->entries(), model->state());
    const auto& outcome = writer.wait();
    require(outcome && outcome->saved, "the model after round {} could not be saved: {}; {}", round,
            outcome ? outcome->message : "", after_failed_save());
    hash_model();
  }

  const char* after_failed_save() const {
    return options.secure.enabled && secure.unmasked(round - 1)
               ? "started again, the coordinator skips that round, because its sum was unmasked and is lost; "
                 "what it spent stays spent"
               : "started again, the coordinator goes on with that round";
  }

  // What save() writes is there before older files are removed.
  std::string lacking_room() {
    std::error_code gone;  // then the model alone is a good guess
    const std::uintmax_t file = std::filesystem::file_size(model_file->path, gone);
    std::uint64_t bytes = gone ? model->bytes() : file;
    for (const TensorEntry& entry : strategy_entries()) bytes += entry.values.bytes();
    return conclave::lacking_room(options.directory, static_cast<double>(bytes),
                                  static_cast<double>(std::min(kSpareRoom, bytes)),
                                  "the round's model and the strategy's state");
  }

  // Shows whether another file has taken a file's place, or whether the file was written to.
  struct FileState {
    explicit FileState(const std::string& path) {
      struct stat found {};
      require(stat(path.c_str(), &found) == 0, "{}: cannot be read", path);
      state = {static_cast<std::int64_t>(found.st_ino), found.st_size, found.st_mtim.tv_sec,
               found.st_mtim.tv_nsec};
    }
    bool operator==(const FileState&) const = default;
    std::array<std::int64_t, 4> state;
  };

  // Once for each checkpoint that a round begins with, however many attempts at a sum follow.
  void hash_model() {
    const std::string path = checkpoint_path(options.directory, round);
    const FileState state(path);
    model_file.emplace(ModelFile{path, state, digest_of(path), sha256_of(path)});
  }

  std::size_t update_elements() const { return strategy->vectors() * policy->exchanged_elements(); }

  // Sites must train from the model that the coordinator holds. If its file was changed or removed, it is
  // saved again.
  void keep_model_file() {
    const std::string& path = model_file->path;
    const bool there = std::filesystem::exists(path);
    if (there && FileState(path) == model_file->state) return;
    if (there && digest_of(path) == model_file->digest) {
      model_file->state = FileState(path);
      return;
    }
    say(fmt::format("warning: {} was changed or removed by another program; it is written anew", path));
    save();
  }

  RoundPlan plan() {
    keep_model_file();
    return {.round = round,
            .rounds = options.rounds,
            .model = model_file->path,
            .digest = model_file->digest,
            .elements = update_elements(),
            .experts = policy->experts().size(),
            .secure = options.secure.enabled,
            .buffer = strategy->buffer_size(),
            .stalest = options.max_staleness,
            .strategy = strategy->name()};
  }

  RoundWork work() const {
    return {.round = round,
            .rounds = options.rounds,
            .model_sha256 = model_file->sha256,
            .local_steps = options.local_steps,
            .rules = strategy->site_rules(),
            .sharing = options.sharing};
  }

  bool run_rounds() {
    while (round < options.rounds) {
      note_repetition();
      if (options.secure.enabled && secure.unmasked(round)) {
        skip_round();
        continue;
      }
      board.open(plan());
      say(fmt::format("round {} of {} begins", round + 1, options.rounds));
      const auto quorum = static_cast<std::size_t>(options.quorum);
      const std::size_t admitted = everyone();
      if (strategy->buffer_size() == 0 && admitted > 0 && admitted < quorum)
        say(
            fmt::format("warning: federation.quorum = {}, and {} sites are let in: the round cannot end; "
                        "let sites in, or {}",
                        quorum, admitted, start_with_lower_quorum(options.secure.enabled)));
      began = std::time(nullptr);
      const auto updates =
          board.wait({.quorum = quorum,
                      .everyone = admitted,
                      .gather = options.gather_seconds,
                      .deadline = options.deadline_seconds,
                      .tell = [this](const RoundBoard::Progress& progress) { tell(progress); }});
      if (!updates) return false;
      malloc_trim(0);  // frees the memory of uploads, before there is a sum as long as the model
      if (!options.secure.enabled)
        end_round(*updates);
      else if (auto sum = secure.attempt(work(), policy->exchanged_elements(), *updates, {},
                                         [this] { return lacking_room(); }))
        end_secure_round(sum);
      board.clear();
    }
    board.finish(plan(), kFarewellSeconds);
    rusage used{};
    getrusage(RUSAGE_SELF, &used);
    say(fmt::format("memory: {:.0f} MiB at most; the model has {:.0f} MiB",
                    static_cast<double>(used.ru_maxrss) / 1024,
                    static_cast<double>(model->bytes()) / (1 << 20)));
    return true;
  }

  void tell(const RoundBoard::Progress& progress) {
    write_metrics(progress.updates);
    if (progress.reminds)
      say(fmt::format("round {} of {} waits: {} of {} updates came", round + 1, options.rounds,
                      progress.updates, strategy->buffer_size()));
    if (!progress.overdue) return;
    const bool is_long = progress.missing.size() > kMostNamed;
    if (is_long && long_line && seconds_since(*long_line) < kBetweenLongLines) return;
    if (is_long) long_line = Clock::now();
    const std::string missing = named(progress.missing);
    const std::size_t admitted = everyone();
    say(fmt::format(
        "round {} of {} is past its deadline and waits: {} of {} updates came; of the sites that began it, "
        "{} did not deliver; {}. Start the sites that are missing, or {}",
        round + 1, options.rounds, progress.updates, options.quorum, missing.empty() ? "none" : missing,
        admitted > 0 ? fmt::format("{} sites are let in", admitted)
                     : std::string("no site is let in, or the list of those let in cannot be read"),
        start_with_lower_quorum(options.secure.enabled)));
  }

  // 0 if the list cannot be read; callers are told about that.
  std::size_t everyone() const {
    try {
      return allowed.sites().size();
    } catch (const Error&) {
      return 0;
    }
  }

  // Sites were asked to unmask the round's sum, and the sum was lost: the process was killed, or too few
  // sites answered.
  void skip_round() {
    board.set_updates(round, {});
    note_reports({});
    ++round;
    note_privacy();
    save();
    record({});
    say(
        fmt::format("round {} of {} is skipped: its sum was lost while it was unmasked, and another one over "
                    "other sites would reveal their difference{}",
                    round, options.rounds, spent_text()));
    write_metrics(0);
  }

  void end_secure_round(std::optional<SecureRound::Sum>& sum) {
    const std::vector<ReceivedUpdate> survivors = sum->survivors;
    board.set_updates(round, survivors);
    const SiteUpdate update{
        .weight = static_cast<double>(survivors.size()),
        .read = [&](std::size_t offset, std::span<float> out) { sum->read_mean(offset, out); }};
    aggregate(std::span(&update, 1), survivors.size());
    sum.reset();  // as long as the model
    finish_round(survivors);
  }

  void end_round(const std::vector<ReceivedUpdate>& updates) {
    std::deque<OutgoingFile> files;
    std::vector<SiteUpdate> sites;
    for (const ReceivedUpdate& update : updates) {
      const OutgoingFile& file = files.emplace_back(update.file);
      sites.push_back({.weight = update.examples,
                       .staleness = static_cast<double>(round - update.base),
                       .tokens = update.tokens,
                       .read = [&file](std::size_t offset, std::span<float> out) {
                         file.read_at(out.data(), out.size_bytes(), offset * sizeof(float));
                       }});
    }
    aggregate(sites, updates.size());
    finish_round(updates);
  }

  void aggregate(std::span<const SiteUpdate> sites, std::size_t took_part) {
    if (strategy->traits().control_variate) count_added_sites();
    aggregate_round(*strategy, *policy, sites, model->vectors(),
                    {.sites = took_part,
                     .rate = rate_of_round(options.schedule, round, options.rounds),
                     .passed = [this] { give_back(); }});
  }

  // Keeps what the last round's updates report, for metrics.prom, and returns the means of their metrics,
  // weighted as the strategy weighs the sites' updates.
  std::map<std::string, double> note_reports(const std::vector<ReceivedUpdate>& updates) {
    const bool robust = !strategy->traits().needs_mean_only && strategy->buffer_size() == 0;
    const bool by_examples = options.secure.enabled ? options.secure.most_examples > 0
                                                    : !robust && !strategy->site_rules().control_variate;
    const std::map<std::string, double> means = mean_metrics(updates, by_examples);
    site_examples.values.clear(), metric_means.values.clear();
    std::set<std::string> sites;
    for (const ReceivedUpdate& update : updates) {
      sites.insert(update.site);
      if (tells_examples(options.secure.privacy))
        site_examples.values[prometheus_label("site", update.site)] += update.examples;
    }
    sites_in_round = sites.size();
    for (const auto& [name, mean] : means) metric_means.values[prometheus_label("metric", name)] = mean;
    return means;
  }

  // Where noise hides sites, they do not tell how many examples they have.
  static bool tells_examples(const RoundPrivacy& privacy) { return privacy.unit != RoundPrivacy::Unit::site; }

  void finish_round(const std::vector<ReceivedUpdate>& updates) {
    double examples = 0;
    for (const ReceivedUpdate& update : updates) examples += update.examples;
    ++round;
    note_privacy();
    save();
    record(updates);
    const bool asynchronous = strategy->buffer_size() > 0;
    std::string line = fmt::format("round {} of {}: {} {}", round, options.rounds, updates.size(),
                                   asynchronous ? "updates" : "sites");
    if (tells_examples(options.secure.privacy))
      line += fmt::format(", {:.0f} {}", examples,
                          options.secure.privacy.unit == RoundPrivacy::Unit::client ? "clients" : "examples");
    for (const auto& [name, mean] : note_reports(updates)) line += fmt::format(", {} {:.4f}", name, mean);
    say(line + spent_text());
    write_metrics(0);
  }

  std::string spent_text() const {
    const RoundPrivacy& privacy = options.secure.privacy;
    if (!privacy.is_on()) return "";
    return std::isinf(spent) ? ", epsilon infinite"
                             : fmt::format(", epsilon {:.4f} at delta {}", spent, privacy.delta);
  }

  // `waiting`: updates of the present round that have come.
  void write_metrics(std::size_t waiting) const {
    try {
      write_prometheus_file(
          options.directory + "/metrics.prom",
          {{"conclave_rounds_done", "Rounds that are over", {{"", static_cast<double>(round)}}},
           {"conclave_rounds", "Rounds that there are to be", {{"", static_cast<double>(options.rounds)}}},
           {"conclave_round_began_seconds",
            "When the present round began, in seconds since 1970",
            {{"", static_cast<double>(began)}}},
           {"conclave_updates_waiting",
            "Updates of the present round that have come",
            {{"", static_cast<double>(waiting)}}},
           {"conclave_sites", "Sites in the last round's model", {{"", static_cast<double>(sites_in_round)}}},
           {"conclave_certificate_end_seconds",
            "When the coordinator's certificate ends, in seconds since 1970",
            {{"", static_cast<double>(certificate.not_after)}}},
           {"conclave_epsilon", "Privacy that the rounds' sums have spent, at privacy.delta",
            options.secure.privacy.is_on() ? std::map<std::string, double>{{"", spent}}
                                           : std::map<std::string, double>{}},
           site_examples,
           metric_means});
    } catch (const Error& error) {  // this is no reason to stop training
      say(fmt::format("warning: {}", error.what()));
    }
  }

  // Before a round that the transcript already has, whose checkpoint is gone: its next checkpoint may be
  // another one. (It is not if the same updates count.) This is kept for a coordinator that is killed before
  // the round is in the transcript again.
  void note_repetition() {
    if (history.models.contains(round + 1))
      database.prepare("INSERT OR REPLACE INTO repeated(round, lines) VALUES(?1, ?2)")
          .bind(round, static_cast<std::int64_t>(transcript.lines()))
          .run();
  }

  // Whether the round is being repeated, and is not in the transcript again.
  bool is_repeated(std::int64_t number) const {
    auto rows = database.prepare("SELECT 1 FROM repeated WHERE round = ?1 AND lines = ?2");
    return rows.bind(number, static_cast<std::int64_t>(transcript.lines())).next();
  }

  // True also if only later rounds are recorded, whose checkpoints are gone. False if this round was repeated
  // after it was recorded. Throws Error if the transcript has another checkpoint, and no repetition explains
  // that.
  bool is_recorded() const {
    if (round == 0) return true;
    const auto found = history.models.find(round);
    if (found == history.models.end()) return history.models.upper_bound(round) != history.models.end();
    if (found->second == model_file->sha256) return true;
    require(is_repeated(round - 1),
            "{}: its SHA-256 is {}, and that of the model after round {} was {}, as the transcript says: "
            "another file has taken its place. Restore the one that was there, or remove this one, and the "
            "coordinator goes on from the checkpoint before it",
            model_file->path, model_file->sha256, round, found->second);
    return false;
  }

  // What was spent, at the delta of a round that had this privacy. It is `spent` if the options are the same:
  // an accountant takes time.
  double epsilon_for(const RoundPrivacy& had) const {
    RoundPrivacy now = options.secure.privacy;
    now.clip_norm = had.clip_norm;  // is not recorded, and not needed
    return had == now ? spent : epsilon(had);
  }

  // The checkpoint exists by now. If the coordinator is killed before this entry is written, it finds at its
  // next start that the entry is missing; by then it may have another strategy or other noise than the round
  // had.
  void record(const std::vector<ReceivedUpdate>& updates) {
    const RoundMethod method = board.method_of(round - 1).value_or(
        RoundMethod{strategy->name(), strategy->buffer_size() > 0, options.secure.enabled});
    // Without privacy if the round was repeated without secure aggregation.
    const auto privacy = method.secure ? secure.privacy_of(round - 1) : std::nullopt;
    nlohmann::json sites = nlohmann::json::object();
    for (const ReceivedUpdate& update : updates) {
      nlohmann::json& site = sites[update.site];
      if (site.is_null()) site = nlohmann::json::object();
      if (tells_examples(privacy.value_or(RoundPrivacy())))
        site["examples"] = site.value("examples", 0.0) + update.examples;
      site["metrics"] = update.metrics;  // of several in an asynchronous round, the newest's
      if (method.asynchronous) site["models"].push_back(update.base);
    }
    nlohmann::json entry{{"round", round},
                         {"strategy", method.strategy},
                         {"sites", sites},
                         {"model_sha256", model_file->sha256}};
    if (privacy) {
      entry["privacy"] = {{"unit", to_string(privacy->unit)},
                          {"noise_multiplier", privacy->noise_multiplier},
                          {"rate", privacy->rate},
                          {"epsilon", epsilon_for(*privacy)},  // null if it is infinite
                          {"delta", privacy->delta}};
    }
    if (method.secure) entry["secure_aggregation"] = updates.empty() ? "skipped" : "survivors";
    if (history.models.contains(round)) {
      entry["repeated"] = true;
      say(fmt::format(
          "warning: round {} is in the transcript once more: its first checkpoint is gone, and the round was "
          "repeated",
          round));
    }
    transcript.append(entry);
    history.add(entry);
    database.checkpoint();  // so that a copy of the file alone has the round
  }

  void tell_of_expiry() {
    if (const auto notice = expiry.due(std::time(nullptr))) say(*notice);
  }

  const CertificateInfo certificate;
  ExpiryNotice expiry;
  CoordinatorOptions options;
  AllowList allowed;
  Say say;
  DirectoryLock lock;
  Database database;
  RoundBoard board;
  SecureRound secure;
  FederationService service;
  CheckpointWriter writer, strategy_writer;
  Transcript transcript;
  RoundHistory history;  // the transcript's
  std::optional<GlobalModel> model;
  std::optional<SharingPolicy> policy;
  std::unique_ptr<Strategy> strategy;
  std::int64_t round = 0;
  double spent = 0;                            // epsilon of the sums so far, if the rounds have noise
  std::time_t began = 0;                       // when the round began
  std::optional<Clock::time_point> long_line;  // last time that a line named only some of the missing sites
  std::size_t sites_in_round = 0;              // the last one
  Gauge site_examples{"conclave_examples", "Examples that a site trained on in the last round", {}};
  Gauge metric_means{"conclave_metric", "Mean of what sites measured in the last round", {}};
  struct ModelFile {
    std::string path;
    FileState state;
    FileDigest digest;
    std::string sha256;
  };
  std::optional<ModelFile> model_file;  // the checkpoint of `round`
  int port = 0;
  std::unique_ptr<grpc::Server> server;
};

Coordinator::Coordinator(CoordinatorOptions options, Kit kit, AllowList allowed, Communicator& world,
                         Say say) {
  mallopt(M_ARENA_MAX, 2);  // otherwise each thread of a call keeps memory that held chunks
  parts_ = std::make_unique<Parts>(std::move(options), kit, std::move(allowed), world, std::move(say));
}

Coordinator::~Coordinator() {
  parts_->stop();
  parts_->server->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(2));
}

int Coordinator::port() const { return parts_->port; }

double Coordinator::epsilon() const { return parts_->epsilon_in_the_end(); }

bool Coordinator::run(const std::function<bool()>& interrupted) {
  Parts& parts = *parts_;
  const std::jthread watch = polling(std::chrono::milliseconds(50), [&] {
    parts.tell_of_expiry();
    if (!interrupted()) return true;
    parts.stop();
    return false;
  });
  return parts.run_rounds();
}

}  // namespace conclave
