#include "recipes/training/private_training.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <span>

#include "core/kernels/activation.h"
#include "federated/privacy/calibration.h"
#include "federated/privacy/poisson_sample.h"

namespace conclave {
namespace {

// With less noise than this, one step spends an epsilon of hundreds, and the accountants' results are not
// meaningful.
constexpr double kLeastNoise = 0.05;

std::size_t place(Index index) { return static_cast<std::size_t>(index); }

// The expected number of units in a step, at most all of them.
double expected(const PrivacyRecipe& recipe, std::int64_t units) {
  return recipe.rate > 0 ? recipe.rate * static_cast<double>(units)
                         : static_cast<double>(std::min(recipe.batch, units));
}

// The examples of each client that has some; empty if the unit is an example.
std::vector<std::vector<std::int64_t>> examples_by_client(const PrivacyRecipe& recipe,
                                                          const TokenizedSplit& train) {
  std::vector<std::vector<std::int64_t>> examples;
  if (!recipe.of_clients()) return examples;
  require(!train.clients.empty(),
          "privacy.unit = \"client\": the data does not say which client an example belongs to; name the "
          "column of a table that does in data.client_column");
  examples.resize(place(std::ranges::max(train.clients)) + 1);
  for (std::int64_t i = 0; i < train.size(); ++i) examples[place(train.clients[place(i)])].push_back(i);
  std::erase_if(examples, [](const auto& mine) { return mine.empty(); });
  return examples;
}

std::int64_t units_of(const std::vector<std::vector<std::int64_t>>& examples_of,
                      const TokenizedSplit& train) {
  return examples_of.empty() ? train.size() : static_cast<std::int64_t>(examples_of.size());
}

}  // namespace

std::uint64_t secret_seed(Communicator& world, RandomSource& random) {
  std::uint64_t seed = 0;
  if (world.rank() == 0) random.fill(std::as_writable_bytes(std::span(&seed, 1)));
  world.broadcast(Tensor::borrow(&seed, {1}, DType::i64), 0);
  return seed;
}

std::int64_t PrivateTraining::steps_per_epoch(const PrivacyRecipe& recipe, const TokenizedSplit& train) {
  const std::int64_t units = units_of(examples_by_client(recipe, train), train);
  return std::max<std::int64_t>(std::lround(std::ceil(static_cast<double>(units) / expected(recipe, units))),
                                1);
}

PrivateTraining::PrivateTraining(const PrivacyRecipe& recipe, const TokenizedSplit& train, std::int64_t steps,
                                 const ProcessGrid& grid, RandomSource& random)
    : recipe_(recipe),
      grid_(grid),
      random_(random),
      bits_(random),
      examples_of_(examples_by_client(recipe, train)),
      units_(units_of(examples_of_, train)),
      expected_(expected(recipe, units_)),
      rate_(std::min(1.0, recipe.rate > 0 ? recipe.rate : expected_ / static_cast<double>(units_))),
      steps_(steps) {
  one_over_.resize(recipe.of_clients() ? place(train.size()) : 0);
  for (const auto& mine : examples_of_)
    for (const std::int64_t example : mine) one_over_[place(example)] = 1 / static_cast<double>(mine.size());
  require(grid.device() == Device::cpu,
          "privacy.unit = \"{}\": privacy on CUDA devices is not supported yet; train on processors "
          "(--device cpu), or set it to \"none\"",
          recipe.unit);
  require(recipe.delta * static_cast<double>(units_) < 1,
          "privacy.delta = {}: with {} {}, this delta would allow to publish all data of one of them; set it "
          "to less than {:.1e}",
          recipe.delta, units_, recipe.of_clients() ? "clients" : "training examples",
          1 / static_cast<double>(units_));
  // Six standard deviations more than expected, so that no step of a training's life allocates.
  const auto most = static_cast<std::size_t>(expected_ + 6 * std::sqrt(expected_) + 16);
  drawn_.reserve(most);
  factors_.reserve(most);
  const PrivacyBudget budget{recipe.epsilon, recipe.delta};
  noise_ =
      recipe.noise_multiplier > 0 ? recipe.noise_multiplier : least_noise(budget, rate_, steps, kAccountant);
  require(recipe.epsilon == 0 || noise_ >= kLeastNoise,
          "privacy.noise_multiplier = {}: less than {} is no privacy, whatever privacy.epsilon is", noise_,
          kLeastNoise);
  if (recipe.epsilon > 0) steps_ = std::min(steps, most_steps(budget, noise_, rate_, kAccountant));
}

double PrivateTraining::epsilon(std::int64_t steps) const {
  if (noise_ < kLeastNoise && steps > 0) return std::numeric_limits<double>::infinity();
  return epsilon_of({noise_, rate_, steps}, recipe_.delta, kAccountant);
}

const std::string& PrivateTraining::name() {
  if (!name_.empty()) return name_;
  name_ = from_first(grid_.world(), [&] {
    std::array<std::uint64_t, 2> drawn;
    random_.fill(std::as_writable_bytes(std::span(drawn)));
    return fmt::format("{:016x}{:016x}", drawn[0], drawn[1]);
  });
  return name_;
}

void PrivateTraining::for_batches(const DynamicBatcher& batcher, std::uint64_t seed,
                                  const std::function<void(const Batch&)>& each) {
  Communicator& world = grid_.world();
  const Index me = world.rank(), ranks = world.size();
  poisson_sample(bits_, rate_, me, units_, ranks, drawn_);
  examples_.clear();
  for (const std::int64_t client : drawn_)
    if (!examples_of_.empty())
      examples_.insert(examples_.end(), examples_of_[place(client)].begin(),
                       examples_of_[place(client)].end());
  enum Count : Index { sequences, rows, images, left, counts };
  counts_.resize(place(ranks * counts));
  std::span<const std::int64_t> rest(examples_of_.empty() ? drawn_ : examples_);
  for (bool more = true; more;) {
    rest = rest.subspan(batcher.fill_with(rest, seed, 0, batch_));
    std::array<std::int64_t, counts> mine{batch_.local_sequences(), batch_.local_tokens(),
                                          batch_.local_images(), static_cast<std::int64_t>(rest.size())};
    world.all_gather(Tensor::borrow(mine.data(), {counts}, DType::i64),
                     Tensor::borrow(counts_.data(), {ranks, counts}, DType::i64));
    const auto sum = [&](Index what, Index of) {
      std::int64_t total = 0;
      for (Index rank = 0; rank < of; ++rank) total += counts_[place(rank * counts + what)];
      return total;
    };
    batch_.first_sequence = sum(sequences, me), batch_.global_sequences = sum(sequences, ranks);
    batch_.first_token = sum(rows, me), batch_.global_tokens = sum(rows, ranks);
    batch_.global_images = sum(images, ranks);
    if (batch_.global_sequences > 0) each(batch_);
    more = sum(left, ranks) > 0;
  }
}

void PrivateTraining::add_clipped(ExampleGradients& gradients) {
  const std::span<double> squares = gradients.squares();
  grid_.world().all_reduce(Tensor::borrow(squares.data(), {static_cast<Index>(squares.size())}, DType::f64));
  factors_.resize(squares.size());
  clip_factors(squares, recipe_.clip_norm, factors_);
  if (!one_over_.empty()) {
    shares_.assign(squares.size(), 0.0);
    for (std::size_t i = 0; i < batch_.examples.size(); ++i)
      shares_[place(batch_.first_sequence) + i] = one_over_[place(batch_.examples[i])];
    grid_.world().all_reduce(
        Tensor::borrow(shares_.data(), {static_cast<Index>(shares_.size())}, DType::f64));
    for (std::size_t i = 0; i < factors_.size(); ++i) factors_[i] *= shares_[i];
  }
  gradients.add_clipped(factors_);
}

SumNoise PrivateTraining::noise_of(const ParameterSet& parameters) const {
  Index coordinates = 0;
  for (const Parameter* parameter : parameters.parameters()) coordinates += parameter->global_shape().numel();
  try {
    return SumNoise({recipe_.clip_norm, noise_, coordinates});
  } catch (const Error& error) {
    fail(
        "privacy: noise of {:.4g} x {} for {} parameters cannot be drawn ({}); raise privacy.epsilon, or "
        "lower "
        "privacy.noise_multiplier",
        noise_, recipe_.clip_norm, coordinates, error.what());
  }
}

void PrivateTraining::release(const ParameterSet& parameters) {
  require(released_ < steps_,
          "privacy: all {} steps that the noise was chosen for were taken; raise train.steps or "
          "train.epochs, and with them the noise, or privacy.epsilon",
          released_);
  ++released_;
  name_.clear();
  const SumNoise noise = noise_of(parameters);
  // The ranks that have a parameter draw the noise for a part of it each, and send that part to the others.
  for (const Parameter* parameter : parameters.parameters()) {
    Communicator& owners = parameter->sharded ? grid_.data_group() : grid_.world();
    const Index elements = parameter->value.numel(), ranks = owners.size();
    const Tensor all = parameter->slot.gradient.reshape({elements});
    const auto part = [&](Index rank) {
      return all.rows(elements * rank / ranks, elements * (rank + 1) / ranks);
    };
    noise.add_to(random_, part(owners.rank()).span<float>());
    for (int rank = 0; rank < ranks && ranks > 1; ++rank)
      if (part(rank).numel() > 0) owners.broadcast(part(rank), rank);
  }
  for (const auto& segment : parameters.segments())
    kernels::scale(segment.gradients, 1 / expected_, segment.gradients);
}

}  // namespace conclave
