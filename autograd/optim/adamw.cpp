#include "autograd/optim/adamw.h"

#include <algorithm>
#include <cmath>

#include "core/kernels/activation.h"
#include "core/kernels/adamw.h"

namespace conclave {

AdamW::AdamW(ParameterSet& parameters, OptimizerOptions options)
    : parameters_(parameters),
      options_(options),
      state_("optimizer", 0, parameters.device()),
      updates_(parameters.device()) {
  const auto& segments = parameters_.segments();
  const Shape numbers{kernels::kAdamWNumbers};
  std::size_t bytes = segments.empty() ? 0 : Arena::room_for(numbers, segments.front().values.dtype());
  for (const auto& segment : segments)
    bytes += (has_average() ? 3 : 2) * Arena::room_for(segment.values.shape(), segment.values.dtype());
  const Tensor& buffers = parameters_.buffers_of_weights();
  const bool averages_buffers = has_average() && buffers.defined();
  if (averages_buffers) bytes += Arena::room_for(buffers.shape(), buffers.dtype());
  state_.seal_for(bytes);
  if (!segments.empty()) numbers_ = state_.zeros(numbers, segments.front().values.dtype());
  for (const auto& segment : segments) {
    first_.push_back(state_.zeros(segment.values.shape(), segment.values.dtype()));
    second_.push_back(state_.zeros(segment.values.shape(), segment.values.dtype()));
    if (!has_average()) continue;
    average_.push_back(state_.empty(segment.values.shape(), segment.values.dtype()));
  }
  if (averages_buffers) buffer_average_ = state_.empty(buffers.shape(), buffers.dtype());
  restart_average();
}

void AdamW::update(std::int64_t step, double learning_rate, double gradient_scale) {
  if (first_.empty()) return;
  // In early steps the decay is smaller, so that the initial values do not dominate the average.
  const double ema =
      has_average()
          ? std::min(options_.ema, (1.0 + static_cast<double>(step)) / (10.0 + static_cast<double>(step)))
          : 0.0;
  kernels::prepare_adamw({.learning_rate = learning_rate,
                          .beta1 = options_.beta1,
                          .beta2 = options_.beta2,
                          .epsilon = options_.epsilon,
                          .adaptive = options_.adaptive,
                          .weight_decay = options_.weight_decay,
                          .gradient_scale = gradient_scale,
                          .step = step,
                          .ema = ema},
                         numbers_);
  if (buffer_average_.defined()) {
    kernels::scale(buffer_average_, ema, buffer_average_);
    kernels::scale(parameters_.buffers_of_weights(), 1 - ema, buffer_average_, Write::accumulate);
  }
  updates_.run([this] {
    for (std::size_t i = 0; i < first_.size(); ++i) {
      const auto& segment = parameters_.segments()[i];
      kernels::adamw(segment.values, segment.gradients, first_[i], second_[i],
                     has_average() ? average_[i] : Tensor(),
                     segment.decay ? kernels::Decay::on : kernels::Decay::off, numbers_);
    }
  });
}

void AdamW::swap_average() {
  for (std::size_t i = 0; i < average_.size(); ++i)
    kernels::swap(parameters_.segments()[i].values, average_[i]);
  if (buffer_average_.defined()) kernels::swap(parameters_.buffers_of_weights(), buffer_average_);
}

void AdamW::restart() {
  for (std::size_t i = 0; i < first_.size(); ++i) {
    first_[i].zero();
    second_[i].zero();
  }
  restart_average();
}

void AdamW::restart_average() {
  for (std::size_t i = 0; i < average_.size(); ++i) average_[i].copy_from(parameters_.segments()[i].values);
  if (buffer_average_.defined()) buffer_average_.copy_from(parameters_.buffers_of_weights());
}

Tensor AdamW::part(const std::vector<Tensor>& flat, const Parameter& parameter) const {
  const std::size_t segment = parameters_.segment_of(parameter);
  return parameters_.part(segment, flat[segment], parameter);
}

double clip_scale(double norm, double clip_norm) {
  return clip_norm > 0 && norm > clip_norm ? clip_norm / norm : 1.0;
}

}  // namespace conclave
