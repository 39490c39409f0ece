#include "parallel/moe/grad_norm.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace conclave {
namespace {

constexpr double kMemory = 0.9;      // decay of the running means per step
constexpr double kWeightRate = 0.5;  // step of a log weight per unit of its error
constexpr double kFirstRate = 0.5;   // step of a log factor in the first correction for a batch

double mean(std::span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

void follow(double& running, double value) {
  running = running > 0 ? kMemory * running + (1 - kMemory) * value : value;
}

// log of a value relative to the mean, clipped so that one step stays small.
double log_excess(double value, double mean) { return std::log(std::clamp(value / mean, 1 / 3.0, 3.0)); }

// The mean of value(e) over the experts.
template <class Value>
double mean_of(std::size_t experts, Value value) {
  double mean = 0;
  for (std::size_t e = 0; e < experts; ++e) mean += value(e) / static_cast<double>(experts);
  return mean;
}

// factor_e *= exp(change(e)); then centred, because only ratios matter, and bounded.
template <class Change>
void move(const Tensor& factor, Change change) {
  const auto values = factor.span<float>();
  double centre = 0;
  for (std::size_t e = 0; e < values.size(); ++e) {
    values[e] *= static_cast<float>(std::exp(change(e)));
    centre += std::log(static_cast<double>(values[e])) / static_cast<double>(values.size());
  }
  constexpr double most = GradNormBalancer::kMostBias;
  for (float& value : values)
    value =
        static_cast<float>(std::exp(std::clamp(std::log(static_cast<double>(value)) - centre, -most, most)));
}

Tensor ones(Index experts) {
  Tensor tensor = Tensor::empty({experts}, DType::f32);
  tensor.fill(1);
  return tensor;
}

}  // namespace

GradNormBalancer::GradNormBalancer(Index experts, const BalancerOptions& options)
    : rate_(options.grad_norm_rate),
      alpha_(options.grad_norm_alpha),
      rounds_(options.grad_norm_rounds),
      moves_weights_(options.grad_norm_moves != "bias"),
      moves_selection_(options.grad_norm_moves != "weights"),
      factor_(ones(experts)),
      training_factor_(Tensor::empty({experts}, DType::f32)),
      batch_factor_(ones(experts)),
      weights_(Tensor::empty({experts}, DType::f64)),
      intensity_(Tensor::empty({experts}, DType::f64)),
      loss_(Tensor::empty({experts}, DType::f64)),
      first_loss_(Tensor::empty({experts}, DType::f64)),
      target_(Tensor::empty({experts}, DType::f64)),
      wished_(static_cast<std::size_t>(experts)),
      load_(static_cast<std::size_t>(experts)),
      error_(static_cast<std::size_t>(experts)),
      step_(static_cast<std::size_t>(experts)) {
  GradNormBalancer::restart();
}

std::vector<Balancer::State> GradNormBalancer::state() const {
  return {{"selection_factor", factor_, false},
          {"training_factor", training_factor_, true},
          {"gradient_weight", weights_, true},
          {"gradient_per_row", intensity_, true},
          {"loss", loss_, true},
          {"first_loss", first_loss_, true},
          {"gradient_target", target_, true}};
}

void GradNormBalancer::restart() {
  training_factor_.copy_from(factor_);
  for (const Tensor* values : {&weights_, &target_}) values->fill(1);
  for (const Tensor* values : {&intensity_, &loss_, &first_loss_}) values->fill(0);
  std::ranges::fill(wished_, 0);
}

kernels::Selection GradNormBalancer::select_batch(const CountLoad& count, bool training) {
  if (!moves_selection_) return selection();
  batch_factor_.copy_from(training ? training_factor_ : factor_);
  const kernels::Selection corrected{{}, batch_factor_};
  const auto weights = weights_.span<double>(), intensity = intensity_.span<double>(),
             target = target_.span<double>();
  response_ = kFirstRate;
  for (Index round = 0; round < std::max<Index>(rounds_, 1); ++round) {
    count(corrected, load_);
    if (round == 0 && training) std::ranges::transform(wished_, load_, wished_.begin(), std::plus{});
    if (round == rounds_) break;
    // The expected gradient norm of each expert, divided by its target.
    const auto expected = [&](std::size_t e) {
      const double per_row = training && intensity[e] > 0 ? weights[e] * intensity[e] / target[e] : 1.0;
      return per_row * static_cast<double>(load_[e]);
    };
    const double middle = mean_of(load_.size(), expected);
    if (middle == 0) break;
    // How far loads follow a factor depends on how sure the router is. The last correction measured it, and
    // sets the length of the next one (a secant step with one slope for all experts).
    double moved = 0, followed = 0;
    for (std::size_t e = 0; e < load_.size(); ++e) {
      const double error = log_excess(expected(e), middle);
      followed += step_[e] * (error - error_[e]);
      moved += step_[e] * step_[e];
      error_[e] = error;
    }
    if (round > 0 && moved > 0)
      response_ = std::clamp(moved / std::max(followed, 1e-9), response_ / 4, 2 * response_);
    for (std::size_t e = 0; e < load_.size(); ++e) step_[e] = -response_ * error_[e];
    move(batch_factor_, [&](std::size_t e) { return step_[e]; });
  }
  return corrected;
}

void GradNormBalancer::update(const ExpertSignals& signals) {
  const auto weights = weights_.span<double>(), intensity = intensity_.span<double>(),
             target = target_.span<double>(), loss = loss_.span<double>(), first = first_loss_.span<double>();
  const std::size_t experts = weights.size();
  double rows = 0, norms = 0;
  for (std::size_t e = 0; e < experts; ++e) {
    rows += static_cast<double>(signals.load[e]);
    norms += signals.gradient_norm[e];
  }
  if (rows == 0 || norms == 0) {
    std::ranges::fill(wished_, 0);
    return;
  }
  for (std::size_t e = 0; e < experts; ++e) {
    if (signals.load[e] == 0) continue;
    follow(intensity[e], signals.gradient_norm[e] / static_cast<double>(signals.load[e]) * rows / norms);
    follow(loss[e], signals.loss[e]);
    if (first[e] == 0) first[e] = signals.loss[e];
  }

  // r^alpha; an expert that has not been trained yet gets the mean.
  double remaining = 0, trained = 0;
  for (std::size_t e = 0; e < experts; ++e)
    if (first[e] > 0) remaining += loss[e] / first[e], ++trained;
  for (std::size_t e = 0; e < experts; ++e)
    target[e] = first[e] > 0 ? std::pow(loss[e] / first[e] * trained / remaining, alpha_) : 1.0;
  const double scale = mean(target);
  for (double& value : target) value /= scale;

  if (moves_weights_) {
    const auto error = [&](std::size_t e) {
      return intensity[e] > 0 ? std::log(weights[e] * intensity[e] / target[e]) : 0.0;
    };
    for (std::size_t e = 0; e < experts; ++e) weights[e] *= std::exp(-kWeightRate * error(e));
    const double middle = mean(weights);
    for (double& weight : weights) weight = std::clamp(weight / middle, 1 / kMostWeight, kMostWeight);
  }

  if (moves_selection_) {
    const auto norm = [&](std::size_t e) {
      return weights[e] * intensity[e] * static_cast<double>(wished_[e]);
    };
    const double middle = mean_of(experts, norm);
    if (middle > 0)
      move(training_factor_, [&](std::size_t e) {
        return -rate_ * response_ * std::clamp(norm(e) / middle - target[e], -1.0, 1.0);
      });
    std::ranges::fill(wished_, 0);
    factor_.copy_from(training_factor_);
  }
}

void GradNormBalancer::calibrate(std::span<const Index> load, Index number) {
  const double middle = mean_load(load);
  if (middle == 0) return;
  // Steps that fall as 1 / number average out the randomness of batches (Robbins and Monro 1951).
  const double rate = 2.0 / static_cast<double>(number + 4);
  move(factor_, [&](std::size_t e) { return -rate * log_excess(static_cast<double>(load[e]), middle); });
}

}  // namespace conclave
