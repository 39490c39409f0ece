#include "recipes/federated/simulation.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>
#include <utility>

#include "core/clock.h"
#include "core/kernels/reduction.h"
#include "data/bigrams.h"
#include "data/parts.h"
#include "federated/privacy/privacy_marks.h"
#include "federated/strategies/round.h"
#include "parallel/checkpoint/checkpoint_reader.h"
#include "recipes/models/loaded_model.h"
#include "recipes/models/model_state.h"
#include "recipes/settings/federation.h"
#include "recipes/training/private_training.h"

namespace conclave {
namespace {

std::size_t at(std::int64_t index) { return static_cast<std::size_t>(index); }

// Refuses recipes that depend on statistics of batches, because clients send updates of parameters only.
const Recipe& for_clients(const Recipe& recipe, bool privately) {
  const std::vector<TaskKind> tasks = recipe.tasks.trained();
  require(tasks.size() == 1 && traits_of(tasks.front()).losses_per_example,
          "simulated clients learn one task alone, one of {}, so far; set the other weights of [tasks] to 0",
          fmt::join(tasks_that(&TaskTraits::losses_per_example), ", "));
  require(
      !recipe.privacy.is_on(),
      "privacy.unit = \"{}\" is for training at one place; simulated clients have [client_privacy] instead",
      recipe.privacy.unit);
  require(!recipe.data.has_images() || recipe.image.norm != "batch",
          "image.norm = \"batch\": running statistics are no part of clients' updates; set it to \"group\"");
  require(
      !recipe.quantization.enabled || recipe.quantization.activations == "token",
      "quantization.activations = \"tensor\": ranges are no part of clients' updates; set it to \"token\"");
  expect_counted_in_rounds(recipe);
  require(!make_balancer(recipe.moe.balancer, 1, {})->follows_loads(),
          "moe.balancer = \"{}\" needs the loads of all clients' experts, which clients do not report; set "
          "it to \"none\" or \"aux_loss\"",
          recipe.moe.balancer);
  require(
      recipe.moe.gate == "top_k",
      "moe.gate = \"{}\": what is learned would depend on the parts that a client's step is computed in; set "
      "it to \"top_k\"",
      recipe.moe.gate);
  require(!privately || recipe.model.bigrams == 0,
          "model.bigrams = {}: they are chosen from the clients' texts, without noise; set it to 0",
          recipe.model.bigrams);
  return recipe;
}

// With privacy, the clients' batches, dropout and changes to images come from a secret seed of the run,
// because they depend on how the clients and examples are numbered.
std::uint64_t training_seed(const SimulationSettings& settings, const Recipe& recipe, Communicator& world,
                            RandomSource& random) {
  return settings.client_privacy.is_on() ? secret_seed(world, random)
                                         : static_cast<std::uint64_t>(recipe.run.seed);
}

std::vector<FlatParameter> whole_model(const ParameterSet& parameters) {
  return {{.name = "model", .shape = {parameters.elements()}}};
}

}  // namespace

Simulation::Simulation(const SimulationSettings& settings, const Recipe& recipe, const ProcessGrid& grid,
                       const std::string& cache_directory, RandomSource& random)
    : settings_(settings),
      recipe_(for_clients(recipe, settings.client_privacy.is_on())),
      grid_(grid),
      alone_(grid.world().split(grid.world().rank()), 1),
      start_(find_start(recipe_, grid.world())),
      corpus_(load_corpus(recipe_, grid.world(), cache_directory,
                          first_tokenizer(recipe_, start_, settings.client_privacy.is_on()))),
      model_(recipe_, corpus_.sizes(recipe_.data), alone_),
      parameters_(model_, DType::f32, static_cast<std::uint64_t>(recipe_.run.seed)),
      activations_("activations", 0),
      training_(settings_.simulation, recipe_, model_, parameters_, splits().train, activations_,
                training_seed(settings_, recipe_, grid.world(), random)),
      policy_(whole_model(parameters_), {}),
      strategy_(make_strategy(settings_.strategy.options, at(parameters_.elements()))),
      entries_(model_entries(parameters_, model_)),
      writer_(settings_.simulation.directory, grid.world(), static_cast<int>(settings_.simulation.keep),
              false),
      global_(at(parameters_.elements())),
      update_(global_.size()),
      sums_(global_.size() + items) {
  require(strategy_->traits().works_on_sums(),
          "strategy.name = \"{}\": a simulation keeps only the mean of the clients' updates; take a strategy "
          "that needs no more: {}",
          strategy_->name(), strategies_that(&StrategyTraits::works_on_sums));
  if (settings_.client_privacy.is_on())
    privacy_ = std::make_unique<ClientPrivacy>(settings_.client_privacy, settings_.simulation, global_.size(),
                                               random);
  if (!start_.empty()) {
    const CheckpointReader reader(start_, grid.world());
    reader.load(entries_);
    privacy_before_ = conclave::privacy_before(nlohmann::json::parse(reader.state().metadata)).dump();
  } else if (model_.wide()) {
    model_.wide()->set_bigrams(frequent_bigrams(splits().train, recipe_.model.bigrams));
  }
  divide();
  Task& task = *model_.tasks().front();
  validation_ = std::make_unique<Evaluator>(model_, task, splits().validation, recipe_, activations_, grid);
  test_ = std::make_unique<Evaluator>(model_, task, splits().test, recipe_, activations_, grid);
  training_.plan();
  validation_->plan();
  test_->plan();
  activations_.seal(std::size_t{1} << 16, 1.0 / 64);
  std::size_t offset = 0;
  for (const Parameter* parameter : parameters_.parameters()) {
    std::ranges::copy(parameter->value.span<float>(), global_.begin() + static_cast<std::ptrdiff_t>(offset));
    offset += at(parameter->value.numel());
  }
}

// Sorts the examples by client.
void Simulation::divide() {
  const SimulationTable& simulation = settings_.simulation;
  std::vector<TextExample> labels(at(splits().train.size()));
  for (std::size_t i = 0; i < labels.size(); ++i) labels[i].label = splits().train.labels[i];
  const std::vector<std::int64_t> parts = part_of(labels,
                                                  {.parts = simulation.clients,
                                                   .by = simulation.parts_by,
                                                   .alpha = simulation.parts_alpha,
                                                   .seed = static_cast<std::uint64_t>(simulation.parts_seed)},
                                                  0);
  first_.assign(at(simulation.clients) + 1, 0);
  for (const std::int64_t client : parts) ++first_[at(client) + 1];
  training_.reserve(at(*std::ranges::max_element(first_)));
  std::partial_sum(first_.begin(), first_.end(), first_.begin());
  examples_.resize(parts.size());
  std::vector<std::int64_t> next(first_.begin(), first_.end() - 1);
  for (std::size_t i = 0; i < parts.size(); ++i)
    examples_[at(next[at(parts[i])]++)] = static_cast<std::int64_t>(i);
  cohort_.reserve(at(simulation.clients) + 1);
}

std::span<const std::int64_t> Simulation::examples_of(std::int64_t client) const {
  return std::span(examples_).subspan(at(first_[at(client)]),
                                      at(first_[at(client) + 1] - first_[at(client)]));
}

std::int64_t Simulation::clients_with_examples() const {
  std::int64_t count = 0;
  for (std::int64_t client = 0; client < settings_.simulation.clients; ++client)
    count += !examples_of(client).empty();
  return count;
}

// Draws a round's clients, the same on all ranks.
void Simulation::draw() {
  const SimulationTable& simulation = settings_.simulation;
  if (privacy_) {
    if (grid_.world().rank() == 0) privacy_->draw(cohort_);
    auto size = static_cast<std::int64_t>(cohort_.size());
    grid_.world().broadcast(Tensor::borrow(&size, {1}, DType::i64), 0);
    cohort_.resize(at(size));
    if (size > 0) grid_.world().broadcast(Tensor::borrow(cohort_.data(), {size}, DType::i64), 0);
    return;
  }
  cohort_.resize(at(simulation.clients));
  std::iota(cohort_.begin(), cohort_.end(), 0);
  if (simulation.cohort == simulation.clients) return;
  const RandomStream stream{static_cast<std::uint64_t>(recipe_.run.seed), static_cast<std::uint32_t>(done_),
                            0};
  for (std::size_t i = 0; i < at(simulation.cohort); ++i)
    std::swap(cohort_[i], cohort_[i + stream.below(cohort_.size() - i, i)]);
  cohort_.resize(at(simulation.cohort));
}

void Simulation::restore() {
  std::size_t offset = 0;
  for (const Parameter* parameter : parameters_.parameters()) {
    const std::span<float> values = parameter->value.span<float>();
    std::copy_n(global_.begin() + static_cast<std::ptrdiff_t>(offset), values.size(), values.begin());
    offset += values.size();
  }
}

void Simulation::add_client(std::int64_t client) {
  const std::span<double> extra = std::span(sums_).last(items);
  const std::span<const std::int64_t> examples = examples_of(client);
  ++extra[clients];
  ClientTraining::Result trained;
  double squares = 0;
  if (!examples.empty()) {
    restore();
    trained = training_.train(examples, client, done_, strategy_->site_rules().proximal, global_);
    std::size_t offset = 0;
    for (const Parameter* parameter : parameters_.parameters()) {  // the update overwrites the gradients
      const auto values = parameter->value.span<float>(), change = parameter->slot.gradient.span<float>();
      for (std::size_t i = 0; i < values.size(); ++i) change[i] = values[i] - global_[offset + i];
      squares += kernels::sum_of_squares(parameter->slot.gradient);
      offset += values.size();
    }
  }
  const bool finite = std::isfinite(squares);
  const double factor =
      privacy_ ? privacy_->clip(finite ? squares : 0, extra[count]) : static_cast<double>(examples.size());
  if (!finite) {
    ++extra[diverged];
    return;
  }
  extra[weight] += static_cast<double>(examples.size());
  extra[loss] += trained.loss;
  extra[seen] += static_cast<double>(trained.seen);
  if (examples.empty()) return;
  std::size_t offset = 0;
  for (const Parameter* parameter : parameters_.parameters()) {
    const std::span<const float> change = parameter->slot.gradient.span<float>();
    const std::span<double> sums = std::span(sums_).subspan(offset, change.size());
    if (privacy_)
      privacy_->add(change, factor, sums);
    else
      for (std::size_t i = 0; i < change.size(); ++i) sums[i] += factor * static_cast<double>(change[i]);
    offset += change.size();
  }
}

SimulatedRound Simulation::round(const std::atomic<bool>* stop) {
  require(done_ < rounds(), "simulation: all {} rounds that the noise was chosen for are over", done_);
  const Clock::time_point start = Clock::now();
  Communicator& world = grid_.world();
  const std::span<double> extra = std::span(sums_).last(items);
  std::ranges::fill(sums_, 0.0);
  draw();
  for (std::size_t i = at(world.rank()); i < cohort_.size() && !(stop && *stop); i += at(world.size()))
    add_client(cohort_[i]);
  extra[interrupted] = stop && *stop ? 1 : 0;
  const std::span<double> released = std::span(sums_).first(global_.size() + 1);
  if (privacy_) {  // each rank draws the noise of a part
    const std::size_t ranks = at(world.size()), rank = at(world.rank());
    privacy_->add_noise(released, released.size() * rank / ranks, released.size() * (rank + 1) / ranks);
  }
  world.all_reduce(Tensor::borrow(sums_.data(), {static_cast<Index>(sums_.size())}, DType::f64));
  SimulatedRound result{.loss = extra[loss] / std::max(extra[seen], 1.0),
                        .clients = std::lround(extra[clients]),
                        .diverged = std::lround(extra[diverged]),
                        .clip_norm = privacy_ ? privacy_->clip_norm() : 0,
                        .interrupted = extra[interrupted] > 0};
  if (!result.interrupted && (privacy_ || extra[weight] > 0)) {
    if (privacy_)
      privacy_->release(released, update_);
    else
      for (std::size_t i = 0; i < update_.size(); ++i)
        update_[i] = static_cast<float>(sums_[i] / extra[weight]);
    const SiteUpdate mean{
        .weight = privacy_ ? 1 : extra[weight], .read = [&](std::size_t offset, std::span<float> out) {
          std::copy_n(update_.begin() + static_cast<std::ptrdiff_t>(offset), out.size(), out.begin());
        }};
    aggregate_round(*strategy_, policy_, std::span(&mean, 1), global_,
                    {.rate = rate_of_round(schedule_from(settings_.strategy.schedule), done_, rounds())});
  }
  restore();
  for (const auto& [name, layer] : model_.moe_layers()) layer->reset_statistics();
  if (!result.interrupted) ++done_;
  result.seconds = seconds_since(start);
  return result;
}

std::optional<Evaluation> Simulation::evaluate(Evaluator& evaluator) {
  Evaluation result = evaluator.run();
  for (const auto& [name, layer] : model_.moe_layers()) layer->reset_statistics();
  if (result.sequences == 0) return std::nullopt;
  return result;
}

std::string Simulation::save() {
  const ImageShape& image = splits().train.images.shape;
  nlohmann::json metadata{{"seed", recipe_.run.seed},
                          {"tokenizer_hash", corpus_.tokenizer ? corpus_.tokenizer->hash() : ""},
                          {"class_names", corpus_.class_names},
                          {"ranks", grid_.world().size()},
                          {"expert_parallel", 1}};
  if (image.size() > 0) metadata["image_shape"] = {image.height, image.width, image.channels};
  if (privacy_before_ != "[]") metadata["privacy_before"] = nlohmann::json::parse(privacy_before_);
  if (privacy_)
    set_mark(metadata, MarkKind::clients,
             {.count = done_,
              .epsilon = privacy_->epsilon(done_),
              .delta = settings_.client_privacy.delta,
              .noise_multiplier = privacy_->noise_multiplier(),
              .sampling_rate = privacy_->sampling_rate()});
  writer_.save(entries_, {done_, to_toml(recipe_), metadata.dump(),
                          corpus_.tokenizer ? corpus_.tokenizer->bytes() : ""});
  const auto& outcome = writer_.wait();
  require(outcome && outcome->saved, "the model was not saved: {}", outcome ? outcome->message : "");
  return outcome->path;
}

}  // namespace conclave
